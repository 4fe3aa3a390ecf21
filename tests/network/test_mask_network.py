"""The mask network as a whole: size, any detector's shapes, padding, where RoIAlign lands, gradients, refusals."""

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from synthetic_detections import all_queries, draw_detections, pad_batch, scatter_parameters

from mask_frozen_detr.detectors.base import Detections, DetectorShapes
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig, mask_network, padding, training_free
from mask_frozen_detr.ops.padding import valid_cells
from mask_frozen_detr.paper.complexity import as_written, count_macs
from mask_frozen_detr.results.paste import paste_probabilities

H_DETR = DetectorShapes(256, (256,) * 4, (8, 16, 32, 64), 256, 80)
SMALL = DetectorShapes(16, (16, 16, 16), (8, 16, 32), 12, 7)
# Small, with all of the default's parts.
CONFIG = MaskNetworkConfig(mask_width=8, roi_size=8)
QUERIES = 5


def build(config: MaskNetworkConfig, shapes: DetectorShapes) -> MaskNetwork:
    network = MaskNetwork(config, shapes).eval()
    scatter_parameters(network)
    return network


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_default_network_has_the_papers_parameters():
    network = MaskNetwork(MaskNetworkConfig(), H_DETR)
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_261_712


@pytest.mark.parametrize("roi_align", [True, False])
def test_training_free_has_no_parameters(roi_align):
    network = MaskNetwork(training_free(roi_align=roi_align), H_DETR)
    assert not list(network.parameters())
    assert not network.config.trainable
    assert MaskNetworkConfig().trainable


# --- any detector ---

ANY_SHAPES = {
    "d = 96, two levels at 16 and 32, no stem": DetectorShapes(96, (96, 96), (16, 32), None, 4),
    "d = 64, narrower stem": DetectorShapes(64, (64,) * 4, (8, 16, 32, 64), 24, 91),
    "queries wider than features": DetectorShapes(384, (256,) * 3, (8, 16, 32), None, 80),
    "a single level at stride 32": DetectorShapes(32, (32,), (32,), None, 20),
    "a single level at stride 32 and a stem": DetectorShapes(32, (32,), (32,), 16, 20),
    "levels of different widths": DetectorShapes(16, (24, 16, 40), (8, 16, 32), 8, 3),
    "five levels from stride 4": DetectorShapes(16, (16,) * 5, (4, 8, 16, 32, 64), None, 3),
    "a width that 8 does not divide": DetectorShapes(20, (20, 20), (8, 16), 10, 3),
}


@pytest.mark.parametrize("shapes", ANY_SHAPES.values(), ids=ANY_SHAPES.keys())
@pytest.mark.parametrize("size", [(64, 96), (75, 61)])
def test_any_detector(shapes, size):
    detections = draw_detections(shapes, size, QUERIES, generator())
    network = build(replace(CONFIG, mask_width=16), shapes)
    output = network(detections, torch.ones(1, *size), *all_queries(detections))
    assert output.logits.shape == (QUERIES, 8, 8)
    assert output.iou is not None
    assert output.iou.shape == (QUERIES, shapes.num_classes)
    assert output.frames.shape == (QUERIES, 4)
    assert (output.frames[:, 2:] >= output.frames[:, :2]).all()
    assert output.frames.min() >= 0
    assert (output.frames <= torch.tensor([size[1], size[0]] * 2)).all()
    assert output.logits.isfinite().all()
    (output.logits.sum() + output.iou.sum()).backward()


def test_masks_are_those_of_the_chosen_queries():
    detections, pixel_mask = batch(SMALL, [(64, 64), (64, 64)], (64, 64))[1:]
    network = build(CONFIG, SMALL)
    whole = network(detections, pixel_mask, *all_queries(detections))
    some = network(detections, pixel_mask, torch.tensor([0, 1, 1]), torch.tensor([4, 3, 0]))
    for name in ("logits", "iou", "frames"):
        assert torch.allclose(getattr(some, name), getattr(whole, name)[[4, 8, 5]], atol=1e-5)


# --- padding ---


