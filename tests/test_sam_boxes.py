"""SAM prompted with the detector's boxes: with a tiny SAM of random weights, at sizes where it only has to run."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

from benchmarks import sam_boxes
from mask_frozen_detr import MaskFrozenDetr, evaluate
from mask_frozen_detr.data.images import read_image

SIDE = 64


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam")
    vision = {
        "hidden_size": 16,
        "output_channels": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 16,
        "global_attn_indexes": [0],
        "window_size": 2,
        "num_pos_feats": 8,
        "mlp_dim": 16,
    }
    prompt = {"hidden_size": 16, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 16,
        "mlp_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    }
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    SamModel(config).save_pretrained(folder)
    size = {"longest_edge": SIDE}
    processor = SamImageProcessor(
        size=size, pad_size={"height": SIDE, "width": SIDE}, mask_size=size, mask_pad_size={"height": 16, "width": 16}
    )
    SamProcessor(processor).save_pretrained(folder)
    return folder


def test_it_runs_and_its_boxes_are_the_detectors(
    sam_folder, squashing, squashing_folder, scenes, scenes_folder, tmp_path
):
    output = tmp_path / "sam.json"
    command = [str(squashing_folder), str(scenes_folder), "--sam", str(sam_folder), "--output", str(output)]
    sam_boxes.main([*command, "--boxes", "7"])
    found = json.loads(output.read_text())
    expected = evaluate(MaskFrozenDetr.training_free(squashing), scenes[1])
    assert found["images"] == 5
    assert found["box"]["AP"] == pytest.approx(expected.box["AP"], abs=1e-6, nan_ok=True)
    assert found["box"]["AR100"] == pytest.approx(expected.box["AR100"], abs=1e-6)
    assert found["parameters"] == sum(p.numel() for p in SamModel.from_pretrained(sam_folder).parameters())


def test_masks_land_in_their_pictures(sam_folder, scenes):
    """A piece at a time or all at once: the same masks, of the picture's size."""
    image = read_image(scenes[1].images[0].path)
    boxes = torch.tensor([[10.0, 20, 60, 90], [50, 50, 120, 110], [0, 0, 30, 30]])
    pieces = list(sam_boxes.BoxPrompted(str(sam_folder), "cpu", 2)(image, boxes))
    whole = list(sam_boxes.BoxPrompted(str(sam_folder), "cpu", 8)(image, boxes))
    assert len(pieces) == 3
    for (mask, iou), (same, estimate) in zip(pieces, whole, strict=True):
        assert mask.shape == (image.height, image.width)
        assert np.mean(mask != same) < 1e-3
        assert iou == pytest.approx(estimate, abs=1e-5)


def decode(segmentation: Any, image: Image.Image) -> np.ndarray:
    """Polygons or compressed run lengths, by pycocotools."""
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, image.height, image.width))
    return coco_mask.decode(segmentation).astype(bool)


@pytest.mark.parametrize(("shift", "expected"), [(0, 100.0), (40, 0.0)])
def test_true_masks_of_true_boxes_get_all_there_is(shift, expected, squashing, scenes, monkeypatch):
    """And masks beside their objects nothing, while box AP stays."""
    data = scenes[1]
    names = squashing.info.class_names
    records = iter(data.images)
    masks: list[np.ndarray] = []

    def detect(_detector: object, image: Image.Image, _count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        known = [one for one in next(records).annotations if data.categories[one.category_id] in names]
        masks[:] = [decode(one.segmentation, image) for one in known]
        boxes = torch.tensor([one.bbox for one in known]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [names.index(data.categories[one.category_id]) for one in known]
        return boxes, torch.full((len(known),), 0.9), torch.tensor(labels)

    def prompted(_image: Image.Image, boxes: torch.Tensor) -> Iterator[tuple[np.ndarray, float]]:
        assert len(boxes) == len(masks)
        yield from ((np.roll(mask, shift, 1), 0.5) for mask in masks)

    monkeypatch.setattr(sam_boxes, "detect", detect)
    found = sam_boxes.measure(squashing, data, prompted, 100)  # type: ignore[arg-type]
    assert found["box"]["AP"] == pytest.approx(100.0)
    by_score, by_product = (found[key]["AP"] for key in found if key.startswith("mask"))
    assert by_score == by_product == pytest.approx(expected, abs=3)
