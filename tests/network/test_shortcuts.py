"""What is not in the paper as it stands here: the neck and the mapping at once, and a pyramid of box layers.

Against a literal reference, in float64.
"""

import pytest
import torch
from literal_parts import interpolate
from synthetic_detections import randn, scatter_parameters
from torch import nn

from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.network.box_encoder import build_box_encoder
from mask_frozen_detr.network.fusion import Neck

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize(("layers", "strides"), [(1, [1]), (2, [2, 1]), (4, [4, 4, 2, 1])])
def test_a_pyramid_of_box_layers(layers, strides, norm):
    """A layer sees means of stride × stride cells, and what it adds is spread over them."""
    config = MaskNetworkConfig(
        box_encoder="convnext", box_layers=layers, box_norm=norm, box_pyramid=True, roi_size=8, mask_scoring=False
    )
    encoder = build_box_encoder(config, 8).eval()
    scatter_parameters(encoder)
    boxes = randn(2, 8, 8, 8)
    with torch.no_grad():
        for index, stride in enumerate(strides):
            coarse = torch.zeros(2, 8, 8 // stride, 8 // stride)
            for i in range(8 // stride):
                for j in range(8 // stride):
                    piece = boxes[:, :, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]
                    coarse[:, :, i, j] = piece.sum((2, 3)) / stride**2
            change = encoder.layers[index](coarse) - coarse
            expected = boxes + torch.stack([interpolate(one, stride) for one in change])
            found = encoder.layer(index, boxes, None)
            assert torch.allclose(found, expected)
            assert (found - boxes).std() > 0.1
            boxes = found


@pytest.mark.parametrize(("channels", "width"), [(6, 64), (12, 20), (5, 16)], ids=["twos", "fives", "alone"])
@pytest.mark.parametrize("padded", [False, True])
def test_equation_14_and_the_mapping_at_once(channels, width, padded):
    """W · GN(PWConv(C₁)) by the covariance of C₁'s channels, also where their mean is far from 0."""
    neck, mapper = Neck(channels, width), nn.Linear(width, 8)
    scatter_parameters(neck)
    assert neck.conv.bias is not None
    stem, valid = 3 * randn(2, channels, 6, 7) + 20, torch.ones(2, 6, 7, dtype=torch.bool)
    if padded:
        valid[1, 4:], valid[1, :, 5:] = False, False
    with torch.no_grad():
        found = neck(stem, valid if padded else None, mapper)
        for b, (h, w) in enumerate([(6, 7), (4, 5) if padded else (6, 7)]):
            alone = stem[b : b + 1, :, :h, :w]
            maps = torch.einsum("dc,bchw->bdhw", neck.conv.weight[:, :, 0, 0], alone) + neck.conv.bias[:, None, None]
            normed = torch.nn.functional.group_norm(maps, neck.norm.num_groups, neck.norm.weight, neck.norm.bias)
            assert torch.allclose(found[b, :, :h, :w], torch.einsum("cd,dhw->chw", mapper.weight, normed[0]))
            assert not found[b, :, h:].any()
            assert not found[b, :, :, w:].any()


def test_more_channels_than_the_detector_has_are_mapped_one_after_the_other():
    neck, mapper, stem = Neck(40, 20), nn.Linear(20, 8), randn(1, 40, 6, 7)
    with torch.no_grad():
        expected = torch.einsum("cd,bdhw->bchw", mapper.weight, neck(stem, None))
        assert torch.allclose(neck(stem, None, mapper), expected)


def test_the_mapping_at_once_in_half_precision():
    """Statistics are taken in float32: as sums of squares they would be too large for float16."""
    torch.set_default_dtype(torch.float32)
    neck, mapper = Neck(6, 64), nn.Linear(64, 8)
    scatter_parameters(neck)
    stem = (300 * randn(1, 6, 40, 50) + 3000).half()
    with torch.no_grad():
        expected = torch.einsum("cd,bdhw->bchw", mapper.weight, neck(stem.float(), None))
        for dtype in (torch.float16, torch.bfloat16):
            with torch.autocast("cpu", dtype=dtype):
                found = neck(stem, None, mapper)
            assert found.dtype == torch.float16
            assert torch.allclose(found.float(), expected, atol=5e-3 * expected.abs().max().item())


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_mapping_at_once_with_weights_in_half_precision(dtype, padded):
    torch.set_default_dtype(torch.float32)
    neck, mapper = Neck(6, 64), nn.Linear(64, 8)
    scatter_parameters(neck)
    stem, valid = randn(2, 6, 8, 9).to(dtype), torch.ones(2, 8, 9, dtype=torch.bool)
    if padded:
        valid[1, 5:] = False
    with torch.no_grad():
        maps = neck(stem.float(), valid if padded else None)
        expected = torch.einsum("cd,bdhw->bchw", mapper.weight, maps)
        found = neck.to(dtype)(stem, valid if padded else None, mapper.to(dtype))
    assert found.dtype == dtype
    assert torch.allclose(found.float(), expected, atol=2e-2 * expected.abs().max().item())
