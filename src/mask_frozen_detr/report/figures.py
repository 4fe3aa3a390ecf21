"""The charts of the pages, drawn by Plotly, whose script goes into the page: nothing is fetched."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.evaluation import Evaluation, Measured
from mask_frozen_detr.report.history import History
from mask_frozen_detr.report.words import chart_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BOX, MASK, OTHERS = "#0b6bcb", "#d9480f", ("#2e7d32", "#7048e8", "#0c8599", "#a61e4d")
LOSSES = {"loss": "sum", "bce": "cross-entropy", "dice": "dice", "iou": "mask scoring", "detection": "detector's own"}
SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
MOST_CLASSES = 60  # in the chart; the table has all


def check_plotly() -> None:
    """Raises UserError that names the extra where Plotly is not installed."""
    if find_spec("plotly") is None:
        raise UserError("report: plotly is not installed; pip install 'mask-frozen-detr[report]'")


def plotly_script() -> str:
    """Plotly itself, some five megabytes of JavaScript."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def as_html(figure: "Figure", name: str) -> str:
    """A figure as the piece of a page that `plotly_script` brings to life."""
    from plotly import io

    config = {"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d"]}
    return io.to_html(
        figure, config=config, include_plotlyjs=False, full_html=False, div_id=name, default_height="100%"
    )


def loss_curves(history: History) -> "Figure | None":
    """Losses by iteration; None of a run without lines."""
    named = [(key, name) for key, name in LOSSES.items() if any(key in line for line in history.metrics)]
    if not named:
        return None
    figure = _figure("iteration", "loss")
    for (key, name), colour in zip(named, (MASK, *OTHERS), strict=False):
        _line(figure, history, key, name, colour)
    return figure


def iou_curve(history: History) -> "Figure | None":
    """How much masks of matched queries overlap the truth in training, by iteration."""
    if not any("matched_iou" in line for line in history.metrics):
        return None
    figure = _figure("iteration", "mask IoU")
    _line(figure, history, "matched_iou", "matched queries", MASK)
    figure.update_layout(showlegend=False)
    return figure


def ap_curves(history: History) -> "Figure | None":
    """Box and mask AP of the run's evaluations, by iteration; None without any.

    No line joins evaluations of different numbers of images: what is between them is no change of the masks.
    """
    if not history.evaluations:
        return None
    shown: list[tuple[int, Evaluation | None]] = []
    for step, one in history.evaluations.items():
        before = shown[-1][1] if shown else None
        shown += [(step, None)] if before is not None and before.images != one.images else []
        shown.append((step, one))
    figure = _figure("iteration", "AP")
    for name, colour in (("box", BOX), ("mask", MASK)):
        values = [None if one is None else _number((one.box if name == "box" else one.mask)["AP"]) for _, one in shown]
        steps = [step for step, _ in shown]
        figure.add_scatter(x=steps, y=values, name=f"{name} AP", mode="lines+markers", line_color=colour)
    figure.update_yaxes(rangemode="tozero")
    return figure


def size_bars(evaluation: Evaluation) -> "Figure":
    """AP by size, box beside mask."""
    figure = _figure("", "AP")
    for name, colour, figures in (("box", BOX, evaluation.box), ("mask", MASK, evaluation.mask)):
        values = [_number(figures[key]) for key in SIZES]
        figure.add_bar(x=list(SIZES.values()), y=values, name=name, marker_color=colour)
    return figure


