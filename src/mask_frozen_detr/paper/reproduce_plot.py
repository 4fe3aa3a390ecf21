"""The plot of a reproduced table: mask AP of each row here and in the paper, side by side, as the paper lists them."""

import io
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mask_frozen_detr.paper.reproduce_result import TableResult, TableRow

OURS, PAPER, FAINT = "#1f6fb4", "#444444", "#9a9a9a"
DPI = 110
REASONS = {
    "paper": "the paper's figure alone",
    "impossible": "not possible with this detector",
    "same": "the same as another row",
}


def draw_table(result: TableResult) -> bytes:
    """A PNG. Left: ours, a tick a seed, a dot their mean, with its rank. Right: the paper's, with its rank."""
    rows = result.rows
    figure = Figure(figsize=(8.4, 1.5 + 0.34 * len(rows)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    ours, paper = figure.subplots(1, 2, sharey=True)
    compared = result.compared()
    _draw(ours, rows, {row.name: list(row.ours) for row in compared}, OURS)
    printed = {row.name: [ap] for row in rows if (ap := row.paper["ap"]) is not None}
    _draw(paper, rows, printed, PAPER, ranked={row.name for row in compared})
    for place, row in enumerate(rows):
        if not any(row.name == one.name for one in compared):
            text = REASONS.get(row.kind, "to do")
            x = ours.get_yaxis_transform()
            ours.text(0.5, place, text, transform=x, color=FAINT, fontsize=8, ha="center", va="center")
    ours.set_yticks(range(len(rows)), [row.name for row in rows])
    ours.set_ylim(len(rows) - 0.4, -0.6)
    seeds = max((len(row.ours) for row in compared), default=0)
    name = "".join(c if c.isprintable() else "?" for c in result.detector.name)
    title = f"here: {name}, {_plural(seeds, 'seed')}"
    ours.set_title(title, fontsize=9, parse_math=False)  # a folder's name may hold dollar signs
    paper.set_title("the paper", fontsize=9)
    correlation = result.comparison().spearman
    order = "" if correlation is None else f": order agrees to Spearman's ρ = {correlation:.2f}"
    figure.suptitle(f"Table {result.table}{order}", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw(
    axes: Axes, rows: list[TableRow], values: dict[str, list[float]], colour: str, ranked: set[str] | None = None
) -> None:
    """Dots and ranks of one side."""
    means = {name: fmean(found) for name, found in values.items()}
    order = sorted((name for name in means if ranked is None or name in ranked), key=lambda name: -means[name])
    for place, row in enumerate(rows):
        if row.name not in values:
            continue
        found, mean = values[row.name], means[row.name]
        counts = row.name in order
        axes.plot(mean, place, "o", color=colour if counts else FAINT, markersize=7, zorder=3)
        if len(found) > 1:
            axes.plot([min(found), max(found)], [place, place], color=colour, linewidth=1.2, alpha=0.7)
            axes.plot(found, [place] * len(found), "|", color=colour, markersize=9, zorder=2)
        rank = f"  #{1 + sum(round(means[name], 2) > round(mean, 2) for name in order)}" if counts else ""
        axes.annotate(
            f"{mean:.1f}{rank}",
            (mean, place),
            (0, 5),
            textcoords="offset points",
            fontsize=7,
            ha="center",
            color=colour,
        )
    axes.set_xlabel("mask AP", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
