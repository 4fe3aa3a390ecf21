"""The benchmarks, run as a user runs them, at sizes where all that counts is that they run."""

import contextlib
import io
import json
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import measure
from benchmarks.__main__ import main
from benchmarks.absent import Absent, absent_packages, standing_in
from benchmarks.measure import Timing, interleaved, rounded
from benchmarks.pictures import draw_detections, draw_pictures
from benchmarks.report import markdown
from benchmarks.sizes import TINY

CPU = torch.device("cpu")


def run_benchmarks(folder: Path, *options: str):
    """The report, its table, what was printed. Without a GPU it must say so, and run all the same."""
    arguments = ["--gpu", "--device", "cpu", "--output", str(folder), "--name", "run", *options]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", ["benchmarks", *arguments])
        patch.setattr(measure, "LEAST_SECONDS", 1e-9)  # once is enough where no figure counts
        assert main() == 0
    return json.loads((folder / "run.json").read_text()), (folder / "run.md").read_text(), printed.getvalue()


QUICK = {
    "attention-parity": {"output", "of value", "of locations", "of weights"},
    "attention-speed": {"reference ms"},
    "loading": {"images/s of one core"},
}
OF_WHOLE_MODELS = {
    "roofline": {"10⁹ operations", "GB, nothing fused", "ms by operations", "ms by bytes", "ms measured"},
    "shared-attention": {"ms"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What needs no whole models, which take longer."""
    return run_benchmarks(tmp_path_factory.mktemp("benchmarks"), "--only", *QUICK)


def test_the_report_says_what_was_run_on_what(run):
    report, table, printed = run
    assert report["command"].startswith("python -m benchmarks --gpu --device cpu")
    assert "--output" not in report["command"]  # where the reports went is the machine's own affair
    assert report["commit"] is None or len(report["commit"]) == 40
    assert report["versions"]["torch"] == torch.__version__
    assert report["hardware"]["clock"] == "processor"
    assert report["hardware"]["threads"] == 1
    assert report["hardware"]["device"]
    assert "no GPU" in report["notes"][0]
    assert "There is no GPU here" in table
    assert table == markdown(report)
    assert printed.strip() == table.strip()


def test_every_section_has_its_figures(run):
    check_figures(run[0]["sections"], QUICK)


@pytest.mark.slow
def test_sections_of_whole_models_have_theirs(tmp_path):
    check_figures(run_benchmarks(tmp_path, "--only", *OF_WHOLE_MODELS)[0]["sections"], OF_WHOLE_MODELS)


def check_figures(sections: dict[str, Any], wanted: dict[str, set[str]]) -> None:
    assert {name: section["status"] for name, section in sections.items()} == dict.fromkeys(wanted, "done")
    for name, keys in wanted.items():
        assert sections[name]["rows"]
        for row in sections[name]["rows"]:
            assert all(row[key] > 0 for key in keys), (name, row)


def test_the_roofline_counts_a_convolution():
    from benchmarks.roofline import count

    layer, images = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        operations, moved = count(lambda: layer(images).view(-1))
    assert operations == 2 * 2 * 16 * 16 * 8 * 27
    assert moved == 4 * (2 * 3 * 256 + 8 * 27 + 2 * 8 * 256)  # in, weights, out; the view is free


@pytest.mark.slow
def test_all_contestants_are_measured(tmp_path):
    sections = run_benchmarks(tmp_path)[0]["sections"]
    assert {section["status"] for section in sections.values()} == {"done"}
    names = {"Mask Frozen-DETR", "Mask2Former (transformers)", "Mask R-CNN (torchvision)"}
    assert {row["model"] for row in sections["training"]["rows"]} == names
    assert {row["what"].split(":")[0] for row in sections["inference"]["rows"]} == names
    assert all(row["step ms"] > 0 and row["trainable M"] > 1 for row in sections["training"]["rows"])
    ours = next(row for row in sections["training"]["rows"] if row["model"] == "Mask Frozen-DETR")
    assert ours["step ÷ forward"] > 1


def test_our_contestant_matches_all_objects_and_makes_all_masks():
    from benchmarks.contestants import ours

    contestant = ours(TINY, draw_pictures(TINY, 2), CPU, "fp32")
    losses = contestant.step()
    assert losses["matches"] == 2 * TINY.objects
    assert all(loss.isfinite() for loss in losses.values())
    assert [len(instances) for instances in contestant.infer()] == [TINY.boxes] * 2


def test_pictures_have_masks_in_their_boxes():
    picture = draw_pictures(TINY, 1)[0]
    boxes, logits = draw_detections([picture], queries=9, classes=91)
    for mask, crop, (x0, y0, x1, y1) in zip(picture.masks, picture.box_masks(64), picture.corners, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert (rows.min() >= y0 - 1, rows.max() <= y1) == (True, True)
        assert (columns.min() >= x0 - 1, columns.max() <= x1) == (True, True)
        # the same outline at two resolutions
        assert crop.float().mean() == pytest.approx(float(mask.sum() / ((x1 - x0) * (y1 - y0))), abs=0.15)
    assert boxes.shape == (1, 9, 4)
    assert logits[0].argmax(-1)[: TINY.objects].tolist() == picture.labels.tolist()


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.parametrize("threads", [1, 2])
def test_contestants_take_turns_and_one_that_fails_is_left_out(threads):
    calls = []

    def fail():
        raise RuntimeError("no memory")

    def work(name: str, seconds: float) -> None:
        calls.append(name)
        busy(seconds)

    works = {"a": partial(work, "a", 0.06), "b": partial(work, "b", 0.12)}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # one is timed by the processor's clock, several by the wall's
    try:
        found = interleaved({**works, "c": fail}, CPU, rounds=3)
    finally:
        torch.set_num_threads(before)
    assert found["c"] == "RuntimeError: no memory"
    one, two = found["a"], found["b"]
    assert isinstance(one, Timing)
    assert isinstance(two, Timing)
    assert 60 <= one.least <= one.median <= one.most
    assert two.rounds == 3
    a, b = "a" * one.calls, "b" * two.calls
    assert "".join(calls) == "aabb" + a + b + b + a + a + b
    if threads == 1:  # a busy machine makes the wall's clock run ahead
        assert (a, b) == ("aa", "b")


def test_time_that_is_up_ends_the_rounds():
    found = interleaved({"a": lambda: busy(0.1)}, CPU, rounds=50, until=-math.inf)["a"]
    assert isinstance(found, Timing)
    assert found.rounds == 1


def test_packages_that_are_absent_can_be_imported_and_not_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # as if it were not installed
    assert absent_packages() == ["hotcoco"]
    monkeypatch.delitem(sys.modules, "hotcoco")
    with standing_in(["hotcoco"]):
        from hotcoco import COCO

        assert isinstance(COCO, Absent)
        assert "hotcoco" in absent_packages()
        with pytest.raises(ModuleNotFoundError, match=r"hotcoco\.COCO is needed here"):
            COCO("file")
    assert "hotcoco" not in sys.modules


def test_figures_are_rounded_to_what_they_are_worth():
    assert rounded(1234.5) == 1230
    assert rounded(0.0123456) == 0.0123
    assert rounded(math.inf) is None
