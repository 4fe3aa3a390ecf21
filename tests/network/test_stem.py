"""Where the stride-4 detail comes from: which stem is taken, and that padding and place are right for each."""

from dataclasses import replace

import pytest
import torch
from synthetic_detections import draw_detections, pad_batch, scatter_parameters

from mask_frozen_detr.detectors.base import DetectorShapes
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig, training_free
from mask_frozen_detr.network.stem import PixelStem, Stem, choose_stem

C1 = DetectorShapes(16, (16, 16), (8, 16), 12, 3)
COARSE = DetectorShapes(16, (16,), (16,), 12, 3, stem_stride=16)
NONE = DetectorShapes(16, (16,), (16,), None, 3)
CONFIG = MaskNetworkConfig(mask_width=8, roi_size=8, image_layers=1, box_layers=1)
SIZES, PADDED = [(64, 96), (70, 101), (90, 37)], (97, 128)


@pytest.mark.parametrize(
    ("shapes", "changes", "expected"),
    [
        (C1, {}, "backbone"),
        (C1, {"stem_from": "backbone"}, "backbone"),
        (C1, {"stem_from": "pixels"}, "pixels"),
        (C1, {"stem": False, "neck": False}, None),
        (C1, {"stem": False, "neck": False, "stem_from": "pixels"}, None),
        (replace(C1, strides=(4, 8)), {}, None),
        (replace(C1, strides=(4, 8)), {"stem_from": "pixels"}, None),
        (COARSE, {"stem_from": "backbone"}, "backbone"),
        (COARSE, {"stem_from": "pixels"}, "pixels"),
        (NONE, {"stem_from": "pixels"}, "pixels"),
    ],
)
def test_what_is_added_to_the_finest_map(shapes, changes, expected):
    stem = choose_stem(replace(CONFIG, **changes), shapes)
    assert (stem and stem.source) == expected


def test_a_stem_knows_its_width_and_stride():
    assert choose_stem(CONFIG, replace(COARSE, stem_stride=8)) == Stem("backbone", 12, 8)
    assert choose_stem(replace(CONFIG, stem_from="pixels"), COARSE) == Stem("pixels", 24, 4)


def test_auto_takes_the_earliest_map_that_is_finer():
    finer = replace(COARSE, stem_stride=8)
    assert choose_stem(CONFIG, C1) == Stem("backbone", 12, 4)
    assert choose_stem(CONFIG, finer) == Stem("backbone", 12, 8)
    assert choose_stem(CONFIG, COARSE) is None
    assert choose_stem(CONFIG, NONE) is None
    assert choose_stem(training_free(), finer) is None  # nothing learned, nothing coarse
    assert not list(MaskNetwork(training_free(), finer).parameters())


def test_refusals():
    with pytest.raises(ValueError, match="the detector has no map finer than E₁; expected 'pixels' or 'auto'"):
        choose_stem(replace(CONFIG, stem_from="backbone"), NONE)


@pytest.mark.parametrize("stride", [14, 16, 8])
@pytest.mark.parametrize("source", ["backbone", "pixels"])
def test_padding_changes_nothing(source, stride):
    shapes = replace(COARSE, strides=(16,), stem_stride=stride)
    network = MaskNetwork(replace(CONFIG, stem_from=source), shapes).eval()
    scatter_parameters(network)
    alone = [draw_detections(shapes, size, 4, torch.Generator().manual_seed(k)) for k, size in enumerate(SIZES)]
    together, pixel_mask = pad_batch(alone, SIZES, PADDED, shapes, torch.Generator().manual_seed(9))
    with torch.no_grad():
        found = network(together, pixel_mask, torch.arange(3).repeat_interleave(4), torch.arange(4).repeat(3))
        for b, (one, size) in enumerate(zip(alone, SIZES, strict=True)):
            expected = network(one, torch.ones(1, *size), torch.zeros(4, dtype=torch.long), torch.arange(4))
            assert expected.logits.std() > 0.02
            assert torch.allclose(found.logits[4 * b : 4 * b + 4], expected.logits, atol=1e-4)


def test_the_pixel_stem_is_small_and_centred():
    """A cell sees the same margin of pixels on each side of its own four."""
    module = PixelStem()
    assert sum(parameter.numel() for parameter in module.parameters()) == 6952
    pixels = torch.randn(1, 3, 32, 40, requires_grad=True)
    output = module(pixels, torch.ones(1, 32, 40))
    assert output.shape == (1, PixelStem.width, 8, 10)
    output[0, :, 4, 5].sum().backward()
    assert pixels.grad is not None
    rows, columns = (pixels.grad[0].abs().sum((0, axis)).nonzero()[:, 0].tolist() for axis in (2, 1))
    assert rows == list(range(4 * 4 - 3, 4 * 5 + 3))
    assert columns == list(range(4 * 5 - 3, 4 * 6 + 3))


def test_the_pixel_stem_covers_broken_cells():
    assert PixelStem()(torch.randn(1, 3, 33, 38), torch.ones(1, 33, 38)).shape == (1, PixelStem.width, 9, 10)
