"""`reproduce`: the order of rows beside the paper's, and what is read and written of it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.paper.reproduce import RESULT_FILE
from mask_frozen_detr.paper.reproduce_compare import MeasuredRow, compare, rank_correlation
from mask_frozen_detr.paper.reproduce_plot import draw_table
from mask_frozen_detr.paper.reproduce_report import finding, markdown
from mask_frozen_detr.paper.reproduce_result import RowRun, TableResult, read_result

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "results" / "reproduce"
ONE_SEED = PUBLISHED / "table10-femto.json"


@pytest.fixture
def result() -> TableResult:
    """A table of trained rows, of one seed each."""
    return read_result(ONE_SEED)


# --- the order of rows


def test_rank_correlation_on_known_values():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40])["spearman"] == 1
    assert rank_correlation([4, 3, 2, 1], [10, 20, 30, 40])["kendall"] == -1
    # ranks 1 2 4 3 5: ρ = 1 − 6 · 2 / (5 · 24); τ = (9 − 1) / 10
    found = rank_correlation([1, 2, 4, 3, 5], [1, 2, 3, 4, 5])
    assert (found["spearman"], found["kendall"]) == (0.9, 0.8)
    for ours, paper in (([1, 1], [1, 2]), ([1], [1]), ([], [])):
        assert rank_correlation(ours, paper)["spearman"] is None


def test_differences_are_held_against_the_spread():
    rows = [
        MeasuredRow("best", (30.0, 31.0), 45.0),
        MeasuredRow("good", (30.2, 31.2), 44.0),  # 0.2 better here, worse in the paper
        MeasuredRow("bad", (20.0, 21.0), 43.0),
        MeasuredRow("worst", (25.0, 26.0), 42.0),
        MeasuredRow("tied", (1.0, 2.0), 42.0),
    ]
    found = compare(rows)
    assert found.spread == pytest.approx(math.sqrt(0.5), abs=1e-4)  # of two that are 1 apart
    # t of 5 degrees of freedom at 97.5% is 2.5706; a difference of two means over 2 seeds has the spread itself
    assert found.resolved_from == pytest.approx(2.5706 * math.sqrt(0.5), abs=1e-3)
    assert found.order == ["good", "best", "worst", "bad", "tied"]
    assert [pair[:2] for pair in found.pairs.not_resolved] == [("best", "good")]
    assert found.pairs.against_the_paper == [("bad", "worst", 1.0, -5.0)]
    assert len(found.pairs.as_in_the_paper) == 7, "10 pairs, one of them tied in the paper"


def test_one_seed_resolves_nothing():
    pairs = compare([MeasuredRow("a", (30.0,), 45.0), MeasuredRow("b", (10.0,), 40.0)]).pairs
    assert (pairs.as_in_the_paper, pairs.against_the_paper, len(pairs.not_resolved)) == ([], [], 1)
    free = [MeasuredRow("a", (30.0,), 45.0, trained=False), MeasuredRow("b", (10.0,), 40.0, trained=False)]
    assert len(compare(free).pairs.as_in_the_paper) == 1, "without training there is no seed"


def test_orders_are_compared_over_equal_seeds(result):
    """A table that is half way through its second seed is that of the first."""
    first = result.comparison()
    run = result.rows[0].runs[0]
    assert run.mask is not None
    result.rows[0].runs.append(replace(run, seed=1, mask=dict.fromkeys(run.mask, 99.0)))
    assert result.comparison() == first
    assert "99.0" not in " ".join(finding(result))
    assert "± " in markdown(result)


def test_the_plot_of_a_table_without_runs(result):
    for row in result.rows:
        row.runs = []
    assert draw_table(result)[1:4] == b"PNG"
    assert "Fewer than two rows" in finding(result)[0]


# --- what is read and written


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*.json")), ids=lambda path: path.stem)
def test_published_results_are_read_and_say_what_they_said(path):
    saved = json.loads(path.read_text())
    result = read_result(path)
    assert [row.name for row in result.rows] == [row["name"] for row in saved["rows"]]
    again = result.as_dict()
    for key in ("order", "paper_order", "spearman", "kendall", "spread", "resolved_from", "pairs"):
        assert again["comparison"][key] == saved["comparison"][key]
    assert path.with_suffix(".md").read_text() == markdown(result)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda saved: saved.update(format=99), "found format 99, expected 1"),
        (lambda saved: saved.update(rows=3), "is damaged"),
        (lambda saved: saved["rows"][0].pop("kind"), "is damaged"),
        (lambda saved: saved["rows"][0].update(runs=[5]), "is damaged"),
        (lambda saved: saved["rows"][0]["runs"][0].update(mask="AP"), "mask: found str, expected dict or NoneType"),
        (lambda saved: saved["data"].update(val_images="many"), "val_images: found str, expected int"),
        (lambda saved: saved["options"].update(budget="soon"), "budget: found 'soon'"),
    ],
)
def test_results_of_wrong_content_are_named(change, words, tmp_path):
    saved = json.loads(ONE_SEED.read_text())
    change(saved)
    (tmp_path / RESULT_FILE).write_text(json.dumps(saved))
    with pytest.raises(UserError, match=words):
        read_result(tmp_path / RESULT_FILE)


def test_names_with_markup_are_shown_as_they_are(result):
    """In Markdown they neither make elements nor markup, in the plot no formulas."""
    result.detector = replace(result.detector, name="det$\\frac$<script>alert(1)</script>|*a*\x1b[31m")
    result.rows[0].runs = [RowRun(0, failed="in <b>x</b> | _y_\nz")]
    text = markdown(result)
    for raw in ("<script>", "<b>", "\x1b", "|*a*"):
        assert raw not in text
    assert "det\\$\\\\frac\\$&lt;script&gt;alert(1)" in text
    assert draw_table(result)[1:4] == b"PNG"
