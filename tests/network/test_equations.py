"""Each equation of the paper against a literal, unoptimised reference: loops over boxes, cells, heads and channels.

Equations 2 and 13 score the instances; the others are parts of the mask network. All in float64.
Letters: d detector width, h × w cells of a map, M boxes, r RoIAlign side, c mask width.
"""

import math
from dataclasses import replace

import pytest
import torch
from literal_parts import (
    attention,
    convolve,
    deformable_layer,
    gelu,
    interpolate,
    layer_norm,
    linear,
    products,
    roi_align,
    sigmoid,
)
from synthetic_detections import build_network, draw_detections, randn, scatter_parameters

from mask_frozen_detr.detectors.base import DetectorInfo, DetectorShapes, FrozenDetector, Identity
from mask_frozen_detr.detectors.preprocessing import ShortestEdge
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig, training_free
from mask_frozen_detr.network.box_encoder import DeformableBoxEncoder
from mask_frozen_detr.network.deformable import DeformableLayer, TokenGrid
from mask_frozen_detr.network.fusion import Neck
from mask_frozen_detr.network.heads import DotProductHead, SegmenterHead
from mask_frozen_detr.network.mask_scoring import MaskScoring
from mask_frozen_detr.network.query_encoder import ObjectToObject, QueryLayer, sine_embedding
from mask_frozen_detr.results.inference import segment

SIZE = (32, 48)  # of the image
SHAPES = DetectorShapes(8, (8,), (8,), 8, 5)  # E at stride 8, C₁ at stride 4
COUNT = 4


pytestmark = pytest.mark.usefixtures("double")


def run(network: MaskNetwork, detections):
    index = torch.arange(detections.queries.shape[1])
    with torch.no_grad():
        return network(detections, torch.ones(1, *SIZE), torch.zeros_like(index), index)


def detections_of(shapes: DetectorShapes = SHAPES):
    return draw_detections(shapes, SIZE, COUNT, torch.Generator().manual_seed(1))


def pixel_box(box: torch.Tensor) -> list[float]:
    """cx, cy, w, h in [0, 1] → corners in pixels, cut at the image."""
    cx, cy, w, h = box.tolist()
    sides = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    return [min(max(side, 0), 1) * scale for side, scale in zip(sides, SIZE[::-1] * 2, strict=True)]


def test_equation_1_masks_over_the_whole_image():
    """F = C₁ + interpolate(E), M_i = Sigmoid(q_i Fᵀ)."""
    detections = detections_of()
    masks = run(build_network(training_free(roi_align=False), SHAPES), detections).logits.sigmoid()
    F = detections.stem[0] + interpolate(detections.features[0][0], 2)
    for i in range(COUNT):
        assert torch.allclose(masks[i], sigmoid(products(detections.queries[0, i], F)))