def class_bars(evaluation: Evaluation) -> "Figure":
    """AP by class, best masks on top; of many classes the best and the worst half."""
    measured = [name for name, value in evaluation.mask_by_class.items() if not np.isnan(value)]
    order = sorted(measured, key=lambda name: evaluation.mask_by_class[name])
    if len(order) > MOST_CLASSES:
        order = [*order[: MOST_CLASSES // 2], *order[-MOST_CLASSES // 2 :]]
    figure = _figure("AP", "")
    places = list(range(len(order)))
    for name, colour, figures in (("mask", MASK, evaluation.mask_by_class), ("box", BOX, evaluation.box_by_class)):
        figure.add_bar(
            x=[_number(figures[one]) for one in order],
            y=places,
            name=name,
            orientation="h",
            marker_color=colour,
            text=[chart_text(one) for one in order],
            textposition="none",
            hovertemplate="%{text}: %{x:.1f}<extra>" + name + "</extra>",
        )
    figure.update_yaxes(tickvals=places, ticktext=[chart_text(one) for one in order], automargin=True)
    figure.update_layout(height=max(240, 70 + 20 * len(order)), legend_traceorder="reversed")
    return figure


def precision_recall(measured: Measured) -> "Figure":
    """Precision by recall, the mean over classes: AP is the mean of a curve."""
    figure = _figure("recall", "precision")
    recall = np.linspace(0, 1, measured.mask.curves.shape[1])
    for name, colour, dash, curve in (
        ("box, IoU 0.5", BOX, "solid", measured.box.curves[0]),
        ("mask, IoU 0.5", MASK, "solid", measured.mask.curves[0]),
        ("box, IoU 0.75", BOX, "dash", measured.box.curves[5]),
        ("mask, IoU 0.75", MASK, "dash", measured.mask.curves[5]),
        ("box, mean", BOX, "dot", measured.box.curves.mean(0)),
        ("mask, mean", MASK, "dot", measured.mask.curves.mean(0)),
    ):
        values = [_number(value / 100) for value in curve.tolist()]
        figure.add_scatter(x=recall.tolist(), y=values, name=name, mode="lines", line={"color": colour, "dash": dash})
    figure.update_xaxes(range=[0, 1])
    figure.update_yaxes(range=[0, 1.02])
    return figure


def iou_histogram(ious: Sequence[float]) -> "Figure":
    """How well the masks of found objects overlap the truth."""
    counts, edges = np.histogram(ious, bins=20, range=(0, 1))
    figure = _figure("mask IoU", "objects")
    figure.add_bar(
        x=((edges[:-1] + edges[1:]) / 2).tolist(),
        y=counts.tolist(),
        width=0.05,
        marker={"color": MASK, "line": {"color": "white", "width": 1}},
        customdata=[f"{low:.2f} to {high:.2f}" for low, high in pairwise(edges.tolist())],
        hovertemplate="%{customdata}: %{y} objects<extra></extra>",
    )
    figure.update_layout(showlegend=False)
    return figure


def intervals(rows: Mapping[str, Sequence[tuple[str, float, float, float]]]) -> "Figure":
    """Differences with their intervals: for each run the figure's name, the difference, low and high."""
    figure = _figure("difference", "")
    for (run, values), colour in zip(rows.items(), (MASK, BOX, *OTHERS) * len(rows), strict=False):
        names, middles, lows, highs = zip(*values, strict=True)
        figure.add_scatter(
            x=middles,
            y=names,
            name=chart_text(run),
            mode="markers",
            marker_color=colour,
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - middle for middle, high in zip(middles, highs, strict=True)],
                "arrayminus": [middle - low for middle, low in zip(middles, lows, strict=True)],
            },
        )
    figure.add_vline(x=0, line_color="#6e7781")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(scattermode="group", scattergap=0.4)
    return figure


def _figure(across: str, up: str) -> "Figure":
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.update_layout(
        template="plotly_white",
        margin={"l": 50, "r": 10, "t": 10, "b": 45},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        height=340,
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    figure.update_xaxes(title=across)
    figure.update_yaxes(title=up)
    return figure


def _line(figure: "Figure", history: History, key: str, name: str, colour: str) -> None:
    lines = [line for line in history.metrics if key in line]
    steps, values = [line["step"] for line in lines], [_number(line[key]) for line in lines]
    figure.add_scatter(x=steps, y=values, name=name, mode="lines", line_color=colour)


def _number(value: Any) -> float | None:
    """None, which JSON has, in the place of nan."""
    return None if not isinstance(value, int | float) or np.isnan(value) else float(value)
