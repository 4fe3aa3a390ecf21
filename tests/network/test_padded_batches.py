"""An image's masks are the same alone and in a padded batch, whatever the network's parts."""

from dataclasses import replace

import pytest
import torch
from small_networks import CONFIG, QUERIES, SMALL, batch, generator
from synthetic_detections import all_queries, build_network, draw_detections

from mask_frozen_detr.network import MaskNetwork, padding, training_free
from mask_frozen_detr.ops.padding import valid_cells


def worst_padding_error(network: MaskNetwork, sizes: list[tuple[int, int]], padded: tuple[int, int]) -> float:
    """Largest difference between the masks of images alone and of the same images in one padded batch."""
    alone, together, pixel_mask = batch(network.shapes, sizes, padded)
    with torch.no_grad():
        found = network(together, pixel_mask, *all_queries(together))
        worst = 0.0
        for k, (one, size) in enumerate(zip(alone, sizes, strict=True)):
            expected = network(one, torch.ones(1, *size), *all_queries(one))
            part = slice(k * QUERIES, (k + 1) * QUERIES)
            logits = found.logits[part]
            if network.config.roi_align:
                assert torch.allclose(found.frames[part], expected.frames)
            else:
                logits = logits[:, : expected.logits.shape[1], : expected.logits.shape[2]]
            assert expected.logits.std() > 0.05
            worst = max(worst, (logits - expected.logits).abs().max().item())
            if found.iou is not None:
                worst = max(worst, (found.iou[part] - expected.iou).abs().max().item())
    return worst


SIZES = {
    "whole cells": ([(64, 96), (96, 64), (32, 64)], (96, 96)),
    "one fills the batch": ([(64, 96), (96, 128)], (96, 128)),
    "broken cells": ([(70, 101), (57, 90)], (128, 128)),
    "broken padding": ([(72, 64), (48, 101), (90, 37)], (97, 101)),
}


@pytest.mark.parametrize(("sizes", "padded"), SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("kind", ["deformable", "swin", "convnext", "none"])
def test_an_image_alone_and_in_a_padded_batch_has_the_same_masks(kind, sizes, padded):
    config = replace(CONFIG, image_encoder=kind, image_layers=0 if kind == "none" else 2, query_o2o=True)
    assert worst_padding_error(build_network(config, SMALL), sizes, padded) < 1e-4


@pytest.mark.parametrize(("sizes", "padded"), SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        (replace(CONFIG, box_encoder="swin"), SMALL),
        (replace(CONFIG, box_encoder="convnext", head="segmenter", upsample=2), SMALL),
        (replace(CONFIG, box_encoder="convnext", box_norm="batch", box_pyramid=True, roi_samples=1), SMALL),
        (CONFIG, replace(SMALL, stem_width=None)),
        (CONFIG, replace(SMALL, feature_widths=(16,), strides=(32,))),
        (CONFIG, replace(SMALL, strides=(4, 8, 16))),
        (replace(CONFIG, neck=False), replace(SMALL, stem_width=16)),
        (replace(CONFIG, neck=False), SMALL),
        (training_free(), replace(SMALL, stem_width=16)),
        (training_free(roi_align=False), replace(SMALL, stem_width=16)),
        (training_free(roi_align=False, stem=False), SMALL),
    ],
)
def test_padding_changes_nothing_with_other_parts(config, shapes, sizes, padded):
    assert worst_padding_error(build_network(config, shapes), sizes, padded) < 1e-4


def test_the_padding_test_can_fail(monkeypatch):
    """Where a network takes the padding's cells for the image's, masks change."""
    monkeypatch.setattr(padding, "valid_cells", lambda mask, *_: torch.ones_like(valid_cells(mask, *_)))
    assert worst_padding_error(build_network(CONFIG, SMALL), *SIZES["whole cells"]) > 0.1


@pytest.mark.parametrize("stem_from", ["auto", "pixels"])
def test_without_a_mask_nothing_is_padded(stem_from):
    """The same bits as by a mask of ones, with no look at a number: so that export can trace it."""
    network = build_network(replace(CONFIG, stem_from=stem_from), SMALL)
    detections = draw_detections(SMALL, (70, 101), QUERIES, generator())
    index = all_queries(detections)
    with torch.no_grad():
        found, expected = (network(detections, mask, *index) for mask in (None, torch.ones(1, 70, 101)))
    for name in ("logits", "iou", "frames"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    with pytest.raises(ValueError, match="found None, and detections without pixels"):
        network(replace(detections, pixels=None), None, *index)


def test_what_the_network_was_built_for_must_be_there():
    detections, mask = draw_detections(SMALL, (64, 64), QUERIES, generator()), torch.ones(1, 64, 64)
    index = all_queries(detections)
    with pytest.raises(ValueError, match="the detections have no stem"):
        build_network(CONFIG, SMALL)(replace(detections, stem=None), mask, *index)
    with pytest.raises(ValueError, match="learns from the pixels, but the detections have none"):
        build_network(replace(CONFIG, stem_from="pixels"), SMALL)(replace(detections, pixels=None), mask, *index)
