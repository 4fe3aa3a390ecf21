"""A finer look: the backbone's maps of the picture at twice the size, while boxes stay the detector's."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from exported_models import assert_same
from exported_models import picture as noise
from family_models import TINY_MODELS, TinyModel
from family_parts import picture
from PIL import Image
from synthetic_detections import all_queries, scattered
from torch import Tensor

from mask_frozen_detr import MaskFrozenDetr
from mask_frozen_detr.cli import main
from mask_frozen_detr.detectors.described import described_preprocessing
from mask_frozen_detr.detectors.finer_look import unpack_finer
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.detectors.transformers_preprocessing import TransformersPreprocessing
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.export.preprocessing import portable
from mask_frozen_detr.network.mask_network import MaskNetwork
from mask_frozen_detr.training.pseudo_masks.evidence import Evidence


@pytest.fixture(scope="module")
def finer_network(tiny_network):
    return replace(tiny_network, finer_look=True)


def both_looks(detector, image: Image.Image) -> tuple[Tensor, Tensor]:
    """The detector's own input and the same at twice the size, by its processor alone."""
    processor = detector.info.preprocessing.processor
    size = dict(processor.size)
    twice = {"height": 2 * size["height"], "width": 2 * size["width"]}
    return tuple(processor(images=image, size=of, return_tensors="pt")["pixel_values"] for of in (size, twice))


VIT = "deimv2 dinov3"  # whose earliest map is of convolutions beside its backbone
LOOKING = [tiny for tiny in TINY_MODELS if tiny.family.backbone and tiny.name != VIT]


