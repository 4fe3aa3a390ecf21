"""One detector of each family, tiny and random, as ONNX: it finds what torch finds in two pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_models import assert_same, picture
from family_models import TINY_MODELS, TinyModel, installed
from official_samples import random_model, small_deformable, small_dino, write_checkpoint
from PIL import Image
from synthetic_detections import scattered

from mask_frozen_detr import MaskFrozenDetr, MaskNetworkConfig, OnnxModel
from mask_frozen_detr.detectors import FrozenDetector
from mask_frozen_detr.detectors.official import load_official
from mask_frozen_detr.detectors.preprocessing import ShortestEdge, collate_images
from mask_frozen_detr.export.folder import export_model
from mask_frozen_detr.results.inference import segment
from mask_frozen_detr.results.instances import Instances

pytest.importorskip("onnxscript", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

# Few layers: an export takes time by the operator, and each layer brings the same ones.
FEW_LAYERS = {"encoder_layers": 2, "decoder_layers": 2}
CANVAS = (96, 160)  # of detectors of any size: the shorter side is 96
NETWORK = MaskNetworkConfig(
    image_encoder="convnext", image_layers=1, box_encoder="convnext", box_layers=1, mask_width=8, roi_size=8, upsample=2
)
SQUASHING = ("rt_detr", "rt_detr_v2", "d_fine", "deimv2 femto", "rf_detr", "lw_detr", "pp_doclayout_v3")
PADDING = ("deformable_detr", "deformable_detr two-stage", "detr", "conditional_detr")
OFFICIAL = {
    "h-detr": lambda: small_deformable("resnet", encoder_layers=2, decoder_layers=2),
    "dino": lambda: small_dino("resnet", encoder_layers=2, decoder_layers=2),
}


def tiny(name: str) -> TinyModel:
    found = next(model for model in TINY_MODELS if model.name == name)
    if not installed(found):
        pytest.skip(f"this version of transformers has no {name}")
    return replace(found, changes={**FEW_LAYERS, **found.changes})


def check(detector: FrozenDetector, folder: Path, canvas: tuple[int, int] | None) -> None:
    torch.manual_seed(0)
    model = scattered(detector, NETWORK).eval()
    made = export_model(model, folder, max_detections=10, size=canvas)
    assert max(made.differences.values()) < 1e-3
    assert not made.strangers
    pictures = [Image.fromarray(picture(120, 160)), Image.fromarray(picture(96, 104, seed=1))]
    pixels = [model.preprocessing(one) for one in pictures]  # of both: resizing rounds, and random networks amplify it
    sizes = [(one.height, one.width) for one in pictures]
    ours = OnnxModel(folder).segment([one.numpy() for one in pixels], sizes, 10)
    theirs = [in_torch(model, one, size, canvas) for one, size in zip(pixels, sizes, strict=True)]
    assert all(len(found) for found in theirs)
    assert not np.array_equal(theirs[0].class_scores, theirs[1].class_scores), "what is in the pictures counts"
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other)


def in_torch(
    model: MaskFrozenDetr, pixels: torch.Tensor, size: tuple[int, int], canvas: tuple[int, int] | None
) -> Instances:
    """On a canvas of that size, beside which some detectors see their picture: they normalise over padding as well."""
    others = [] if canvas is None else [torch.zeros(3, *canvas)]
    pixel_values, pixel_mask = collate_images([pixels, *others])
    return segment(model.detector, model.network, pixel_values[:1], pixel_mask[:1], [size], 10)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", SQUASHING)
def test_detectors_of_one_size(name, tmp_path):
    model = tiny(name)
    check(model.load(model.save(tmp_path / "detector")), tmp_path / "exported", None)


@pytest.mark.slow
@pytest.mark.parametrize("name", PADDING)
def test_detectors_of_any_size_take_padded_pictures(name, tmp_path):
    model = tiny(name)
    check(model.load(model.save(tmp_path / "detector")), tmp_path / "exported", CANVAS)


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_checkpoints(name, tmp_path):
    checkpoint = write_checkpoint(random_model(OFFICIAL[name](), encoder_layer=2), tmp_path / "file.pth")
    detector = load_official(checkpoint, encoder_layer=2)
    detector.info = replace(detector.info, preprocessing=ShortestEdge(96, 160))
    check(detector, tmp_path / "exported", CANVAS)