@pytest.mark.parametrize("samples", [1, 2])
def test_equations_3_and_4_masks_over_boxes(samples):
    """R_i = RoIAlign(F, b_i), Sigmoid(q_i R_iᵀ)."""
    detections = detections_of()
    output = run(build_network(replace(training_free(roi_size=8), roi_samples=samples), SHAPES), detections)
    F = detections.stem[0] + interpolate(detections.features[0][0], 2)
    for i in range(COUNT):
        box = pixel_box(detections.boxes[0, i])
        assert output.frames[i].tolist() == pytest.approx(box)
        expected = sigmoid(products(detections.queries[0, i], roi_align(F, box, 8, 4, samples)))
        # torchvision's RoIAlign runs in float32
        assert torch.allclose(output.logits[i].sigmoid(), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_equation_4_dot_product_head(scale):
    queries, maps = randn(3, 2, 8), randn(3, 8, 4, 5, seed=1)
    logits = DotProductHead(8, scale)(queries, maps)
    for i in range(3):
        for k in range(2):
            assert torch.allclose(logits[i, k], products(queries[i, k], maps[i]) * scale)


def test_table_14_segmenter_head():
    head = SegmenterHead(8, 0.5)
    scatter_parameters(head)
    queries, maps = randn(3, 2, 8), randn(3, 8, 4, 5, seed=1)
    logits = head(queries, maps)
    for i in range(3):
        for k in range(2):
            query = layer_norm(head.query_norm, linear(head.query_projection, queries[i, k]))
            for y in range(4):
                for x in range(5):
                    cell = layer_norm(head.map_norm, linear(head.map_projection, maps[i, :, y, x]))
                    assert logits[i, k, y, x].item() == pytest.approx(0.5 * (query @ cell).item())


def test_each_part_of_a_cell_has_a_query_of_its_own():
    """Equation 4 with f² queries of a box: part y, x of cell i, j is cell f·i + y, f·j + x of the mask."""
    f, r = 3, 4
    detections = detections_of()
    config = replace(training_free(roi_size=r), upsample=f)
    network = build_network(config, SHAPES)
    scatter_parameters(network)
    assert network.subcells is not None
    output = run(network, detections)
    assert output.logits.shape == (COUNT, f * r, f * r)
    F = detections.stem[0] + interpolate(detections.features[0][0], 2)
    for m in range(COUNT):
        query = detections.queries[0, m]
        with torch.no_grad():
            parts = linear(network.subcells.offsets, query).view(f, f, 8) + query
        R = roi_align(F, pixel_box(detections.boxes[0, m]), r, 4)
        for y in range(f):
            for x in range(f):
                expected = products(parts[y, x], R) / math.sqrt(8)
                assert torch.allclose(output.logits[m, y::f, x::f], expected, atol=1e-4)


def test_equations_5_and_6_image_feature_encoder():
    """F = C₁ + interpolate(F_e(E)), F_e deformable on all levels; the finest one goes on."""
    shapes = DetectorShapes(8, (8, 8), (8, 16), 8, 5)
    detections = detections_of(shapes)
    config = MaskNetworkConfig(
        box_encoder="none",
        box_layers=0,
        mask_width=None,
        query_ffn=False,
        query_b2o=False,
        roi_align=False,
        neck=False,
        mask_scoring=False,
    )
    network = build_network(config, shapes)
    logits = run(network, detections).logits
    maps = [level[0] for level in detections.features]
    with torch.no_grad():
        for layer in network.image_encoder.get_submodule("layers").children():
            maps = deformable_layer(layer, maps)
        F = detections.stem[0] + interpolate(maps[0], 2)
    for i in range(COUNT):
        assert torch.allclose(logits[i], products(detections.queries[0, i], F) / math.sqrt(8), atol=1e-6)


def test_equation_6_deformable_layer_of_several_levels():
    layer = DeformableLayer(16, levels=3)
    scatter_parameters(layer)
    maps = [randn(16, 4, 3, seed=1), randn(16, 2, 2, seed=2), randn(16, 1, 1, seed=3)]
    shapes = [(4, 3), (2, 2), (1, 1)]
    tokens = torch.cat([m.flatten(1).T for m in maps])[None]
    with torch.no_grad():
        output = layer(tokens, TokenGrid.of(shapes, tokens.device))[0]
        expected = torch.cat([m.flatten(1).T for m in deformable_layer(layer, maps)])
    assert torch.allclose(output, expected, atol=1e-6)


def test_equation_9_box_feature_encoder():
    """R_i = F_b(R_i), each box by itself, with the learned position."""
    encoder = DeformableBoxEncoder(8, layers=2, size=4)
    scatter_parameters(encoder)
    boxes = randn(3, 8, 4, 4)
    with torch.no_grad():
        grid = encoder.grid(boxes.device)
        encoded = encoder.layer(1, encoder.layer(0, boxes, grid), grid)
        for i in range(3):
            R = boxes[i]
            for layer in encoder.layers:
                (R,) = deformable_layer(layer, [R], encoder.get_parameter("position")[0])
            assert torch.allclose(encoded[i], R, atol=1e-6)


def test_equation_9_comes_before_equation_4():
    """The network's mask is the product with F_b(RoIAlign(F, b_i)), not with what RoIAlign gives."""
    detections = detections_of()
    config = MaskNetworkConfig(
        image_encoder="none",
        image_layers=0,
        box_layers=1,
        mask_width=None,
        roi_size=4,
        query_ffn=False,
        query_b2o=False,
        neck=False,
        mask_scoring=False,
    )
    network = build_network(config, SHAPES)
    logits = run(network, detections).logits
    F = detections.stem[0] + interpolate(detections.features[0][0], 2)
    encoder = network.box_encoder
    with torch.no_grad():
        for i in range(COUNT):
            R = roi_align(F, pixel_box(detections.boxes[0, i]), 4, 4)
            (R,) = deformable_layer(encoder.get_submodule("layers.0"), [R], encoder.get_parameter("position")[0])
            expected = products(detections.queries[0, i], R) / math.sqrt(8)
            assert torch.allclose(logits[i], expected, atol=1e-4)


def test_equation_10_object_to_object_attention():
    """SelfAttention([q_1 … q_N]) among the queries of one image, never across images."""
    module = ObjectToObject(16)
    scatter_parameters(module)
    queries, boxes = randn(5, 16), torch.rand(5, 4, generator=torch.Generator().manual_seed(1))
    image_index = torch.tensor([0, 0, 0, 2, 2])
    with torch.no_grad():
        output = module(queries, boxes, image_index)
        for group in ([0, 1, 2], [3, 4]):
            keys = [queries[i] + linear(module.position, sine_embedding(boxes[i : i + 1], 256)[0]) for i in group]
            for i, key in zip(group, keys, strict=True):
                attended = attention(module.attention, key, keys, [queries[j] for j in group])
                assert torch.allclose(output[i], layer_norm(module.norm, queries[i] + attended))


def test_equation_11_box_to_object_attention():
    """q_i = CrossAttention(q_i, R_i), then the FFN of section 3.4."""
    layer = QueryLayer(16, ffn=True, b2o=True, o2o=False)
    scatter_parameters(layer)
    assert layer.ffn is not None
    queries, boxes = randn(3, 16), randn(3, 16, 4, 4, seed=1)
    with torch.no_grad():
        output = layer(queries, boxes, torch.rand(3, 4), torch.zeros(3, dtype=torch.long))
        for i in range(3):
            cells = list(boxes[i].flatten(1).T)
            query = layer_norm(layer.b2o_norm, queries[i] + attention(layer.b2o, queries[i], cells, cells))
            ffn = linear(layer.ffn[2], gelu(linear(layer.ffn[0], query)))
            assert torch.allclose(output[i], layer_norm(layer.ffn_norm, query + ffn))


@pytest.mark.parametrize(("size", "upsample"), [(8, 1), (12, 1), (8, 2)])
def test_equation_12_mask_scoring(size, upsample):
    """iou_i = MLP(Flatten(Conv(Cat(M_i, R_i)))); of a finer mask each cell's mean."""
    scoring = MaskScoring(4, size, num_classes=3)
    scatter_parameters(scoring)
    logits, boxes = randn(2, size * upsample, size * upsample), randn(2, 4, size, size, seed=1)
    with torch.no_grad():
        predicted = scoring(logits, boxes)
        for m in range(2):
            parts = [sigmoid(logits[m])[y::upsample, x::upsample] for y in range(upsample) for x in range(upsample)]
            maps = torch.cat([torch.stack(parts).mean(0)[None], boxes[m]])
            for conv in (scoring.convs[0], scoring.convs[2], scoring.convs[4]):
                maps = convolve(conv, maps).clamp(min=0)
            x = maps.flatten()
            x = linear(scoring.mlp[1], x).clamp(min=0)
            x = linear(scoring.mlp[3], x).clamp(min=0)
            assert torch.allclose(predicted[m], sigmoid(linear(scoring.mlp[5], x)))


def test_equation_14_neck():
    """C₁ = GN(PWConv(C₁))."""
    neck = Neck(6, 64)
    scatter_parameters(neck)
    assert neck.conv.bias is not None
    stem = randn(2, 6, 3, 5)
    with torch.no_grad():
        output = neck(stem, None)
        for b in range(2):
            maps = torch.zeros(64, 3, 5)
            for i in range(3):
                for j in range(5):
                    maps[:, i, j] = neck.conv.weight[:, :, 0, 0] @ stem[b, :, i, j] + neck.conv.bias
            for group in range(32):  # of two channels each
                part = slice(2 * group, 2 * group + 2)
                mean = maps[part].sum() / 30
                variance = ((maps[part] - mean) ** 2).sum() / 30
                normed = (maps[part] - mean) / (variance + neck.norm.eps).sqrt()
                expected = normed * neck.norm.weight[part, None, None] + neck.norm.bias[part, None, None]
                assert torch.allclose(output[b, part], expected)


class Fixed(FrozenDetector):
    """A detector that finds the same in every image."""

    def __init__(self, detections):
        info = DetectorInfo(Identity("fixed", None, "", "fixed"), list("abcde"), ShortestEdge())
        super().__init__(torch.nn.Identity(), info)
        self.detections = detections

    def detect(self, pixel_values, pixel_mask, targets=None):
        return self.detections

    def save(self, folder):
        raise AssertionError("nothing here is fine-tuned")


@pytest.fixture
def float_default():
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float_default")
def test_equation_13_class_score_times_predicted_iou():
    """s_i = c_i · iou_i, the IoU that of the class."""
    detections = detections_of()
    network = build_network(MaskNetworkConfig(image_layers=1, box_layers=1, mask_width=8, roi_size=8), SHAPES)
    predicted = run(network, detections).iou
    (instances,) = segment(Fixed(detections), network, torch.zeros(1, 3, *SIZE), torch.ones(1, *SIZE), [SIZE])
    assert len(instances) == COUNT * SHAPES.num_classes
    expected = sorted(
        (sigmoid(detections.logits[0, i, k]) * predicted[i, k]).item() for i in range(COUNT) for k in range(5)
    )
    assert sorted(instances.scores.tolist()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("float_default")
def test_equation_2_class_score_times_mean_foreground_probability():
    """s_i = c_i · Σ_{p > 0.5} p / #{p > 0.5} over the pixels of the pasted mask."""
    detections = detections_of()
    network = build_network(training_free(roi_size=8), SHAPES)
    found = segment(
        Fixed(detections),
        network,
        torch.zeros(1, 3, *SIZE),
        torch.ones(1, *SIZE),
        [SIZE],
        keep_probabilities=True,
    )[0]
    assert len(found) == COUNT * SHAPES.num_classes
    assert found.scores.max() > 0.3
    for class_score, score, probabilities in zip(found.class_scores, found.scores, found.probabilities, strict=True):
        foreground = [p for p in probabilities.flatten().tolist() if p > 0.5]
        factor = sum(foreground) / len(foreground) if foreground else 0.0
        assert score == pytest.approx(class_score * factor, abs=1e-5)
