"""The mask network as a whole: size, any detector's shapes, gradients, refusals, shortcuts."""

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from small_networks import CONFIG, QUERIES, SMALL, batch, generator
from synthetic_detections import all_queries, build_network, draw_detections, pad_batch

from mask_frozen_detr.detectors.base import DetectorShapes
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig, training_free
from mask_frozen_detr.paper.complexity import as_written, count_macs

H_DETR = DetectorShapes(256, (256,) * 4, (8, 16, 32, 64), 256, 80)


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
    network = build_network(replace(CONFIG, mask_width=16), shapes)
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
    network = build_network(CONFIG, SMALL)
    whole = network(detections, pixel_mask, *all_queries(detections))
    some = network(detections, pixel_mask, torch.tensor([0, 1, 1]), torch.tensor([4, 3, 0]))
    for name in ("logits", "iou", "frames"):
        assert torch.allclose(getattr(some, name), getattr(whole, name)[[4, 8, 5]], atol=1e-5)


# --- no boxes, gradients ---


@pytest.mark.parametrize("kind", ["deformable", "swin", "convnext"])
def test_no_boxes_at_all(kind):
    config = replace(CONFIG, image_encoder=kind, box_encoder=kind, query_o2o=True)
    network = build_network(config, SMALL)
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
    network = build_network(replace(CONFIG, query_o2o=True), SMALL)
    images, queries = torch.tensor([0, 0, 2]), torch.tensor([1, 2, 0])
    output = network(detections, pixel_mask, images, queries)
    third = network(detections, pixel_mask, images[2:], queries[2:])
    assert torch.allclose(output.logits[2:], third.logits, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("head", ["dot-product", "segmenter"])
@pytest.mark.parametrize("kind", ["deformable", "swin", "convnext"])
def test_gradients_reach_every_parameter(kind, head, padded):
    config = replace(CONFIG, image_encoder=kind, box_encoder=kind, query_o2o=True, head=head)
    shapes = replace(SMALL, feature_widths=(48, 48, 48))  # a channel that is a group by itself loses its bias
    network = build_network(config, shapes)
    _, detections, pixel_mask = batch(shapes, [(64, 64), (40, 48)] if padded else [(64, 64)] * 2, (64, 64))
    output = network(detections, pixel_mask, *all_queries(detections))
    assert output.iou is not None
    (output.logits.square().sum() + output.iou.square().sum()).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-8]
    assert idle == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_without_a_neck_only_a_stem_of_another_width_is_projected():
    bare = replace(CONFIG, neck=False)
    assert not list(MaskNetwork(bare, replace(SMALL, stem_width=16)).fusion.parameters())
    network = build_network(bare, SMALL)
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
    network = build_network(replace(CONFIG, head="segmenter"), SMALL)
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


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("padded", [False, True])
def test_shortcuts_change_nothing(padded):
    """The same masks and the same gradients, for less than the paper's operations."""
    sizes = [(64, 96), (96, 64)]
    alone = [draw_detections(SMALL, size, QUERIES, generator()) for size in sizes]
    detections, pixel_mask = alone[0], torch.ones(1, *sizes[0])
    if padded:
        detections, pixel_mask = pad_batch(alone, sizes, (96, 96), SMALL, generator())
    network, plain = build_network(CONFIG, SMALL), as_written(build_network(CONFIG, SMALL))
    outputs = [one(detections, pixel_mask, *all_queries(detections)) for one in (network, plain)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(outputs[0].iou, outputs[1].iou, rtol=1e-9, atol=1e-9)
    for output in outputs:
        (output.logits.square().mean() + output.iou.square().mean()).backward()
    for (name, one), other in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-12, msg=name)


def test_shortcuts_save_operations():
    detections, pixel_mask = draw_detections(H_DETR, (256, 256), 20, generator()), torch.ones(1, 256, 256)
    index = all_queries(detections)
    networks = (MaskNetwork(MaskNetworkConfig(), H_DETR), as_written(MaskNetwork(MaskNetworkConfig(), H_DETR)))
    short, plain = (count_macs(partial(one.eval(), detections, pixel_mask, *index)) for one in networks)
    assert short < 0.9 * plain


def test_a_box_inside_out_is_empty():
    network = build_network(CONFIG, SMALL)
    detections = draw_detections(SMALL, (64, 96), QUERIES, generator())
    detections.boxes[0, 1, 2] = -0.05
    output = network(detections, torch.ones(1, 64, 96), *all_queries(detections))
    x0, y0, x1, y1 = output.frames[1].tolist()
    assert x0 == x1
    assert y0 < y1
    assert output.logits.isfinite().all()
