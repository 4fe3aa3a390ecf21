"""Runs side by side: resampled figures are COCO's own over the images drawn, and differences are paired."""

import contextlib
import copy
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import TIMEOUT, open_browser, until, watched
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_frozen_detr import UserError, evaluation
from mask_frozen_detr.cli import main
from mask_frozen_detr.data.coco import CocoData, ImageRecord
from mask_frozen_detr.demo.scenes import SCENE_DETECTOR
from mask_frozen_detr.report.bootstrap import average_precision, draw_images, interval
from mask_frozen_detr.report.results_files import read_results
from mask_frozen_detr.results.scoring import class_matches, score

IMAGES = 14


def synthetic(seed: int, noise: float = 3.0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth (crowds and images without objects among it) and results: near misses, doubles, strays; no equal scores."""
    rng = np.random.default_rng(seed)
    images = [{"id": 10 + 3 * i, "width": 300, "height": 300} for i in range(IMAGES)]
    annotations: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        for _ in range(0 if number % 5 == 0 else rng.integers(1, 7)):
            category, side = int(rng.choice([1, 2, 5])), float(np.exp(rng.uniform(np.log(8), np.log(150))))
            x, y = rng.uniform(0, 300 - side, 2)
            kind = {"image_id": image["id"], "category_id": category}
            annotations.append(
                {
                    **{"id": len(annotations) + 1, **kind, "bbox": [x, y, side, side], "area": side * side},
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
            for _ in range(rng.integers(0, 3)):
                shift = rng.normal(0, noise, 4)
                entries.append({**kind, "bbox": [x + shift[0], y + shift[1], side + shift[2], side + shift[3]]})
        stray = {"image_id": image["id"], "category_id": int(rng.choice([1, 2]))}
        entries.append({**stray, "bbox": [*rng.uniform(0, 200, 2), *rng.uniform(5, 90, 2)]})
    for entry, place in zip(entries, rng.permutation(len(entries)), strict=True):
        entry["score"] = float(place + 1) / (len(entries) + 1)
    categories = [{"id": key, "name": str(key)} for key in (1, 2, 5, 6)]
    return {"images": images, "annotations": annotations, "categories": categories}, entries


def drawn_anew(truth: dict, entries: list[dict], counts: np.ndarray) -> np.ndarray:
    """(4, T) by pycocotools, of a data set in which each image is there as often as it was drawn."""
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": truth["categories"], "info": {}}
    found: list[dict] = []
    for image, count in zip(truth["images"], counts, strict=True):
        for _ in range(count):
            new = {"image_id": len(data["images"]) + 1}
            data["images"].append({**image, "id": new["image_id"]})
            for entry in (one for one in truth["annotations"] if one["image_id"] == image["id"]):
                data["annotations"].append({**entry, **new, "id": len(data["annotations"]) + 1})
            found += [{**entry, **new} for entry in entries if entry["image_id"] == image["id"]]
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = data
        ground.createIndex()
        scorer = COCOeval(ground, ground.loadRes(found), "bbox")
        scorer.evaluate()
        scorer.accumulate()
    precision = scorer.eval["precision"][..., -1]  # (T, R, K, A)
    sizes = []
    for size in range(4):
        classes = [k for k in range(precision.shape[2]) if precision[0, 0, k, size] > -1]
        sizes.append(100 * precision[:, :, classes, size].mean(axis=(1, 2)) if classes else np.full(10, np.nan))
    return np.array(sizes)


@pytest.mark.parametrize("seed", range(3))
def test_resampled_figures_are_those_of_coco_over_the_images_drawn(seed):
    truth, entries = synthetic(seed)
    drawn = draw_images(IMAGES, 6, seed)
    assert (drawn.sum(axis=1) == IMAGES).all()
    weights = np.concatenate([np.ones((1, IMAGES), np.int64), drawn])
    found = np.stack(
        [average_precision(class_matches(truth, entries, "bbox", size), weights) for size in range(4)], axis=1
    )  # (B, 4, T)
    for counts, ours in zip(weights, found, strict=True):
        np.testing.assert_allclose(ours, drawn_anew(truth, entries, counts), atol=1e-9)
    figures = score(truth, entries, "bbox").figures
    assert found[0, 0].mean() == pytest.approx(figures["AP"])
    assert found[0, 0, 5] == pytest.approx(figures["AP75"])
    assert found[0, 1].mean() == pytest.approx(figures["APs"])


def test_a_class_that_was_not_drawn_does_not_count():
    truth, entries = synthetic(0)
    nothing = np.zeros((1, IMAGES), np.int64)
    assert np.isnan(average_precision(class_matches(truth, entries, "bbox"), nothing)).all()
    assert np.isnan(interval(np.array([np.nan]))).all()


@pytest.fixture(scope="module")
def run(scenes_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "run"
    small = (
        "--image-layers 1 --box-layers 1 --mask-width 8 --roi-size 8 --iterations 1 --workers 0 --no-report --log none"
    )
    assert main(["train", str(SCENE_DETECTOR), str(scenes_folder), "--output", str(folder), *small.split()]) == 0
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("bbox", lambda one: one.update(bbox=[1, 2, {}, 4]), "entry 1: bbox: expected four finite numbers"),
        ("bbox", lambda one: one.update(score="high"), "entry 1: expected image_id and category_id"),
        ("bbox", lambda one: one.update(score=float("nan")), "entry 1: expected image_id and category_id"),
        ("bbox", lambda one: one.update(image_id=[7]), "entry 1: expected image_id and category_id"),
        ("bbox", lambda one: one.update(image_id=9), "is of other data: image 9 is not in it"),
        ("segm", lambda one: one.pop("segmentation"), "entry 1: segmentation: expected run lengths"),
        (
            "segm",
            lambda one: one.update(segmentation=[[1, 1, 5, 5, 1, 5]]),
            "entry 1: segmentation: expected run lengths",
        ),
        ("segm", lambda one: one["segmentation"].update(size=2**32), "entry 1: segmentation: RLE of another size"),
        ("segm", lambda one: one["segmentation"].update(counts="\x1b"), "entry 1: segmentation: RLE counts cannot be"),
        ("segm", lambda one: one["segmentation"].update(counts=[1, 1]), "entry 1: segmentation: RLE counts do not add"),
    ],
)
def test_damaged_results_are_named(kind, change, words, tmp_path):
    """COCO's own code reads such entries with a traceback, or worse."""
    box = {"image_id": 7, "category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4]}
    mask = {"image_id": 7, "category_id": 1, "score": 0.5, "segmentation": {"size": [6, 8], "counts": [40, 8]}}
    entries = {"bbox": [box, dict(box)], "segm": [mask, copy.deepcopy(mask)]}
    change(entries[kind][1])
    for name, content in entries.items():
        (tmp_path / f"theirs.{name}.json").write_text(json.dumps(content))
    data = CocoData(tmp_path, [ImageRecord(7, tmp_path / "a.png", 8, 6, ())], {1: "cat"}, [])
    with pytest.raises(UserError, match=rf"theirs\.{kind}\.json: .*{re.escape(words)}"):
        read_results(str(tmp_path / "theirs.json"), lambda: data)


def test_runs_and_results_side_by_side(run, scenes_folder, tmp_path, capsys, browser):
    """A run beside its own results: no difference; beside results with other scores: one, with its interval."""
    data, quick = ["--data", str(scenes_folder)], ["--workers", "0", "--resamples", "50"]
    results, worse = tmp_path / "same.json", tmp_path / "worse.json"
    command = ["evaluate", str(run), str(scenes_folder), "--workers", "0", "--results-file", str(results)]
    assert main([*command, "--json", str(tmp_path / "figures.json")]) == 0
    for kind in ("bbox", "segm"):
        entries = json.loads((tmp_path / f"same.{kind}.json").read_text())
        (tmp_path / f"worse.{kind}.json").write_text(
            json.dumps([{**one, "score": 1 - one["score"]} for one in entries])
        )
    capsys.readouterr()
    more = ["--json", str(tmp_path / "all.json"), "--report", str(tmp_path / "out")]
    assert main(["compare", str(run), str(results), str(worse), *data, *quick, *more]) == 0
    said = capsys.readouterr().out
    assert "drawn anew 50 times" in said
    found = json.loads((tmp_path / "all.json").read_text())
    assert set(found["differences"]) == {str(results), str(worse)}
    assert all(one["value"] in (0.0, None) for one in found["differences"][str(results)].values())
    assert any(one["value"] for one in found["differences"][str(worse)].values())
    known = json.loads((tmp_path / "figures.json").read_text())
    for name, one in found["figures"][str(run)].items():
        kind, figure = name.split()
        assert one["value"] == pytest.approx(known[kind][figure], abs=1e-4)
        assert one["value"] is None or one["low"] <= one["high"]
    assert main(["compare", str(run), str(worse), *data, *quick, "--json", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["differences"][str(worse)] == found["differences"][str(worse)], "the same images are drawn"
    page = browser.new_page(viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True)
    page.set_default_timeout(TIMEOUT)
    wrong = watched(page)
    page.goto((tmp_path / "out" / "comparison.html").as_uri())
    until(page, "document.querySelectorAll('.js-plotly-plot .main-svg').length >= 1")
    assert page.locator("#differences tbody tr").count() == 2
    assert page.locator("#differences td").first.bounding_box()["width"] > 90, "names do not break letter by letter"
    assert not page.locator(".modebar").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert not wrong
    page.close()


def test_recorded_figures_side_by_side(run, scenes_folder, tmp_path, capsys):
    other = tmp_path / "other.json"
    saved = json.loads((run / "evaluation-1.json").read_text())
    saved["mask"]["AP"] = 12.5
    other.write_text(json.dumps(saved))
    assert main(["compare", str(run), str(other)]) == 0
    assert "12.5" in capsys.readouterr().out
    other.write_text(json.dumps({**saved, "images": 3}))
    assert main(["compare", str(run), str(other)]) == 2
    assert "found figures of different data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("one", "expected two runs or more"),
        ("twice", "each once"),
        ("no run", "is no run folder"),
        ("other data", "image 99 is not in it"),
        ("damaged", "is no file of COCO results"),
        ("others' file", "is there already and holds no comparison"),
    ],
)
def test_what_cannot_be_compared(case, words, run, scenes_folder, tmp_path, capsys, monkeypatch):
    """Each is told before anything is measured."""
    monkeypatch.setattr(evaluation, "measure", lambda *_, **__: pytest.fail("too late"))
    results = tmp_path / "x.json"
    entry = {"image_id": 99, "category_id": 1, "score": 0.5, "bbox": [0, 0, 5, 5], "segmentation": {}}
    for kind in ("bbox", "segm"):
        (tmp_path / f"x.{kind}.json").write_text("{" if case == "damaged" else json.dumps([entry]))
    mine = tmp_path / "mine.json"
    mine.write_text('{"of": "the user"}')
    runs = {"one": [str(run)], "twice": [str(run), f"{run}/"], "no run": [str(run), str(tmp_path)]}
    more = ["--json", str(mine)] if case == "others' file" else []
    command = ["compare", *runs.get(case, [str(results), str(run)]), "--data", str(scenes_folder), *more]
    assert main([*command, "--workers", "0"]) == 2
    assert words in capsys.readouterr().err
    assert mine.read_text() == '{"of": "the user"}'
