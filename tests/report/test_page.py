"""The page of a run: its figures, its filters, and that nothing in it is markup but its own."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import TIMEOUT, open_browser, until, watched

from mask_frozen_detr import MaskFrozenDetr, MaskNetworkConfig, TrainConfig, load_detector, train
from mask_frozen_detr.cli import main
from mask_frozen_detr.demo.scenes import SCENE_DETECTOR
from mask_frozen_detr.evaluation import Measured, measure
from mask_frozen_detr.report import figures
from mask_frozen_detr.report.history import History, read_history
from mask_frozen_detr.report.page import write_report
from mask_frozen_detr.training.config import AugmentConfig

pytestmark = pytest.mark.skipif(find_spec("plotly") is None, reason="the extra report is not installed")
HOSTILE = {
    1: "<script>alert(1)</script>",
    2: '"><img src=x onerror=alert(1)>',
    3: "\x1b[31mred\u202eback\x00",
    4: "very long " * 500,
    5: "</script><style>body{display:none}</style>",
    6: "$x$ <b>bold</b> &amp; {{7*7}}",
}


@pytest.fixture(scope="module")
def detector():
    return load_detector(SCENE_DETECTOR)


@pytest.fixture(scope="module")
def run(detector, scenes, tmp_path_factory) -> Path:
    """A run with a page, whose masks have learned a little."""
    folder = tmp_path_factory.mktemp("page") / "run"
    model = MaskFrozenDetr.build(
        detector, MaskNetworkConfig(image_layers=1, box_layers=1, mask_width=16, roi_size=8, mask_scoring=False)
    )
    config = TrainConfig(
        iterations=6, workers=0, log_every=1, lr=3e-3, evaluate_every=3, augment=AugmentConfig(multi_scale=False)
    )
    train(model, scenes[0], scenes[1], folder, config, quiet=True)
    return folder


@pytest.fixture(scope="module")
def measured(run, detector, scenes) -> Measured:
    return measure(MaskFrozenDetr.from_pretrained(run, detector), scenes[1])


@pytest.fixture(scope="module")
def hostile(measured, run, tmp_path_factory) -> Path:
    """A page of classes and files with names that would like to be markup."""
    folder = tmp_path_factory.mktemp("hostile")
    images = []
    for record in measured.images:
        path = folder / f"<img src=x onerror=alert({record.id})>{'n' * 150}.jpg"
        shutil.copyfile(record.path, path)
        images.append(replace(record, path=path))
    names = dict(zip(measured.evaluation.box_by_class, HOSTILE.values(), strict=False))
    evaluation = replace(
        measured.evaluation,
        box_by_class={names[name]: value for name, value in measured.evaluation.box_by_class.items()},
        mask_by_class={names[name]: value for name, value in measured.evaluation.mask_by_class.items()},
        problems=[f"{folder}/<script>alert(2)</script>: no picture"],
        categories_without_class=list(HOSTILE.values()),
    )
    history = replace(read_history(run), options={"<i>name</i>": {"a": HOSTILE[2]}})
    odd = replace(measured, images=images, categories=HOSTILE, evaluation=evaluation)
    return write_report(folder / "out", HOSTILE[1], odd, history, [HOSTILE[3]])


class Elements(HTMLParser):
    """All tags with their attributes, the text between them, and the cells of tables by their id."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._table, self._inside = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "table":
            self._table = dict(attrs).get("id") or ""
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("td", "th"):
            self.tables[self._table][-1].append(data)
        if self._inside not in ("script", "style"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def embedded(page: Path) -> dict:
    match = re.search(r'<script type="application/json" id="evaluation">(.*?)</script>', page.read_text(), re.S)
    assert match is not None
    return json.loads(match[1])


def test_the_figures_are_those_of_evaluate(run, scenes_folder, tmp_path, capsys):
    command = ["evaluate", str(run), str(scenes_folder), "--workers", "0"]
    assert main([*command, "--json", str(tmp_path / "a.json"), "--report", str(tmp_path / "out")]) == 0
    page = tmp_path / "out" / "report.html"
    assert str(page) in capsys.readouterr().err
    written = json.loads((tmp_path / "a.json").read_text())
    shown = embedded(page)
    assert shown == {key: written[key] for key in shown}
    rows = {row[0]: row[1:] for row in Elements(page.read_text()).tables["figures"][1:]}
    for name in ("AP", "AP50", "AP75", "APs", "AR100"):
        box, mask = written["box"][name], written["mask"][name]
        expected = (
            ["–", "–", "–"] if box is None else [f"{box:.1f}", f"{mask:.1f}", f"{mask / box:.2f}" if box else "–"]
        )
        assert rows[name] == expected
    classes = {row[0]: row[2] for row in Elements(page.read_text()).tables["classes"][1:]}
    for name, pair in written["by_class"].items():
        assert classes[name] == ("–" if pair["mask"] is None else f"{pair['mask']:.1f}")


def test_precision_curves_are_of_these_figures(measured):
    """AP is the mean of a curve over recalls."""
    for scores in (measured.box, measured.mask):
        assert np.mean(scores.curves) == pytest.approx(scores.figures["AP"])
        assert np.mean(scores.curves[0]) == pytest.approx(scores.figures["AP50"])
        assert np.mean(scores.curves[5]) == pytest.approx(scores.figures["AP75"])


def test_the_page_of_a_run(run):
    page = (run / "report.html").read_text()
    found = Elements(page)
    words = " ".join(found.words)
    written = json.loads((run / "evaluation-6.json").read_text())
    assert {"step": 6, **embedded(run / "report.html")} == written
    for chart in ("losses", "iou", "ap", "sizes", "classes-chart", "precision", "ious"):
        assert any(attributes.get("id") == chart for attributes in found.all("div")), chart
    assert "min_box_iou" in words
    assert len(found.all("figure")) > 5
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in found.all("img"))
    assert "report.html" in json.loads((run / "training.json").read_text())["files"]
    assert (run / "report.html").stat().st_size < 16e6


