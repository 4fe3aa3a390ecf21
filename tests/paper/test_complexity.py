"""Parameters and multiply-accumulates against the paper's tables and against counts made by hand."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from synthetic_detections import draw_detections
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import roi_align

from mask_frozen_detr.detectors.base import DetectorShapes
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig, training_free
from mask_frozen_detr.network.swin import SwinLayer
from mask_frozen_detr.paper.complexity import (
    DINO,
    H_DETR,
    as_json,
    as_written,
    complexity,
    complexity_rows,
    count_macs,
    format_table,
)
from mask_frozen_detr.paper.tables import REPEATED, paper_rows


@pytest.fixture(scope="module")
def rows():
    return complexity_rows()


def test_every_row_has_the_papers_parameters(rows):
    assert [row for row in rows if f"{row.params / 1e6:.2f}" != f"{row.paper_params_m:.2f}"] == []


def test_every_row_has_the_papers_multiply_accumulates(rows):
    """Within 1%; Table 1's rows, the last of which Table 2 prints again, within 5%."""
    tolerance = {True: 0.05, False: 0.01}
    for row in rows:
        small = row.table == 1 or (row.table, row.row) == (2, "none")
        assert row.macs / 1e9 == pytest.approx(row.paper_gmacs, rel=tolerance[small]), row


def test_which_rows_there_are(rows):
    assert len(rows) == 41
    assert Counter(row.table for row in rows) == {1: 4, 2: 9, 3: 9, 4: 4, 5: 4, 10: 3, 12: 2, 14: 1, 16: 5}
    # what is left out has its figures in a row that stays
    kept = {(row.paper_params_m, row.paper_gmacs) for row in rows}
    left_out = [row for row in paper_rows() if (row.table, row.name) in REPEATED]
    assert len(left_out) == 5
    assert {(row.params_m, row.gmacs) for row in left_out} <= kept
    assert complexity_rows(12) == [row for row in rows if row.table == 12]
    assert [row.row for row in complexity_rows(16)] == [row.name for row in paper_rows(16)]


@pytest.mark.parametrize("table", [0, 6, 15, 17])
def test_other_tables_are_refused(table):
    with pytest.raises(UserError, match=rf"--table: found {table}, expected .*\[1, 2, 3, 4, 5, 10, 12, 14, 16\]"):
        complexity_rows(table)


def test_json_has_these_keys(rows):
    written = json.loads(json.dumps(as_json(rows)))
    assert len(written) == len(rows)
    for entry in written:
        assert set(entry) == {"table", "row", "params", "macs", "paper_params_m", "paper_gmacs"}
        assert type(entry["params"]) is type(entry["macs"]) is int
    assert written[-1]["paper_gmacs"] == 507.38


def test_the_printed_table_shows_both(rows):
    text = format_table([row for row in rows if row.row == "segmenter"])
    assert text.splitlines()[1].split() == ["14", "segmenter", "3.29", "3.29", "83.91", "83.77", "0.16%"]


# --- the counter ---


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Linear(8, 12), (3, 8), 3 * 8 * 12),
        (nn.Conv2d(4, 6, 3, padding=1), (1, 4, 5, 7), 5 * 7 * 6 * 4 * 9),
        (nn.Conv2d(4, 4, 7, padding=3, groups=4), (1, 4, 5, 7), 5 * 7 * 4 * 49),
        (nn.LayerNorm(8), (3, 8), 5 * 24),
        (nn.GroupNorm(2, 8), (3, 8, 5, 5), 5 * 600),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 3, 4, 5), 4 * 3 * 8 * 10),
        (nn.GELU(), (3, 8), 0),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_macs_of_a_module_by_hand(module, shape, macs, device):
    module = module.to(device)
    assert count_macs(lambda: module(torch.ones(shape, device=device))) == macs


def test_roi_align_counts_per_output_element():
    for device in ("cpu", "meta"):
        maps, boxes = torch.ones(1, 6, 9, 9, device=device), torch.tensor([[0, 1, 1, 8, 8.0]], device=device)
        assert count_macs(partial(roi_align, maps, boxes, 4, sampling_ratio=2)) == 17 * 6 * 16


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_multi_head_attention_by_hand(device):
    c, queries, keys = 16, 3, 50
    attention = nn.MultiheadAttention(c, 4, batch_first=True, device=device).eval()
    q, k = torch.ones(1, queries, c, device=device), torch.ones(1, keys, c, device=device)
    projections = c * c * (queries + 2 * keys + queries)
    products = 2 * queries * keys * c
    assert count_macs(lambda: attention(q, k, k, need_weights=False)) == projections + products


@pytest.mark.parametrize("index", [0, 1])
def test_window_attention_by_hand(index):
    """A 10 × 6 map is padded to 16 × 8: two windows of 64 tokens."""
    c, cells, padded = 16, 60, 128
    layer = SwinLayer(c, 8, index).eval()
    attention = 4 * c * c * padded + 2 * padded * 64 * c
    ffn = 8 * c * c * cells
    norms = 2 * 5 * c * cells
    assert count_macs(lambda: layer(torch.ones(1, c, 10, 6))) == attention + ffn + norms


