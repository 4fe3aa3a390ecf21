"""Images of several sizes in one batch."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from synthetic_detections import scattered

from mask_frozen_detr import MaskFrozenDetr, MaskNetworkConfig
from mask_frozen_detr.detectors import Detections, DetectorInfo, FrozenDetector, Identity
from mask_frozen_detr.detectors.preprocessing import ShortestEdge, collate_images
from mask_frozen_detr.results.box_inputs import UNKNOWN
from mask_frozen_detr.results.given_boxes import answer_boxes
from mask_frozen_detr.results.inference import segment

# --- padded batches ---


def cut(detections: Detections, b: int, sizes: list[tuple[int, int]], strides: tuple[int, ...]) -> Detections:
    """What the detector found in image b of a padded batch, as of the image alone."""
    height, width = sizes[b]

    def part(level: torch.Tensor, stride: int) -> torch.Tensor:
        return level[b : b + 1, :, : height // stride, : width // stride]

    return Detections(
        detections.queries[b : b + 1],
        detections.logits[b : b + 1],
        detections.boxes[b : b + 1],
        [part(level, stride) for level, stride in zip(detections.features, strides, strict=True)],
        None if detections.stem is None else part(detections.stem, 4),
    )


def test_an_image_in_a_padded_batch_is_the_image_alone(padding, tiny_network):
    """The mask network, on what one and the same detector run has found: padding reaches no mask."""
    model = scattered(padding, tiny_network)
    generator = torch.Generator().manual_seed(0)
    sizes = [(128, 192), (192, 128)]
    images = [torch.randn(3, *size, generator=generator) for size in sizes]
    pixel_values, pixel_mask = collate_images(images)
    assert pixel_values.shape == (2, 3, 192, 192)
    detections = padding(pixel_values, pixel_mask)
    queries = torch.arange(15)
    together = model.network(detections, pixel_mask, torch.arange(2).repeat_interleave(15), queries.repeat(2))
    for b, (height, width) in enumerate(sizes):
        alone = model.network(
            cut(detections, b, sizes, padding.shapes.strides),
            torch.ones(1, height, width, dtype=torch.long),
            torch.zeros(15, dtype=torch.long),
            queries,
        )
        part = slice(15 * b, 15 * (b + 1))
        torch.testing.assert_close(together.logits[part], alone.logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(together.iou[part], alone.iou, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(together.frames[part], alone.frames)


class Pools(FrozenDetector):
    """Its maps are the image's own pixels, averaged: what padding must not touch is there to see."""

    def __init__(self):
        preprocessing = ShortestEdge(64, 128)
        super().__init__(
            torch.nn.Linear(1, 1),
            DetectorInfo(Identity("pools", None, "0", "none"), ["disc", "ring", "star"], preprocessing),
        )

    def save(self, folder: Path) -> None:
        raise AssertionError("nothing here is fine-tuned")

    def detect(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None, targets=None) -> Detections:
        generator = torch.Generator().manual_seed(0)
        B, Q = len(pixel_values), 6
        wide = pixel_values.repeat(1, 6, 1, 1)[:, :16] * torch.linspace(-1, 1, 16)[:, None, None]
        boxes = torch.cat(
            [torch.rand(1, Q, 2, generator=generator), 0.1 + torch.rand(1, Q, 2, generator=generator)], -1
        )
        return Detections(
            torch.randn(1, Q, 16, generator=generator).expand(B, -1, -1),
            torch.randn(1, Q, 3, generator=generator).expand(B, -1, -1),
            boxes.expand(B, -1, -1),
            [F.avg_pool2d(wide, stride) for stride in (8, 16, 32)],
            F.avg_pool2d(wide, 4)[:, :8],
        )


def model_and_images(
    network: MaskNetworkConfig, sizes: list[tuple[int, int]]
) -> tuple[MaskFrozenDetr, list[Image.Image], list[torch.Tensor]]:
    """A model on `Pools`, images of these (height, width), and the same prepared for it."""
    model = scattered(Pools(), network)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
    return model, images, [model.detector.info.preprocessing(image) for image in images]


def test_full_resolution_masks_of_a_padded_batch(tiny_network):
    """All the way to the pixels of images of other sizes than the network's input."""
    # Inputs of 64 × 96, 96 × 64 and 64 × 64: strides divide them, so that no cell is half an image's and half padding.
    sizes = [(80, 120), (144, 96), (50, 50)]
    model, images, tensors = model_and_images(tiny_network, sizes)
    assert [tuple(tensor.shape[1:]) for tensor in tensors] == [(64, 96), (96, 64), (64, 64)]
    together = segment(model.detector, model.network.eval(), *collate_images(tensors), sizes, 18)
    for image, size, found in zip(images, sizes, together, strict=True):
        alone = model.predict(image, 0.0)
        assert len(alone) == len(found) == 18
        assert (found.height, found.width) == size
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-4)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-4)
        assert 0.02 < alone.masks.mean() < 0.98
        assert (found.masks != alone.masks).mean() < 1e-3  # a pixel or two at the very threshold may flip


def test_given_boxes_in_a_padded_batch(tiny_network):
    """Boxes of images of several sizes, one of them without any, side by side."""
    sizes = [(80, 120), (50, 50), (144, 96)]
    model, images, tensors = model_and_images(tiny_network, sizes)
    boxes = [
        np.array(b, np.float32).reshape(-1, 4) for b in ([[5, 9, 60.5, 70], [0, 0, 120, 80]], [], [[9, 40, 90, 140]])
    ]
    labels = [[0, UNKNOWN], [], [2]]
    answers = answer_boxes(model.detector, model.network.eval(), *collate_images(tensors), sizes, boxes, labels)
    assert [len(of_image.boxes) for of_image in answers] == [2, 0, 1]
    for image, its, names, of_image in zip(images, boxes, ([0, None], [], [2]), answers, strict=True):
        found = of_image.instances((image.height, image.width), model.class_names, False)
        alone = model.predict(image, boxes=its, labels=names)
        assert alone.labels.tolist() == found.labels.tolist()
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-4)
        assert (found.masks != alone.masks).sum() <= 2
