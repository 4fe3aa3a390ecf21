"""Which configurations of the mask network there are: senseless ones are refused with the reason."""

import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from mask_frozen_detr.network.config import MaskNetworkConfig, training_free


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_encoder": "vit"}, "image_encoder: found 'vit', expected"),
        ({"box_encoder": "conv"}, "box_encoder: found 'conv', expected"),
        ({"head": "mlp"}, "head: found 'mlp', expected"),
        ({"image_layers": 9}, "image_layers: found 9, expected a whole number from 0 to 8"),
        ({"box_layers": -1}, "box_layers: found -1, expected a whole number from 0 to 8"),
        ({"image_layers": 0}, "image_encoder 'deformable' with 0 layers"),
        ({"image_encoder": "none"}, "image_encoder 'none' with 2 layers"),
        ({"mask_width": 60}, "mask_width: found 60, expected a multiple"),
        ({"mask_width": 0}, "mask_width: found 0, expected a multiple"),
        ({"roi_size": 30}, "roi_size: found 30, expected a multiple of 4"),
        ({"roi_size": 0}, "roi_size: found 0, expected a multiple of 4"),
        ({"upsample": 0}, "upsample: found 0, expected a whole number from 1 to 4"),
        (
            {"upsample": 4, "roi_size": 256, "mask_scoring": False},
            "found 1024 cells a side of a mask, expected at most 512",
        ),
        ({"upsample": 2.0}, "upsample: found 2.0, expected a whole number from 1 to 4"),
        (
            {"roi_align": False, "box_encoder": "none", "box_layers": 0, "upsample": 2},
            "a mask finer than its features works on RoIAlign's box features",
        ),
        ({"roi_align": False}, "a box feature encoder works on RoIAlign's box features"),
        (
            {"roi_align": False, "box_encoder": "none", "box_layers": 0},
            "box-to-object attention works on RoIAlign's box features",
        ),
        (
            {"roi_align": False, "box_encoder": "none", "box_layers": 0, "query_ffn": False, "query_b2o": False},
            "mask scoring works on RoIAlign's box features",
        ),
        ({"stem": False}, "neck works on the backbone's stride-4 map: it needs stem"),
        ({"box_encoder": "none", "box_layers": 0}, "as many layers as the box feature encoder: it needs one"),
        ({"query_ffn": False}, "goes with its FFN"),
        ({"image_layers": True}, "image_layers: found True, expected a whole number from 0 to 8"),
        ({"box_layers": 2.0}, "box_layers: found 2.0, expected a whole number"),
        ({"box_layers": math.nan}, "box_layers: found nan, expected a whole number"),
        ({"roi_size": math.inf}, "roi_size: found inf, expected a multiple of 4 from 4 to 256"),
        ({"roi_size": "32"}, "roi_size: found '32', expected a multiple of 4"),
        ({"roi_size": 4 * 10**9}, "roi_size: found 4000000000, expected a multiple of 4 from 4 to 256"),
        (
            {"mask_width": 8 * 10**9},
            "mask_width: found 8000000000, expected a multiple of the 8 attention heads from 8",
        ),
        ({"mask_width": 128.0}, "mask_width: found 128.0, expected a multiple"),
        (
            {"mask_width": 2048, "roi_size": 256},
            "mask_width 2048 with roi_size 256: found a layer of 4294967296 weights",
        ),
        ({"query_o2o": 1}, "query_o2o: found 1, expected True or False"),
        ({"mask_scoring": "yes"}, "mask_scoring: found 'yes', expected True or False"),
        ({"neck": None}, "neck: found None, expected True or False"),
        ({"head": ["dot-product"]}, "head: found ['dot-product'], expected 'dot-product' or 'segmenter'"),
        ({"head": "\x1b[31m"}, "head: found '\\x1b[31m', expected"),
        ({"box_activation": "tanh"}, "box_activation: found 'tanh', expected 'gelu' or 'relu'"),
        ({"box_norm": "group"}, "box_norm: found 'group', expected 'layer' or 'batch'"),
        ({"box_pyramid": 1}, "box_pyramid: found 1, expected True or False"),
        ({"roi_samples": 0}, "roi_samples: found 0, expected a whole number from 1 to 4"),
        ({"stem_from": 4}, "stem_from: found 4, expected 'auto', 'backbone' or 'pixels'"),
    ],
)
def test_senseless_combinations_are_refused_with_the_reason(changes, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        replace(MaskNetworkConfig(), **changes)


def test_sizes_that_people_use_are_taken():
    for width, size in ((8, 4), (64, 16), (256, 64), (None, 32), (512, 128)):
        assert replace(MaskNetworkConfig(), mask_width=width, roi_size=size).roi_size == size
    assert not training_free().trainable
    assert MaskNetworkConfig().trainable


def test_a_configuration_needs_no_torch():
    code = "import sys; from mask_frozen_detr.network.config import MaskNetworkConfig as C; C(); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "mask_frozen_detr.network.config" in run.stdout.split()
    assert "torch" not in run.stdout.split()
