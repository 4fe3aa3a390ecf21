"""What every frozen detector promises, on the two tiny ones: frozen, in eval mode, its own outputs untouched."""

import hashlib
import json

import pytest
import torch
from narrow import gradient
from PIL import Image
from tiny_detectors import build_padding_detector, build_squashing_detector
from torch import nn
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from mask_frozen_detr import UserError, load_detector
from mask_frozen_detr.detectors.base import DetectorShapes, MatchingCosts, ScoreRule, hash_weights, named_classes
from mask_frozen_detr.detectors.preprocessing import ShortestEdge, collate_images

both = pytest.mark.parametrize("kind", ["squashing", "padding"])


@pytest.fixture
def detector(kind, request):
    return request.getfixturevalue(kind)


@pytest.fixture
def folder(kind, request):
    return request.getfixturevalue(f"{kind}_folder")


def pixels(detector) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = detector.info.preprocessing.probe_size()
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, height, width, generator=generator), torch.ones(2, height, width, dtype=torch.long)


# --- frozen ---


@both
def test_frozen_and_in_eval_mode_whatever_is_asked(folder):
    detector = load_detector(str(folder))
    for ask in (lambda: None, detector.train, detector.eval, lambda: detector.train(True)):
        ask()
        assert not any(module.training for module in detector.modules())
    assert list(detector.parameters())
    assert not any(parameter.requires_grad for parameter in detector.parameters())


@both
def test_forward_needs_no_gradient_and_its_outputs_can_enter_one(detector):
    """`inference_mode` would break the mask network's backward."""
    pixel_values, pixel_mask = pixels(detector)
    found = detector(pixel_values.requires_grad_(), pixel_mask)
    layer = nn.Linear(found.queries.shape[-1], 1)
    for tensor in (found.queries, found.logits, found.boxes, *found.features, found.stem):
        assert not tensor.requires_grad
        assert not tensor.is_inference()
    layer(found.queries).sum().backward()
    assert gradient(layer.weight).any()


@both
def test_a_forward_pass_changes_no_weight(detector):
    before = hash_weights(detector.model)
    detector(*pixels(detector))
    assert hash_weights(detector.model) == before


# --- what it hands out ---


