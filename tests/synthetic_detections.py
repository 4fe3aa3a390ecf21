"""Detections without a detector, alone and in padded batches, for the tests of the mask network.

Letters: B images, Q queries, d_l width of level l.
"""

import torch

from mask_frozen_detr import MaskFrozenDetr
from mask_frozen_detr.detectors import FrozenDetector
from mask_frozen_detr.detectors.base import Detections, DetectorShapes
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_detections(
    shapes: DetectorShapes, size: tuple[int, int], queries: int, generator: torch.Generator
) -> Detections:
    """Random detections of one unpadded image of `size` (height, width)."""

    def level(channels: int, stride: int) -> torch.Tensor:
        return torch.randn(1, channels, -(-size[0] // stride), -(-size[1] // stride), generator=generator)

    centres = torch.rand(1, queries, 2, generator=generator)
    sides = 0.1 + 0.8 * torch.rand(1, queries, 2, generator=generator)
    return Detections(
        queries=torch.randn(1, queries, shapes.query_width, generator=generator),
        logits=torch.randn(1, queries, shapes.num_classes, generator=generator),
        boxes=torch.cat([centres, sides], -1),  # some reach beyond the image
        features=[level(c, stride) for c, stride in zip(shapes.feature_widths, shapes.strides, strict=True)],
        stem=None if shapes.stem_width is None else level(shapes.stem_width, shapes.stem_stride),
        pixels=level(3, 1),
    )


def pad_batch(
    alone: list[Detections],
    sizes: list[tuple[int, int]],
    padded: tuple[int, int],
    shapes: DetectorShapes,
    generator: torch.Generator,
) -> tuple[Detections, torch.Tensor]:
    """The same images in one batch of `padded` (height, width), with garbage in the padding, and the pixel mask."""

    def join(maps: list[torch.Tensor], stride: int) -> torch.Tensor:
        shape = (len(maps), maps[0].shape[1], -(-padded[0] // stride), -(-padded[1] // stride))
        joined = 50 * torch.randn(shape, generator=generator)
        for b, one in enumerate(maps):
            joined[b, :, : one.shape[2], : one.shape[3]] = one[0]
        return joined

    pixel_mask = torch.zeros(len(alone), *padded, dtype=torch.long)
    for b, (height, width) in enumerate(sizes):
        pixel_mask[b, :height, :width] = 1
    stems = [one.stem for one in alone if one.stem is not None]
    batch = Detections(
        queries=torch.cat([one.queries for one in alone]),
        logits=torch.cat([one.logits for one in alone]),
        boxes=torch.cat([one.boxes for one in alone]),
        features=[join([one.features[level] for one in alone], stride) for level, stride in enumerate(shapes.strides)],
        stem=join(stems, shapes.stem_stride) if stems else None,
        pixels=join([one.pixels for one in alone if one.pixels is not None], 1),
    )
    return batch, pixel_mask


def scatter_parameters(module: torch.nn.Module, seed: int = 0) -> None:
    """Every parameter a random one: nothing passes because a part starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            normalisation = parameter.ndim == 1 and name.endswith("weight")
            scale = parameter.shape[1:].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(normalisation + scale * torch.randn(parameter.shape, generator=generator))


def build_network(config: MaskNetworkConfig, shapes: DetectorShapes) -> MaskNetwork:
    """A network whose every parameter is a random one, to be evaluated."""
    network = MaskNetwork(config, shapes).eval()
    scatter_parameters(network)
    return network


def all_queries(detections: Detections) -> tuple[torch.Tensor, torch.Tensor]:
    """image_index and query_index of every query of every image."""
    images, queries = detections.queries.shape[:2]
    return torch.arange(images).repeat_interleave(queries), torch.arange(queries).repeat(images)


def scattered(detector: FrozenDetector, config: MaskNetworkConfig) -> MaskFrozenDetr:
    """A model whose mask network has random parameters alone."""
    model = MaskFrozenDetr.build(detector, config)
    scatter_parameters(model.network)
    return model
