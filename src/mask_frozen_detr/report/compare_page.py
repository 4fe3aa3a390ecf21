"""A comparison of runs as text, and as a page."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mask_frozen_detr.errors import UserError, printable
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.machine.json_files import read_json_object
from mask_frozen_detr.report import figures
from mask_frozen_detr.report.compare import FIGURES, Comparison, Figure
from mask_frozen_detr.report.history import History
from mask_frozen_detr.report.html_page import chart, embedded, html_page, table, write_page
from mask_frozen_detr.report.words import figure_text, page_text

COMPARISON_FILE = "comparison.html"
NAME = 28  # characters of a run's name in a table of text


def text_of(comparison: Comparison) -> str:
    """Two tables: the figures of each run, and how far each is from the first."""
    within = ", and within which 95% of the resamples lie" if comparison.resamples else ""
    sure = "; * where 0 is not within" if comparison.resamples else ""
    lines = [f"AP{within}", *_table(comparison.figures, _with_interval)]
    lines += ["", f"difference from {_short(comparison.first)}{sure}", *_table(comparison.differences, _difference)]
    return "\n".join([*lines, "", about(comparison)])


def about(comparison: Comparison) -> str:
    """What the figures are of, and how the intervals come about."""
    if not comparison.resamples:
        return (
            f"{comparison.images} images, {comparison.categories} classes: figures as the runs recorded them. Whether "
            "a difference means anything is told by --data, which measures the runs anew."
        )
    left_out = f" ({comparison.left_out_images} that some run could not read are left out)"
    return (
        f"{comparison.images} images{left_out if comparison.left_out_images else ''}, {comparison.categories} classes; "
        f"images drawn anew {comparison.resamples:,} times, the same for all runs (paired bootstrap, seed "
        f"{comparison.seed}). Training anew with another seed moves figures as well: that is not in these intervals."
    )


def write_comparison(path: Path, comparison: Comparison, histories: Mapping[str, History]) -> None:
    """The page. histories: by run, of those whose folder is at hand. Raises UserError as `write_page` does."""
    sections = [f'<p class="quiet">{page_text(about(comparison), 600)}</p>', "<h2>Figures</h2>"]
    sections.append(table(["run", *FIGURES], _rows(comparison.figures, _with_interval), "runs"))
    sections.append(f"<h2>Differences from {page_text(comparison.first)}</h2>")
    sections.append(table(["run", *FIGURES], _rows(comparison.differences, _difference), "differences"))
    if comparison.resamples:
        rows = {
            run: [(name, one.value, one.low, one.high) for name, one in found.items() if not math.isnan(one.value)]
            for run, found in comparison.differences.items()
        }
        said = "Where 0 lies within an interval, the difference may be that of the images alone."
        sections.append(chart("With their intervals", figures.as_html(figures.intervals(rows), "intervals"), said))
    sections += [_options(histories), embedded("comparison", comparison.as_dict())]
    write_page(path, html_page("Runs side by side", sections))


def check_json(path: Path) -> None:
    """Raises UserError where `path` is there already and holds no comparison."""
    if path.is_file() and path.stat().st_size and "differences_from" not in read_json_object(path):
        raise UserError(f"{path}: is there already and holds no comparison; name another file")


def write_json(path: Path, comparison: Comparison) -> None:
    """All of it. Raises UserError as `check_json` does, or where it cannot be written."""
    check_json(path)
    write_json_atomic(path, comparison.as_dict())


def _with_interval(one: Figure) -> str:
    value = figure_text(one.value)
    return value if math.isnan(one.low) else f"{value} [{one.low:.1f}, {one.high:.1f}]"


def _difference(one: Figure) -> str:
    if math.isnan(one.value) or math.isnan(one.low):
        return "–" if math.isnan(one.value) else f"{one.value:+.1f}"
    sure = " *" if one.low > 0 or one.high < 0 else ""
    return f"{one.value:+.1f} [{one.low:+.1f}, {one.high:+.1f}]{sure}"


def _table(runs: Mapping[str, Mapping[str, Figure]], cell: Any) -> list[str]:
    rows = [["", *FIGURES], *[[_short(run), *map(cell, found.values())] for run, found in runs.items()]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _rows(runs: Mapping[str, Mapping[str, Figure]], cell: Any) -> list[list[str]]:
    return [[page_text(run), *(page_text(cell(one)) for one in found.values())] for run, found in runs.items()]


def _short(name: str) -> str:
    """The end of a long name, where runs differ."""
    shown = printable(name)
    return shown if len(shown) <= NAME else "…" + shown[1 - NAME :]


def _options(histories: Mapping[str, History]) -> str:
    """Options that are not the same in all runs."""
    flat = {run: history.options for run, history in histories.items() if history.options}
    if len(flat) < 2:
        return ""
    names = list(dict.fromkeys(name for options in flat.values() for name in options))
    rows: list[Sequence[str]] = []
    for name in names:
        values = [json.dumps(options.get(name)) for options in flat.values()]
        if len(set(values)) > 1:
            rows.append([page_text(name), *(page_text(value, 200) for value in values)])
    shown = table(["option", *map(page_text, flat)], rows, "options") if rows else "<p>None.</p>"
    return f"<h2>Options that differ</h2>{shown}"