@both
def test_outputs_are_the_detectors_own(detector, folder):
    alone = AutoModelForObjectDetection.from_pretrained(folder, dtype=torch.float32).eval()
    pixel_values, pixel_mask = pixels(detector)
    extra = {"pixel_mask": pixel_mask} if folder.name == "padding" else {}
    with torch.no_grad():  # in the memory format that the detector has it in
        expected = alone(pixel_values=pixel_values.contiguous(memory_format=torch.channels_last), **extra)
    found = detector(pixel_values, pixel_mask)
    for ours, theirs in (
        (found.logits, expected.logits),
        (found.boxes, expected.pred_boxes),
        (found.queries, expected.last_hidden_state),
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_shapes(squashing, padding):
    assert squashing.shapes == DetectorShapes(16, (16, 16, 16), (8, 16, 32), 8, 3)
    assert padding.shapes == DetectorShapes(32, (32, 32, 32, 32), (8, 16, 32, 64), 8, 3)
    for detector in (squashing, padding):
        pixel_values, pixel_mask = pixels(detector)
        found = detector(pixel_values, pixel_mask)
        for level, stride in zip(found.features, detector.shapes.strides, strict=True):
            assert level.shape[2] == -(-pixel_values.shape[2] // stride)
        assert found.stem.shape[2] * 4 == pixel_values.shape[2]


def test_the_encoder_layer_is_chosen(padding_folder, padding):
    """The deepest there is, where 4 are not; queries and boxes are the same whichever maps are taken."""
    first, last = (load_detector(str(padding_folder), encoder_layer=layer) for layer in (1, 2))
    pixel_values, pixel_mask = pixels(padding)
    of_first, of_last, default = (d(pixel_values, pixel_mask) for d in (first, last, padding))
    assert not torch.allclose(of_first.features[0], of_last.features[0])
    assert torch.equal(of_last.features[0], default.features[0])
    assert torch.equal(of_first.boxes, of_last.boxes)
    encoder = padding.model.model.encoder
    kept: dict[str, torch.Tensor] = {}
    handle = encoder.layers[-1].register_forward_hook(
        lambda module, inputs, output: kept.update(tokens=output if torch.is_tensor(output) else output[0])
    )
    padding(pixel_values, pixel_mask)
    handle.remove()
    flat = torch.cat([level.flatten(2) for level in default.features], 2).transpose(1, 2)
    assert torch.equal(flat, kept["tokens"])


# --- who it is ---


def test_identity(squashing, squashing_folder, tmp_path):
    identity = squashing.info.identity
    assert identity.name == str(squashing_folder)
    assert identity.family == "rt_detr"
    assert len(bytes.fromhex(identity.weights)) == hashlib.sha256().digest_size
    assert load_detector(str(squashing_folder)).info.identity == identity
    other = build_squashing_detector(tmp_path / "other", seed=1)
    assert load_detector(str(other)).info.identity.weights != identity.weights


def test_the_hash_sees_every_change():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    seen = {hash_weights(model)}
    with torch.no_grad():
        model.get_parameter("0.weight")[1, 2] += 1e-6
        seen.add(hash_weights(model))
        model.get_buffer("1.running_mean")[0] = -0.0  # equal, but not to the bit
        seen.add(hash_weights(model))
    seen.add(hash_weights(nn.Sequential(model[0])))
    seen.add(hash_weights(nn.Sequential(model[0].double())))
    assert len(seen) == 5


def test_class_names_and_costs(squashing, padding, tmp_path):
    assert squashing.info.class_names == padding.info.class_names == ["disc", "ring", "star"]
    folder = build_squashing_detector(tmp_path / "a")
    content = json.loads((folder / "config.json").read_text())
    content.update(matcher_class_cost=7.0, matcher_bbox_cost=3.0, matcher_giou_cost=1.0)
    (folder / "config.json").write_text(json.dumps(content))
    costs = load_detector(str(folder)).info.costs
    assert (costs.class_cost, costs.bbox_cost, costs.giou_cost) == (7, 3, 1)
    folder = build_padding_detector(tmp_path / "b")
    content = json.loads((folder / "config.json").read_text())
    content.update(class_cost=9, bbox_cost=4, giou_cost=1)
    (folder / "config.json").write_text(json.dumps(content))
    costs = load_detector(str(folder)).info.costs
    assert (costs.class_cost, costs.bbox_cost, costs.giou_cost) == (9, 4, 1)
    assert MatchingCosts() == MatchingCosts(2, 5, 2)


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [
        (["cat", "dog"], 2, ["cat", "dog"]),
        (["LABEL_0", "LABEL_1"], 2, ["", ""]),
        (["N/A", "person"], 3, ["", "person", ""]),
        (["cat", "dog", "cow"], 2, ["cat", "dog"]),
    ],
)
def test_named_classes(names, count, expected):
    assert named_classes(names, count) == expected


def test_scores():
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    torch.testing.assert_close(ScoreRule("sigmoid").scores(logits), logits.sigmoid())
    expected = logits.exp()[:, :2] / logits.exp().sum()
    torch.testing.assert_close(ScoreRule("softmax").scores(logits), expected)
    with pytest.raises(ValueError, match="score rule: found 'argmax'"):
        ScoreRule("argmax")


# --- pre-processing ---


@both
def test_preprocessing_is_the_detectors_own(detector, folder, scenes):
    with Image.open(scenes[0].images[0].path) as file:
        image = file.convert("RGB")
    expected = AutoImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(detector.info.preprocessing(image), expected)
    json.dumps(detector.info.preprocessing.describe())


def test_sizes_are_left_or_squashed(squashing, padding):
    image = Image.new("RGB", (300, 200), "red")
    assert squashing.info.preprocessing(image, resize=False).shape == (3, 96, 96)
    assert not squashing.info.preprocessing.resizes_freely
    assert padding.info.preprocessing(image, resize=False).shape == (3, 200, 300)
    assert padding.info.preprocessing(image).shape == (3, 128, 192)
    assert padding.info.preprocessing.resizes_freely


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, (800, 1066)), (640, 480, (1066, 800)), (100, 1000, (133, 1330)), (600, 600, (800, 800)),
     (427, 640, (800, 1199)), (500, 1000, (666, 1332))],
)  # fmt: skip
def test_shortest_edge_is_detrs(height, width, expected):
    assert ShortestEdge().size(height, width) == expected


def test_collate_images():
    values, mask = collate_images([torch.ones(3, 2, 5), 2 * torch.ones(3, 4, 3)])
    assert values.shape == (2, 3, 4, 5)
    assert mask.dtype == torch.long
    assert mask.sum((1, 2)).tolist() == [10, 12]
    assert torch.equal(values[:, 0] != 0, mask.bool())


# --- padding ---


def test_boxes_are_relative_to_the_unpadded_image(padding):
    """Padding more moves no box much: they would all shrink, were they relative to the padded input."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 192, 192, generator=generator)
    alone = padding(*collate_images([image]))
    wide = padding(*collate_images([image, torch.zeros(3, 192, 320)]))
    ratio = wide.boxes[0, :, 2].mean() / alone.boxes[0, :, 2].mean()
    assert 0.85 < ratio < 1.15  # 0.6 if it were of the padded width


# --- what is none ---


def test_errors_name_the_folder(tmp_path):
    for name in (str(tmp_path), str(tmp_path / "gone"), "some/typo"):
        with pytest.raises(UserError) as error:
            load_detector(name)
        assert name in str(error.value)
