"""`reproduce`: which rows are trained, what is equal among them, budgets, bad input."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from tiny_tables import SMALL, TINY

from mask_frozen_detr.cli import main
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.paper import reproduce_rows
from mask_frozen_detr.paper.config import Budget, ReproduceConfig, read_budget
from mask_frozen_detr.paper.reproduce import REPORT_FILE, reproduce
from mask_frozen_detr.paper.reproduce_plan import PlannedRow, iterations_of, plan_rows, read_table
from mask_frozen_detr.paper.reproduce_report import finding
from mask_frozen_detr.paper.tables import paper_rows

# --- rows that are not trained


def test_table_1_is_evaluated_and_impossible_rows_are_named(squashing_folder, scenes_folder, tmp_path):
    """C₁ has 8 channels here, E₁ 16."""
    result = reproduce(1, str(squashing_folder), scenes_folder, tmp_path, ReproduceConfig(seeds=2, **SMALL))
    kinds = {row.name: row.kind for row in result.rows}
    assert kinds == {"plain": "evaluate", "roi": "evaluate", "stem": "impossible", "roi-stem": "impossible"}
    assert [[run.seed for run in row.runs] for row in result.rows] == [[None], [None], [], []]
    text = (tmp_path / REPORT_FILE).read_text()
    assert "stem: not possible with this detector" in text
    assert "C₁ has 8 channels, E₁ 16" in text
    assert "seed" not in " ".join(finding(result)), "nothing that a seed would change"


@pytest.fixture
def plan(squashing) -> Callable[..., dict[str, PlannedRow]]:
    """Rows of a table by name, on a detector with one choice of maps."""

    def by_name(table: int, **options) -> dict[str, PlannedRow]:
        return {row.name: row for row in plan_rows(table, ReproduceConfig(**options), lambda layer: squashing)}

    return by_name


@pytest.mark.parametrize("table", sorted({row.table for row in paper_rows()}))
def test_no_row_is_dropped(table, plan):
    rows = plan(table)
    assert list(rows) == [row.name for row in paper_rows(table)]
    for row in rows.values():
        assert row.runs != bool(row.why)


def test_rows_that_come_to_the_same_run_once(plan, padding_folder):
    rows = plan(15)
    assert [row.kind for row in rows.values()] == ["train", "same", "same"]
    assert "no layer 4 of its own" in rows["layer-4"].why
    rows = plan(11)
    assert rows["dino-focalnet-l-frozen"].kind == "same"
    assert "h-detr-r50-frozen" in rows["dino-focalnet-l-frozen"].why
    two = reproduce_rows.LoadedDetectors(str(padding_folder))  # two encoder layers
    kinds = [(row.name, row.kind) for row in plan_rows(15, TINY, two.at)]
    assert kinds == [("layer-2", "train"), ("layer-4", "same"), ("layer-6", "same")]


def test_other_methods_are_shown_with_the_papers_figure(plan):
    rows = plan(6)
    assert rows["mask2former-r50"].kind == "paper"
    assert "Mask2Former" in rows["mask2former-r50"].why
    assert rows["h-detr-resnet50"].kind == "train"
    assert rows["dino-focalnet-large"].kind == "same"


# --- what is equal


def test_the_table_varies_and_the_options_are_common(plan):
    rows = plan(8, batch=4, lr=1e-3)
    assert {row.training.batch for row in rows.values()} == {2, 4, 8}
    assert {row.training.lr for row in rows.values()} == {1e-3}
    rows = plan(12, batch=4)
    assert {row.training.batch for row in rows.values()} == {4}
    assert [row.training.loss.sampled_points for row in rows.values()] == [False, False, True, True]
    assert [row.training.augment.large_scale_jitter for row in plan(13).values()] == [False, True]
    with pytest.raises(UserError, match="table 10 compares sizes"):
        plan(10, roi_size=16)


def iterations(rows: dict[str, PlannedRow], budget: Budget, equal: str = "iterations", **seconds: float) -> list[int]:
    trained = [row for row in rows.values() if row.kind == "train"]
    times = {name.replace("_", "-"): value for name, value in seconds.items()}
    return list(iterations_of(trained, budget, equal, times).values())


def test_equal_images_and_epochs(plan):
    assert iterations(plan(8), Budget(iterations=80)) == [80, 40, 20]
    assert iterations(plan(9), Budget(iterations=80)) == [80, 160]
    # 8 images take 5 s, 2 images 1.5 s: 40 · 1.5 s is within a minute, 10 · 5 s too
    found = iterations(plan(8), Budget(seconds=60), batch_2=1.5, batch_4=2.5, batch_8=5)
    assert found == [40, 20, 10]


def test_a_budget_of_time_is_what_the_slowest_row_gets(plan):
    seconds: dict[str, Any] = {"roi_16": 0.5, "roi_32": 1.0, "roi_64": 3.0}
    assert iterations(plan(10), Budget(seconds=60), **seconds) == [20, 20, 20]
    assert iterations(plan(10), Budget(seconds=60), "time", **seconds) == [120, 60, 20]
    assert iterations(plan(9), Budget(seconds=60), "time", epochs_6=1.0, epochs_12=1.0) == [30, 60]
    with pytest.raises(UserError, match="not one iteration of row roi-16"):
        iterations(plan(10), Budget(seconds=2), **seconds)


def test_warm_up_is_never_most_of_a_run(plan):
    row = plan(8)["batch-8"]
    assert row.configure(400, 3).warmup == 8
    assert row.configure(8, 3).warmup == 2
    assert (row.configure(8, 3).seed, row.configure(8, 3).iterations) == (3, 8)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10m", Budget(seconds=600)),
        ("90s", Budget(seconds=90)),
        ("1.5h", Budget(seconds=5400)),
        ("300it", Budget(iterations=300)),
    ],
)
def test_budgets(text, budget):
    assert read_budget(text) == budget


@pytest.mark.parametrize("text", ["10", "ten minutes", "-5m", "0s", "0it", "1.5it", "", "nan s"])
def test_bad_budgets(text, squashing_folder, scenes_folder, tmp_path, capfd):
    arguments = ["reproduce", "table5", str(squashing_folder), str(scenes_folder), "--output", str(tmp_path / "o")]
    assert main([*arguments, f"--budget={text}"]) == 2
    shown = capfd.readouterr()
    assert "budget" in shown.err + shown.out
    assert "300it" in shown.err + shown.out
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("text", "table"), [("table3", 3), ("12", 12), ("Table16", 16)])
def test_tables(text, table):
    assert read_table(text) == table


@pytest.mark.parametrize(("text", "words"), [("tabel3", "table3"), ("table33", "table3"), ("99", "expected one of")])
def test_bad_tables(text, words, squashing_folder, scenes_folder, tmp_path, capfd):
    assert main(["reproduce", text, str(squashing_folder), str(scenes_folder), "--output", str(tmp_path / "o")]) == 2
    assert words in capfd.readouterr().err
    assert not (tmp_path / "o").exists()


def test_data_without_a_val_split(squashing_folder, scenes_folder, tmp_path, capfd):
    data = tmp_path / "data"
    shutil.copytree(scenes_folder, data)
    (data / "annotations" / "instances_val2017.json").unlink()
    assert main(["reproduce", "table1", str(squashing_folder), str(data), "--output", str(tmp_path / "o")]) == 2
    assert "no split 'val'" in capfd.readouterr().err