def batch(shapes: DetectorShapes, sizes: list[tuple[int, int]], padded: tuple[int, int]):
    alone = [draw_detections(shapes, size, QUERIES, generator(k)) for k, size in enumerate(sizes)]
    return alone, *pad_batch(alone, sizes, padded, shapes, generator(99))


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
    assert worst_padding_error(build(config, SMALL), sizes, padded) < 1e-4


@pytest.mark.parametrize(("sizes", "padded"), SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        (replace(CONFIG, box_encoder="swin"), SMALL),
        (replace(CONFIG, box_encoder="convnext", head="segmenter"), SMALL),
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
    assert worst_padding_error(build(config, shapes), sizes, padded) < 1e-4


def test_the_padding_test_can_fail(monkeypatch):
    """Where a network takes the padding's cells for the image's, masks change."""
    monkeypatch.setattr(padding, "valid_cells", lambda mask, *_: torch.ones_like(valid_cells(mask, *_)))
    assert worst_padding_error(build(CONFIG, SMALL), *SIZES["whole cells"]) > 0.1


@pytest.mark.parametrize("stem_from", ["auto", "pixels"])
def test_without_a_mask_nothing_is_padded(stem_from):
    """The same bits as by a mask of ones, with no look at a number: so that export can trace it."""
    network = build(replace(CONFIG, stem_from=stem_from), SMALL)
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
        build(CONFIG, SMALL)(replace(detections, stem=None), mask, *index)
    with pytest.raises(ValueError, match="learns from the pixels, but the detections have none"):
        build(replace(CONFIG, stem_from="pixels"), SMALL)(replace(detections, pixels=None), mask, *index)


# --- where RoIAlign lands ---


def coordinate_map(stride: int, size: tuple[int, int], channels: int) -> torch.Tensor:
    """Channel 0 holds the x and channel 1 the y of each cell's centre, in pixels; channel 2 holds ones."""
    maps = torch.zeros(1, channels, size[0] // stride, size[1] // stride)
    maps[0, 0] = (torch.arange(maps.shape[3]) + 0.5) * stride
    maps[0, 1] = ((torch.arange(maps.shape[2]) + 0.5) * stride)[:, None]
    maps[0, 2] = 1
    return maps


def coordinates(stride: int | None, padded: bool) -> tuple[Detections, DetectorShapes, torch.Tensor]:
    """A detector whose map of `stride` (None: its stem) tells where it is; queries read x and y of one box each."""
    size, frame = (128, 192), (192, 256) if padded else (128, 192)
    level = stride or 8
    shapes = DetectorShapes(4, (4,), (level,), 4, 1)
    maps = coordinate_map(level, frame, 4)
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.4, 0.6, 0.11, 0.23], [0.55, 0.45, 0.37, 0.55]])
    detections = Detections(
        queries=torch.eye(4)[:2].repeat(3, 1)[None],
        logits=torch.zeros(1, 6, 1),
        boxes=boxes.repeat_interleave(2, 0)[None],
        features=[torch.zeros_like(maps) if stride is None else maps],
        stem=coordinate_map(4, frame, 4) if stride is None else torch.zeros(1, 4, frame[0] // 4, frame[1] // 4),
    )
    pixel_mask = torch.zeros(1, *frame)
    pixel_mask[:, : size[0], : size[1]] = 1
    return detections, shapes, pixel_mask


def worst_box_error(stride: int | None, padded: bool) -> float:
    """How far, in pixels, RoIAlign's cells lie from where the boxes' cells are."""
    detections, shapes, pixel_mask = coordinates(stride, padded)
    network = MaskNetwork(training_free(roi_size=8), shapes)
    output = network(detections, pixel_mask, *all_queries(detections))
    centres = (torch.arange(8) + 0.5) / 8
    worst = 0.0
    for k in range(6):
        cx, cy, w, h = (detections.boxes[0, k] * torch.tensor([192, 128, 192, 128])).tolist()
        x, y = cx + (centres - 0.5) * w, cy + (centres - 0.5) * h
        expected = x.expand(8, 8) if k % 2 == 0 else y[:, None].expand(8, 8)
        worst = max(worst, (output.logits[k] - expected).abs().max().item())
        assert output.frames[k].tolist() == pytest.approx([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], abs=1e-3)
    return worst


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("stride", [4, 8, 16, None])
def test_box_features_come_from_the_boxs_pixels(stride, padded):
    assert worst_box_error(stride, padded) < 0.01


def test_half_a_cell_off_is_seen(monkeypatch):
    """The test above is one that fails for RoIAlign's old convention, half a stride-4 cell away."""
    aligned = mask_network.roi_align
    monkeypatch.setattr(mask_network, "roi_align", lambda *args, **kw: aligned(*args, **{**kw, "aligned": False}))
    assert worst_box_error(8, False) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("roi_align", [True, False])
@pytest.mark.parametrize("stride", [4, 8, 16, None])
def test_a_painted_object_comes_out_on_its_pixels(stride, roi_align):
    """Its left edge lies at x = 81.3: of all pixels, those with a centre to the right of it belong to the mask."""
    detections, shapes, pixel_mask = coordinates(stride, padded=False)
    detections.queries = torch.tensor([1.0, 0, -81.3, 0]).expand(1, 6, 4)
    network = MaskNetwork(training_free(roi_align=roi_align), shapes)
    output = network(detections, pixel_mask, *all_queries(detections))
    for k in range(0, 6, 2):
        # logits, not probabilities, so that the edge keeps its place between two cells
        piece = paste_probabilities(output.logits[k].numpy(), output.frames[k].tolist(), 128, 192)
        columns = torch.arange(piece.x, piece.x + piece.values.shape[1]) + 0.5
        assert (columns > 81.3).any()
        assert (columns < 81.3).any()
        assert torch.equal(torch.from_numpy(piece.values > 0), (columns > 81.3).expand(piece.values.shape))


# --- no boxes, gradients ---


@pytest.mark.parametrize("kind", ["deformable", "swin", "convnext"])
def test_no_boxes_at_all(kind):
    config = replace(CONFIG, image_encoder=kind, box_encoder=kind, query_o2o=True)
    network = build(config, SMALL)
    detections = draw_detections(SMALL, (64, 64), QUERIES, generator())
    nothing = torch.zeros(0, dtype=torch.long)
    output = network(detections, torch.ones(1, 64, 64), nothing, nothing)
    assert output.logits.shape == (0, 8, 8)
    assert output.iou is not None
    assert output.iou.shape == (0, 7)
    assert output.frames.shape == (0, 4)
    (output.logits.sum() + output.iou.sum()).backward()
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())