@pytest.mark.parametrize("tiny", LOOKING, ids=lambda tiny: tiny.name)
def test_boxes_stay_and_maps_are_the_backbones(tiny: TinyModel, family_detector):
    detector, image = family_detector(tiny), picture()
    finer = detector.with_finer_look()
    packed, mask = collate_images([finer.info.preprocessing(image)])
    look, larger = both_looks(detector, image)
    torch.testing.assert_close(unpack_finer(packed), (look, larger), rtol=0, atol=0)
    alone, found = detector(look, mask), finer(packed, mask)
    for one in ("queries", "logits", "boxes", "features", "pixels"):
        torch.testing.assert_close(getattr(found, one), getattr(alone, one), rtol=0, atol=0)
    # What the backbone gives out of the larger picture are the coarser ones.
    given = detector.model.get_submodule(tiny.family.backbone)(larger).feature_maps
    stages = [found.stem, *found.stages]
    widths = [stage.shape[3] for stage in stages]
    assert widths[0] == look.shape[3] // 2
    assert all(before > after for before, after in pairwise([*widths, found.features[0].shape[3]]))
    expected = [one for one in given if one.shape[3] > found.features[0].shape[3]]
    torch.testing.assert_close(stages[len(stages) - len(expected) :], expected, rtol=1e-4, atol=1e-5)
    shapes = finer.shapes
    assert (shapes.stem_stride, *shapes.stage_strides) == tuple(look.shape[3] // width for width in widths)
    assert (shapes.stem_width, *shapes.stage_widths) == tuple(stage.shape[1] for stage in stages)


def test_maps_are_added_as_the_equation_says(squashing, finer_network):
    detector = squashing.with_finer_look()
    network = MaskNetwork(finer_network, detector.shapes).eval().double()  # or rounding depends on the weights drawn
    packed, mask = collate_images([detector.info.preprocessing(picture())])
    found = detector(packed, mask)
    assert found.stem is not None
    features, stages = ([one.double() for one in maps] for maps in (found.features, found.stages))
    found = replace(found, features=features, stem=found.stem.double(), stages=stages)
    weights = network.fusion.state_dict()

    def neck(name: str, maps: Tensor) -> Tensor:
        projected = F.conv2d(maps, weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"])
        return F.group_norm(projected, 16, weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"])

    def enlarged(maps: Tensor, factor: int) -> Tensor:
        return F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)

    (coarser,) = found.stages  # at stride 4, C₁ at stride 2, E₁ at stride 8
    encoded = network.image_encoder(found.features, None)
    added = neck("neck", found.stem) + enlarged(neck("stage_necks.0", coarser), 2) + enlarged(encoded, 4)
    expected = network.map_mapper(added.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert network.fusion.stride == 2
    torch.testing.assert_close(network.maps(found, network.padding(found, mask)), expected, rtol=1e-4, atol=1e-5)


def test_two_networks_share_a_detector(squashing, tiny_network, finer_network):
    plain, finer = (MaskFrozenDetr.build(squashing, config).eval() for config in (tiny_network, finer_network))
    first = plain.predict(picture(), 0.0)
    found = finer.predict(picture(), 0.0)
    np.testing.assert_array_equal(
        found.boxes[np.argsort(found.class_scores)], first.boxes[np.argsort(first.class_scores)]
    )
    np.testing.assert_array_equal(plain.predict(picture(), 0.0).masks, first.masks)
    assert plain.detector is squashing
    assert finer.detector.with_finer_look(False).info.preprocessing is squashing.info.preprocessing


def test_a_padded_mask_changes_nothing(squashing, finer_network):
    """As an exported graph has it, where padding is data."""
    detector = squashing.with_finer_look()
    network = MaskNetwork(finer_network, detector.shapes).eval()
    packed, mask = collate_images([detector.info.preprocessing(picture())])
    found = detector(packed, mask)
    wide = torch.nn.functional.pad(mask, (0, 8))  # 8 columns of padding, in which nothing of a map begins
    maps = network.maps(found, network.padding(found, mask))
    torch.testing.assert_close(network.maps(found, network.padding(found, wide)), maps, rtol=1e-4, atol=1e-4)


def test_pre_processing_is_described_and_portable(squashing):
    finer = squashing.with_finer_look().info.preprocessing
    assert finer.describe()["finer_look"] == 2
    image = Image.fromarray(noise(64, 120))
    torch.testing.assert_close(described_preprocessing(finer.describe())(image), finer(image), rtol=0, atol=0)
    record = portable(finer, "detector")
    step = record.scale / np.array(record.std).min()
    np.testing.assert_allclose(record(image), finer(image).numpy(), atol=1.5 * step)


def test_evidence_is_that_of_the_detector_alone(squashing):
    plain, finer = (Evidence(one, {}) for one in (squashing, squashing.with_finer_look()))
    assert plain.name == finer.name
    assert finer.detector.info.preprocessing is squashing.info.preprocessing


def test_a_run_is_trained_cached_and_predicts(squashing_folder, few_scenes_folder, tmp_path):
    command = ["train", str(squashing_folder), str(few_scenes_folder), *TINY, "--finer-look", "--output"]
    cached = ["--cache", str(tmp_path / "cache"), "--masks-from", "boxes", "--rounds", "2"]
    assert main([*command, str(tmp_path / "run")]) == 0
    assert main([*command, str(tmp_path / "cached"), *cached]) == 0
    views = list((tmp_path / "cache").glob("*/*.safetensors"))
    assert views
    for name in ("run", "cached"):
        model = MaskFrozenDetr.from_pretrained(tmp_path / name)
        assert model.network.config.finer_look
        assert model.detector.looks_finer
    picture_file = next((few_scenes_folder / "val2017").iterdir())
    assert main(["predict", str(tmp_path / "run"), str(picture_file), "--output", str(tmp_path / "o")]) == 0
    assert main(["benchmark", str(tmp_path / "run"), str(picture_file), "--rounds", "1"]) == 0


def test_exported_it_gives_the_same(squashing, finer_network, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from mask_frozen_detr.export import export_model
    from mask_frozen_detr.runtime import OnnxModel

    model = scattered(squashing, finer_network)
    exported = export_model(model, tmp_path / "model", max_detections=10)
    assert exported.differences["masks"] < 1e-3
    image = noise(96, 160)
    assert_same(model.predict(image, 0.0, 10), OnnxModel(tmp_path / "model").predict(image, 0.0, 10))


def test_a_detector_that_takes_any_size_says_so(padding, finer_network):
    with pytest.raises(UserError, match="finer_look: it takes pictures of any size"):
        MaskFrozenDetr.build(padding, finer_network)


@pytest.mark.parametrize("name", ["rf_detr", VIT])
def test_a_backbone_that_does_not_run_alone_is_named(name, family_detector, finer_network):
    detector = family_detector(next(tiny for tiny in TINY_MODELS if tiny.name == name))
    with pytest.raises(UserError, match="finer_look: its backbone does not run alone on pictures of any size"):
        MaskFrozenDetr.build(detector, finer_network)


def test_a_pre_processing_without_one_size_is_named(squashing, finer_network):
    detector = copy.copy(squashing)
    processor = copy.deepcopy(squashing.info.preprocessing.processor)
    processor.size = {"shortest_edge": 96, "longest_edge": 128}
    detector.info = replace(squashing.info, preprocessing=TransformersPreprocessing(processor, any_size=False))
    with pytest.raises(UserError, match="finer_look: its pre-processing has no larger size: there is no one size"):
        MaskFrozenDetr.build(detector, finer_network)


@pytest.mark.parametrize("change", [{"stem_from": "pixels"}, {"neck": False}, {"stem": False, "neck": False}])
def test_a_network_without_a_place_for_the_maps_is_refused(change, finer_network):
    with pytest.raises(ValueError, match="finer_look adds maps of the backbone"):
        replace(finer_network, **change)


def test_detections_without_the_maps_are_refused(squashing, finer_network):
    network = MaskNetwork(finer_network, squashing.with_finer_look().shapes).eval()
    pixels, mask = collate_images([squashing.info.preprocessing(picture())])
    found = squashing(pixels, mask)
    with pytest.raises(ValueError, match="maps of a finer look, but the detections have none"):
        network(found, mask, *all_queries(found))
