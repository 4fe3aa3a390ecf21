"""`reproduce`: whole tables on tiny detectors, going on after a kill and after a failure, files of others."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_tables import OPTIONS, SMALL, TINY

from mask_frozen_detr.cli import main
from mask_frozen_detr.demo.scenes import SCENE_DETECTOR
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.model import WEIGHTS_FILE
from mask_frozen_detr.paper import reproduce as module
from mask_frozen_detr.paper import reproduce_plot, reproduce_rows
from mask_frozen_detr.paper.config import ReproduceConfig
from mask_frozen_detr.paper.reproduce import PLOT_FILE, REPORT_FILE, RESULT_FILE, reproduce
from mask_frozen_detr.paper.reproduce_plan import plan_rows
from mask_frozen_detr.training import step
from mask_frozen_detr.training.run_folder import CHECKPOINT_FILE

TABLE_5 = ["none", "ffn", "ffn-o2o", "ffn-b2o"]


class Killed(BaseException):
    """What no `except` of ours catches, as a kill."""


@pytest.fixture(scope="module")
def table5(scenes_folder, tmp_path_factory) -> Path:
    """Table 5 by the command line, undisturbed."""
    output = tmp_path_factory.mktemp("tables") / "table5"
    arguments = ["reproduce", "table5", str(SCENE_DETECTOR), str(scenes_folder), "--output", str(output), *OPTIONS]
    assert main(arguments) == 0
    return output


@pytest.fixture
def no_plots(monkeypatch) -> None:
    """What is slow and not the subject: a plot is drawn after every row."""
    monkeypatch.setattr(reproduce_plot, "draw_table", lambda result: b"plot")


@pytest.fixture(scope="module")
def small_table(squashing_folder, scenes_folder, tmp_path_factory) -> Path:
    """Table 5 on a smaller detector, undisturbed."""
    output = tmp_path_factory.mktemp("tables") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce_plot, "draw_table", lambda result: b"plot")
        reproduce(5, str(squashing_folder), scenes_folder, output, TINY)
    return output


def result_of(output: Path) -> dict:
    return json.loads((output / RESULT_FILE).read_text())


def without_clocks(result: dict) -> list:
    clocks = {"train_seconds", "device_hours", "evaluation_seconds"}
    return [[{k: v for k, v in run.items() if k not in clocks} for run in row["runs"]] for row in result["rows"]]


# --- a whole table


def test_every_row_is_trained_and_reported(table5):
    result = result_of(table5)
    assert [row["name"] for row in result["rows"]] == TABLE_5
    assert result["box_ap"] > 10
    assert any(row["runs"][0]["mask"]["AP"] > 0 for row in result["rows"])
    for row in result["rows"]:
        (run,) = row["runs"]
        assert row["iterations"] == 2
        assert run["seed"] == 0
        assert run["box_ap"] == result["box_ap"], "the frozen detector's"
        assert set(run["mask"]) == {"AP", "AP50", "AP75", "APs", "APm", "APl"}
        assert 0 <= run["matched_iou"] <= 1
        assert run["train_seconds"] > 0
        assert run["device_hours"] == pytest.approx(run["train_seconds"] / 3600, abs=1e-5)
        assert (table5 / "runs" / f"{row['name']}-seed0" / WEIGHTS_FILE).exists()
    assert len({row["params"] for row in result["rows"]}) == 4, "rows differ in their networks"
    assert result["rows"][3]["macs"] > result["rows"][0]["macs"] > 1e6
    assert result["comparison"]["rows"] == 4
    text = (table5 / REPORT_FILE).read_text()
    for words in ("ffn-b2o", "44.8", "Finding", "One seed", "lr 0.002", "iterations (2it a row and seed)"):
        assert words in text


def test_the_plot_is_a_small_picture(table5):
    content = (table5 / PLOT_FILE).read_bytes()
    assert len(content) < 150_000
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "PNG"
    assert picture.width > 600
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50, "not blank"


@pytest.mark.usefixtures("no_plots")
def test_a_finished_table_is_only_loaded_and_seeds_may_grow(
    small_table, squashing_folder, scenes_folder, tmp_path, monkeypatch
):
    output = tmp_path / "copy"
    shutil.copytree(small_table, output)
    trained = []
    original = reproduce_rows.train

    def counted(*arguments, **options):
        trained.append(arguments[3].name)
        return original(*arguments, **options)

    monkeypatch.setattr(reproduce_rows, "train", counted)
    before = without_clocks(result_of(output))
    result = reproduce(5, str(squashing_folder), scenes_folder, output, TINY).as_dict()
    assert not trained
    assert without_clocks(result) == before
    grown = ReproduceConfig(budget="2it", seeds=2, **SMALL)
    result = reproduce(5, str(squashing_folder), scenes_folder, output, grown).as_dict()
    assert trained == [f"{name}-seed1" for name in TABLE_5]
    assert [[run["seed"] for run in row["runs"]] for row in result["rows"]] == [[0, 1]] * 4
    assert result["comparison"]["spread"] is not None
    assert "pooled over rows" in (output / REPORT_FILE).read_text()


# --- after a kill


def kill_in_evaluation(monkeypatch, number: int) -> None:
    original, seen = reproduce_rows.evaluate, []

    def evaluate(*arguments, **options):
        seen.append(1)
        if len(seen) == number:
            raise Killed
        return original(*arguments, **options)

    monkeypatch.setattr(reproduce_rows, "evaluate", evaluate)


def kill_in_training(monkeypatch, number: int) -> None:
    original, seen = step.step_losses, []

    def step_losses(*arguments, **options):
        seen.append(1)
        if len(seen) == number:
            raise Killed
        return original(*arguments, **options)

    monkeypatch.setattr(step, "step_losses", step_losses)


@pytest.mark.parametrize(
    ("kill", "number", "whole", "left"),
    [
        (kill_in_evaluation, 2, 1, "ffn-seed0/" + WEIGHTS_FILE),  # trained, not evaluated
        (kill_in_training, 6, 2, "ffn-o2o-seed0/" + CHECKPOINT_FILE),  # within the third row
    ],
)
@pytest.mark.usefixtures("no_plots")
def test_a_killed_table_goes_on(
    kill, number, whole, left, small_table, squashing_folder, scenes_folder, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        kill(patch, number)
        with pytest.raises(Killed):
            reproduce(5, str(squashing_folder), scenes_folder, tmp_path, TINY)
    assert (tmp_path / "runs" / left).exists()
    partial = result_of(tmp_path)
    assert sum(bool(row["runs"]) for row in partial["rows"]) == whole
    assert "to do" in (tmp_path / REPORT_FILE).read_text(), "a valid report of what there is"
    assert (tmp_path / PLOT_FILE).exists()
    result = reproduce(5, str(squashing_folder), scenes_folder, tmp_path, TINY).as_dict()
    assert without_clocks(result) == without_clocks(result_of(small_table)), "as if it had never been killed"
    for name in TABLE_5:
        weights = Path("runs") / f"{name}-seed0" / WEIGHTS_FILE
        assert (tmp_path / weights).read_bytes() == (small_table / weights).read_bytes()


@pytest.mark.usefixtures("no_plots")
def test_iterations_are_chosen_once(squashing_folder, scenes_folder, tmp_path, monkeypatch):
    """By a budget of time, all rows get as many as the slowest; a resumed table keeps them."""
    config = ReproduceConfig(budget="30s", **SMALL)
    times = iter([10.0, 5.0, 15.0, 7.5])
    monkeypatch.setattr(reproduce_rows, "TIMED", 1)
    monkeypatch.setattr(reproduce_rows, "seconds_a_step", lambda folder: next(times))
    kill_in_training(monkeypatch, 4 + 2)  # after each row's time was taken, in the first row's training
    with pytest.raises(Killed):
        reproduce(5, str(squashing_folder), scenes_folder, tmp_path, config)
    assert not list(tmp_path.glob(".timing*"))
    assert [row["iterations"] for row in result_of(tmp_path)["rows"]] == [2, 2, 2, 2]
    assert [row["seconds_per_iteration"] for row in result_of(tmp_path)["rows"]] == [10.0, 5.0, 15.0, 7.5]
    result = reproduce(5, str(squashing_folder), scenes_folder, tmp_path, config).as_dict()  # `times` is at its end
    assert [row["iterations"] for row in result["rows"]] == [2, 2, 2, 2]
    assert all(row["runs"] for row in result["rows"])


def test_the_time_of_a_step_is_measured(squashing_folder, scenes_folder, tmp_path):
    detectors = reproduce_rows.LoadedDetectors(str(squashing_folder))
    rows = [row for row in plan_rows(5, TINY, detectors.at) if row.name == "none"]
    train_data = module.load_split(scenes_folder, "train")
    (seconds,) = reproduce_rows.time_rows(rows, detectors, train_data, tmp_path).values()
    assert 1e-3 < seconds < 10
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"lr": 1e-3}, "lr 0.002, found 0.001"), ({"budget": "3it"}, "budget '2it', found '3it'")],
)
def test_a_table_goes_on_with_the_same_options_only(changes, words, small_table, squashing_folder, scenes_folder):
    before = (small_table / RESULT_FILE).read_bytes()
    config = ReproduceConfig(**{"budget": "2it", **SMALL, **changes})
    with pytest.raises(UserError, match=words):
        reproduce(5, str(squashing_folder), scenes_folder, small_table, config)
    with pytest.raises(UserError, match="table 5, found 4"):
        reproduce(4, str(squashing_folder), scenes_folder, small_table, TINY)
    assert (small_table / RESULT_FILE).read_bytes() == before


def test_a_damaged_result_is_named(squashing_folder, scenes_folder, tmp_path):
    (tmp_path / RESULT_FILE).write_text('{"format": 1')
    with pytest.raises(UserError, match=f"{RESULT_FILE}: is damaged"):
        reproduce(1, str(squashing_folder), scenes_folder, tmp_path, TINY)


@pytest.mark.slow
@pytest.mark.usefixtures("no_plots")
def test_a_run_that_fails_stops_no_other_and_is_tried_again(squashing_folder, scenes_folder, tmp_path, monkeypatch):
    original = reproduce_rows.train

    def train(model, train_data, val_data, folder, *more, **options):
        if folder.name == "neck-seed0":
            raise UserError("the loss is nan at iteration 1")
        return original(model, train_data, val_data, folder, *more, **options)

    arguments = ["reproduce", "12", str(squashing_folder), str(scenes_folder), "--output", str(tmp_path), *OPTIONS]
    with monkeypatch.context() as patch:
        patch.setattr(reproduce_rows, "train", train)
        assert main(arguments) == 2
    result = result_of(tmp_path)
    assert [bool(run.get("failed")) for row in result["rows"] for run in row["runs"]] == [False, True, False, False]
    assert result["comparison"]["rows"] == 3
    assert "the loss is nan" in (tmp_path / REPORT_FILE).read_text()
    assert main(arguments) == 0
    assert not any(run.get("failed") for row in result_of(tmp_path)["rows"] for run in row["runs"])


@pytest.mark.usefixtures("no_plots")
def test_a_detector_that_changes_is_found_out(squashing_folder, scenes_folder, tmp_path, monkeypatch):
    original, shift = reproduce_rows.run_row, iter([0.0, 0.05, 1.0])

    def drifting(*arguments, **options):
        run = original(*arguments, **options)
        assert run.box_ap is not None
        return replace(run, box_ap=run.box_ap + next(shift))

    monkeypatch.setattr(module, "run_row", drifting)
    with pytest.raises(RuntimeError, match=r"row ffn-o2o: box AP.*the frozen detector has changed"):
        reproduce(5, str(squashing_folder), scenes_folder, tmp_path, TINY)


@pytest.mark.parametrize("name", [REPORT_FILE, PLOT_FILE, "runs"])
def test_files_of_others_are_not_replaced(name, squashing_folder, scenes_folder, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name}: is there already"):
        reproduce(1, str(squashing_folder), scenes_folder, tmp_path, TINY)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