def test_no_boxes_for_the_training_free_network():
    shapes = replace(SMALL, stem_width=16)
    detections = draw_detections(shapes, (64, 64), QUERIES, generator())
    nothing = torch.zeros(0, dtype=torch.long)
    for roi_align, side in ((True, 32), (False, 16)):
        network = MaskNetwork(training_free(roi_align=roi_align), shapes)
        output = network(detections, torch.ones(1, 64, 64), nothing, nothing)
        assert output.logits.shape == (0, side, side)
        assert output.iou is None


def test_an_image_without_boxes_between_others():
    sizes = [(64, 64), (32, 64), (64, 64)]
    _, detections, pixel_mask = batch(SMALL, sizes, (64, 64))
    network = build(replace(CONFIG, query_o2o=True), SMALL)
    images, queries = torch.tensor([0, 0, 2]), torch.tensor([1, 2, 0])
    output = network(detections, pixel_mask, images, queries)
    third = network(detections, pixel_mask, images[2:], queries[2:])
    assert torch.allclose(output.logits[2:], third.logits, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("head", ["dot-product", "segmenter"])
@pytest.mark.parametrize("kind", ["deformable", "swin", "convnext"])
def test_gradients_reach_every_parameter(kind, head, padded):
    config = replace(CONFIG, image_encoder=kind, box_encoder=kind, query_o2o=True, head=head)
    network = build(config, SMALL)
    _, detections, pixel_mask = batch(SMALL, [(64, 64), (40, 48)] if padded else [(64, 64)] * 2, (64, 64))
    output = network(detections, pixel_mask, *all_queries(detections))
    assert output.iou is not None
    (output.logits.square().sum() + output.iou.square().sum()).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-8]
    assert idle == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_without_a_neck_only_a_stem_of_another_width_is_projected():
    bare = replace(CONFIG, neck=False)
    assert not list(MaskNetwork(bare, replace(SMALL, stem_width=16)).fusion.parameters())
    network = build(bare, SMALL)
    detections = draw_detections(SMALL, (64, 64), QUERIES, generator())
    network(detections, torch.ones(1, 64, 64), *all_queries(detections)).logits.square().sum().backward()
    projection = dict(network.fusion.named_parameters())
    assert {name: tuple(p.shape) for name, p in projection.items()} == {
        "projection.weight": (16, 12, 1, 1),
        "projection.bias": (16,),
    }
    assert all(p.grad is not None and p.grad.any() for p in projection.values())