def test_a_run_that_stopped_early(measured, tmp_path):
    """Between two lines of metrics; its last evaluation is of all val images, those before of some."""
    some, whole = replace(measured.evaluation, images=2), replace(measured.evaluation, images=3)
    best = replace(whole, mask={**whole.mask, "AP": 12.34})
    history = History([{"step": 20, "loss": 1.0}], {10: some, 20: some, 25: whole}, {}, 10, best)
    words = " ".join(Elements(write_report(tmp_path, "run", measured, history).read_text()).words)
    assert "25 iterations" in words
    assert "The best weights are those of iteration 10, in best/: mask AP 12.3 of 3 images." in words
    curves = figures.ap_curves(history)
    assert curves is not None
    for curve in curves.data:
        assert list(curve.x) == [10, 20, 25, 25]
        assert [value is None for value in curve.y] == [False, False, True, False], "a gap, since images differ"


def test_names_are_never_markup(hostile, measured):
    text = hostile.read_text()
    found = Elements(text)
    kinds = {tag for tag, _ in found.tags}
    assert not kinds & {"i", "iframe", "object", "link", "base", "a"}
    assert len(found.all("style")) == 1
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in found.all("img"))
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    own = text.index("</script>", text.index("Plotly")), text.rindex("<script>")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text[own[0] : own[1]])
    assert max(map(len, found.words)) < 2000
    assert "alert(1)" in " ".join(found.words), "the names are there, as text"


def test_a_run_without_val_has_a_page_that_says_so(detector, scenes, tiny_network, tmp_path):
    config = TrainConfig(iterations=2, workers=0, log_every=1)
    assert train(MaskFrozenDetr.build(detector, tiny_network), scenes[0], None, tmp_path / "run", config) is None
    words = " ".join(Elements((tmp_path / "run" / "report.html").read_text()).words)
    assert "Nothing was measured: this run has no val split." in words
    assert "Losses" in words


def test_without_the_extra_a_run_goes_without_its_page(
    detector, scenes, scenes_folder, tiny_network, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    config = TrainConfig(iterations=1, workers=0)
    train(MaskFrozenDetr.build(detector, tiny_network), scenes[0], None, tmp_path / "run", config)
    said = capsys.readouterr().err
    assert "no page of this run: report: plotly is not installed; pip install 'mask-frozen-detr[report]'" in said
    assert (tmp_path / "run" / "mask_network.safetensors").exists()
    assert not (tmp_path / "run" / "report.html").exists()
    assert main(["evaluate", str(tmp_path / "run"), str(scenes_folder), "--report", str(tmp_path / "out")]) == 2
    assert "mask-frozen-detr[report]" in capsys.readouterr().err


def test_a_page_of_others_is_not_replaced(run, scenes_folder, tmp_path, capsys):
    (tmp_path / "report.html").write_text("<html>of the user</html>")
    assert main(["evaluate", str(run), str(scenes_folder), "--report", str(tmp_path)]) == 2
    assert f"{tmp_path / 'report.html'}: is there already and is no report" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "<html>of the user</html>"


# --- in a browser ---


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("which", ["run", "hostile"])
def test_in_a_browser(which, request, browser):
    """It opens from the disk, asks for nothing, complains of nothing; the charts are drawn and the filters filter."""
    made = request.getfixturevalue(which)
    path = made / "report.html" if which == "run" else made
    page = browser.new_page(viewport={"width": 1280 if which == "run" else 390, "height": 800})
    page.set_default_timeout(TIMEOUT)
    wrong = watched(page)
    page.goto(path.absolute().as_uri())
    until(page, "document.querySelectorAll('.js-plotly-plot .main-svg').length >= 6")
    until(
        page,
        "[...document.querySelectorAll('.js-plotly-plot')].every(chart =>"
        " chart.querySelector('.main-svg').clientWidth <= chart.parentElement.clientWidth + 1)",
    )
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "no wider than the window"
    figures = page.locator(".gallery figure")
    everything = figures.count()
    assert page.locator("#shown").inner_text() == f"{everything} of {everything} shown"
    kind = figures.first.get_attribute("data-kind")
    page.select_option("select[name=kind]", kind)
    chosen = page.locator(f".gallery figure[data-kind='{kind}']").count()
    assert 0 < chosen < everything
    assert page.locator(".gallery figure:visible").count() == chosen
    page.click("button[type=reset]")
    until(page, "n => document.querySelectorAll('.gallery figure:not([hidden])').length === n", arg=everything)
    page.locator("input[name=score]").fill("1")
    assert page.locator(".gallery figure:visible").count() == 0
    assert not wrong
    page.close()


def test_figures_that_are_no_numbers_are_left_out(tmp_path):
    lines = [{"step": 10**400}, {"step": 1, "loss": 10**400, "iou": None}, {"step": 2, "loss": "much", "iou": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert read_history(tmp_path).metrics == [{"step": 1, "iou": None}, {"step": 2, "iou": 0.5}]


def test_metrics_that_are_a_pipe_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert read_history(tmp_path).metrics == []