def test_default_network_by_hand():
    """Every product of the default network on 800 × 1120, written out."""
    d, c, N, r, K = 256, 128, 100, 32, 80
    tokens = sum(-(-800 // s) * (1120 // s) for s in (8, 16, 32)) + 13 * 18
    heads, points = 8, 4

    def deformable(width, count, levels):
        attention = width * heads * levels * points * 3 + 2 * width * width
        return count * (attention + 8 * width * width + 2 * 5 * width)

    F = 200 * 280
    cells = N * r * r
    image = 2 * deformable(d, tokens, 4)
    neck = F * (d * d + 5 * d)
    upsample = F * d * 4
    mapper = F * d * c + N * d * c
    align = 17 * cells * c
    box = 2 * deformable(c, cells, 1)
    b2o = 2 * c * c * (N + cells) + 2 * cells * c + 5 * N * c
    query = 2 * (b2o + 8 * N * c * c + 5 * N * c)
    head = cells * c
    convs = N * 9 * c * (16 * 16 * (c + 1) + 8 * 8 * c + 4 * 4 * c)
    scoring = convs + N * (c * 16 * c + c * c + c * K)
    expected = image + neck + upsample + mapper + align + box + query + head + scoring
    assert complexity(MaskNetworkConfig(), H_DETR, N) == (3_261_712, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"query_o2o": True},
        {"image_encoder": "swin", "box_encoder": "swin"},
        {"image_encoder": "convnext", "box_encoder": "convnext", "head": "segmenter", "upsample": 2},
    ],
)
def test_shapes_alone_count_what_real_tensors_count(changes):
    shapes = DetectorShapes(16, (16, 16), (8, 16), 12, 7)
    config = replace(MaskNetworkConfig(mask_width=8, roi_size=8), **changes)
    counted = complexity(config, shapes, 5, (72, 96))
    network = as_written(MaskNetwork(config, shapes).eval())
    detections = draw_detections(shapes, (72, 96), 5, torch.Generator().manual_seed(0))
    index = torch.zeros(5, dtype=torch.long)
    macs = count_macs(lambda: network(detections, torch.ones(1, 72, 96), index, torch.arange(5)))
    assert counted == (sum(parameter.numel() for parameter in network.parameters()), macs)
    assert macs > 1e6


def test_counting_leaves_results_as_they_are():
    """What stands in for `grid_sample` on the meta device does so nowhere else."""
    maps, grid = torch.rand(1, 2, 4, 4), torch.rand(1, 3, 3, 2)
    found = []
    macs = count_macs(lambda: found.append(nn.functional.grid_sample(maps, grid, align_corners=False)))
    assert macs == 0
    assert torch.equal(found[0], nn.functional.grid_sample(maps, grid, align_corners=False))
    stand_in = []
    count_macs(
        lambda: stand_in.append(nn.functional.grid_sample(maps.to("meta"), grid.to("meta"), align_corners=False))
    )
    assert stand_in[0].shape == found[0].shape


def test_torchs_counter_still_counts_two_a_multiply_accumulate():
    """The halving in `count_macs` rests on it."""
    with FlopCounterMode(display=False) as counter:
        nn.Linear(8, 12)(torch.ones(3, 8))
    assert counter.get_total_flops() == 2 * 3 * 8 * 12


# --- the paper's tables ---


def test_paper_rows_are_complete_and_named_apart():
    counts = Counter(row.table for row in paper_rows())
    assert counts == dict(zip(range(1, 17), [4, 10, 10, 4, 4, 13, 7, 3, 2, 3, 11, 4, 2, 2, 3, 5], strict=True))
    assert len({(row.table, row.name) for row in paper_rows()}) == len(paper_rows())
    for row in paper_rows():
        assert row.ap is not None
        assert (row.gmacs is None) == (row.params_m is None) == (row.table in (6, 7, 8, 9, 11, 13, 15))
        assert (row.network is None) == (row.method != "Mask Frozen-DETR")
        if row.network is None:
            with pytest.raises(ValueError, match=row.method):
                _ = row.config


def test_rows_that_the_paper_repeats_have_equal_figures_and_networks():
    """The default stands in ten tables, and each step of the ablation starts with the result of the one before."""

    def row(table, name):
        return next(row for row in paper_rows(table) if row.name == name)

    same = [
        [(1, "roi-stem"), (2, "none")],
        [(2, "deformable-2"), (3, "none")],
        [(3, "deformable-2"), (4, "width-256")],
        [(4, "width-128"), (5, "none")],
        [(5, "ffn-b2o"), (12, "none")],
        [
            (12, "neck-points-scoring"),
            (6, "h-detr-resnet50-o365"),
            (8, "batch-8"),
            (9, "epochs-6"),
            (10, "roi-32"),
            (13, "no-jitter"),
            (14, "dot-product"),
            (15, "layer-4"),
        ],
        [(6, "dino-focalnet-large"), (16, "image-2-box-2")],
    ]
    for names in same:
        found = [row(*name) for name in names]
        assert len({(r.ap, r.ap50, r.ap75, r.ap_s, r.ap_m, r.ap_l) for r in found}) == 1, names
        assert len({r.gmacs for r in found} - {None}) <= 1, names
        assert len({r.config for r in found}) == 1, names
    assert row(1, "roi-stem").config == training_free()
    assert row(14, "dot-product").config == MaskNetworkConfig()
    assert DINO.stem_width is None