def test_the_score_does_not_bend_the_mask():
    """Mask scoring learns to judge; its loss reaches the features, never the product that makes the mask."""
    network = build(replace(CONFIG, head="segmenter"), SMALL)
    detections = draw_detections(SMALL, (64, 64), QUERIES, generator())
    output = network(detections, torch.ones(1, 64, 64), *all_queries(detections))
    assert output.iou is not None
    output.iou.sum().backward()
    assert all(parameter.grad is None for parameter in network.head.parameters())


# --- refusals ---


@pytest.mark.parametrize(
    ("config", "shapes", "reason"),
    [
        (training_free(), SMALL, "C₁ has 12 channels, E₁ 16; leave C₁ out with stem = False"),
        (training_free(stem=False), replace(SMALL, query_width=24), "queries have width 24, its features 16"),
        (
            replace(CONFIG, mask_width=None, image_encoder="none", image_layers=0),
            replace(SMALL, feature_widths=(20, 20, 20)),
            "width 20 is not a multiple of 8 heads",
        ),
        (
            replace(CONFIG, image_encoder="swin"),
            replace(SMALL, feature_widths=(20, 20, 20)),
            "width 20 is not a multiple of 8 heads",
        ),
    ],
)
def test_what_does_not_fit_the_detector_is_refused_with_the_reason(config, shapes, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        MaskNetwork(config, shapes)


# --- shortcuts ---


@pytest.mark.parametrize("padded", [False, True])
def test_shortcuts_change_nothing(padded):
    """The same masks and the same gradients, for less than the paper's operations."""
    torch.set_default_dtype(torch.float64)
    try:
        sizes = [(64, 96), (96, 64)]
        alone = [draw_detections(SMALL, size, QUERIES, generator()) for size in sizes]
        detections, pixel_mask = alone[0], torch.ones(1, *sizes[0])
        if padded:
            detections, pixel_mask = pad_batch(alone, sizes, (96, 96), SMALL, generator())
        network, plain = build(CONFIG, SMALL), as_written(build(CONFIG, SMALL))
        outputs = [one(detections, pixel_mask, *all_queries(detections)) for one in (network, plain)]
        torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(outputs[0].iou, outputs[1].iou, rtol=1e-9, atol=1e-9)
        for output in outputs:
            (output.logits.square().mean() + output.iou.square().mean()).backward()
        for (name, one), other in zip(network.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-12, msg=name)
    finally:
        torch.set_default_dtype(torch.float32)


def test_shortcuts_save_operations():
    detections, pixel_mask = draw_detections(H_DETR, (256, 256), 20, generator()), torch.ones(1, 256, 256)
    index = all_queries(detections)
    networks = (MaskNetwork(MaskNetworkConfig(), H_DETR), as_written(MaskNetwork(MaskNetworkConfig(), H_DETR)))
    short, plain = (count_macs(partial(one.eval(), detections, pixel_mask, *index)) for one in networks)
    assert short < 0.9 * plain


def test_a_box_inside_out_is_empty():
    network = build(CONFIG, SMALL)
    detections = draw_detections(SMALL, (64, 96), QUERIES, generator())
    detections.boxes[0, 1, 2] = -0.05
    output = network(detections, torch.ones(1, 64, 96), *all_queries(detections))
    x0, y0, x1, y1 = output.frames[1].tolist()
    assert x0 == x1
    assert y0 < y1
    assert output.logits.isfinite().all()
