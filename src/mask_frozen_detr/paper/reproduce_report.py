"""A reproduced table as text to read: its figures beside the paper's, its costs, what was not run, and the finding."""

import re
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev

from mask_frozen_detr.paper.config import read_budget
from mask_frozen_detr.paper.reproduce_compare import METRICS, RowOrder
from mask_frozen_detr.paper.reproduce_result import TableResult, TableRow

STANDING = {"paper": "-", "impossible": "not possible", "same": "as above"}  # of rows that do not run
MARKUP = re.compile(r"([\\`*_\[\]#|~$])")


def plain(text: str) -> str:
    """Text of a user, as a path or an error's reason, such that Markdown shows it as it is."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return MARKUP.sub(r"\\\1", shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def markdown(result: TableResult) -> str:
    """The whole report in Markdown."""
    lines = [f"# Table {result.table} on a small budget", "", *about(result), ""]
    lines += _table(["row", "AP", "paper", *list(METRICS)[1:], "IoU"], [_figures(row) for row in result.rows])
    lines += [
        "",
        "Mask AP in percent; with several seeds mean ± standard deviation; in brackets the paper's. "
        "IoU: mean mask IoU of the matched boxes over the last fifth of training.",
        "",
    ]
    hours = "GPU hours" if result.device != "cpu" else "CPU hours"
    head = ["row", "params M", "G MACs", "iterations", "seeds", "training s", hours, "evaluation s"]
    lines += _table(head, [_costs(row) for row in result.rows if row.runs])
    lines += [
        "",
        f"In brackets the paper's (V100 hours). {hours} are training seconds × {result.processes} process(es), "
        f"of one seed. {result.cost_note}",
        "",
    ]
    reasons = [f"- {row.name}: {plain(row.why)}." for row in result.rows if row.why]
    failed = [f"- {name}, seed {run.seed}: failed: {plain(run.failed or '')}" for name, run in result.failures()]
    if reasons or failed:
        lines += ["## Not run", "", *reasons, *failed, ""]
    lines += ["## Finding", "", *(f"- {line}" for line in finding(result)), ""]
    return "\n".join(lines)


def about(result: TableResult) -> list[str]:
    """What was run, and what all rows have in common."""
    options, data = result.options, result.data
    seeds = max((len(row.runs) for row in result.rows), default=0)
    shown = ("lr", "warmup", "ema", "batch", "precision", "min_box_iou")
    given = ", ".join(f"{name} {getattr(options, name)}" for name in shown)
    if read_budget(options.budget).iterations:
        equal = f"iterations ({options.budget} a row and seed)"
    elif options.equal == "time":
        equal = f"training time ({options.budget} a row and seed, by the steps that were timed first)"
    else:
        equal = f"iterations, as many as the slowest row manages in {options.budget} by the steps that were timed first"
    others = {
        8: "; rows of a larger batch take fewer, so that all see equally many images",
        9: "; rows of more epochs get so much more",
    }.get(result.table, "")
    size = "" if options.roi_size is None else f", roi_size {options.roi_size}"
    box = "" if result.box_ap is None else f" Its box AP is {result.box_ap:.1f} in every row that leaves it frozen."
    return [
        f"Detector: {plain(result.detector.name)} ({plain(result.detector.family)}).{box}",
        f"Data: {plain(data.name)}, {data.training_images} training and {data.val_images} val images.",
        f"Equal for all rows: {equal}{others}. Seeds are the same, and with them the images’ order and views.",
        f"Options of all rows, unless the table varies them: {given}{size}; evaluation above score "
        f"{options.eval_threshold:g} with {options.max_detections} boxes. {seeds} seed(s) on {result.device}.",
    ]


def finding(result: TableResult) -> list[str]:
    """What the comparison says, in sentences."""
    found = result.comparison()
    rows = {row.name: row for row in result.compared()}
    if len(rows) < 2:
        return ["Fewer than two rows have a figure here and in the paper: there is no order to compare."]
    lines = [
        "Order here, best first: " + _order(found.order, {name: row.mean for name, row in rows.items()}),
        "Order in the paper: " + _order(found.paper_order, {name: row.paper for name, row in rows.items()}),
    ]
    if found.spearman is None:
        lines.append("Rank correlation: undefined, all rows are equal here or in the paper.")
    else:
        chance = "" if found.kendall_p is None else f" (p = {found.kendall_p:.2g})"
        lines.append(
            f"Rank correlation over {len(rows)} rows: Spearman's ρ = {found.spearman:.2f}, "
            f"Kendall's τ = {found.kendall:.2f}{chance}."
        )
    others = {name: values["spearman"] for name, values in result.other_figures().items()}
    if any(value is not None for value in others.values()):
        shown = ", ".join(f"{name} {value:.2f}" for name, value in others.items() if value is not None)
        lines.append(f"Spearman's ρ of the other figures: {shown}.")
    return [*lines, *_about_pairs(found, any(row.trained for row in rows.values()))]


def _about_pairs(found: RowOrder, trained: bool) -> list[str]:
    pairs = found.pairs
    if not len(pairs):
        return ["The paper's figures are equal: it orders no two of these rows."]
    if trained and found.spread is None:
        same = sum(pair.ours > 0 for pair in pairs.not_resolved)
        return [
            f"One seed: its spread is unknown, so that no difference between trained rows is resolved. {same} of the "
            f"{len(pairs.not_resolved)} pairs that the paper orders lie the same way here."
        ]
    lines = []
    if trained:
        lines.append(
            f"Spread over seeds: standard deviation {found.spread:.2f} AP, pooled over rows; differences from "
            f"{found.resolved_from:.2f} AP on are resolved, smaller ones are not."
        )
    lines.append(
        f"Of {len(pairs)} pairs that the paper orders, {len(pairs.as_in_the_paper)} come out as in the paper, "
        f"{len(pairs.against_the_paper)} the other way round, {len(pairs.not_resolved)} are not resolved."
    )
    for pair in pairs.against_the_paper:
        lines.append(
            f"Against the paper: {pair.worse} is better than {pair.better} by {-pair.ours:.2f} AP; there "
            f"{pair.paper:.1f} worse."
        )
    return lines


def _order(names: Sequence[str], values: dict[str, float]) -> str:
    """Names as "a > b = c", which means equal to the digit that is printed."""
    text = names[0]
    for before, name in pairwise(names):
        text += f" {'=' if f'{values[before]:.1f}' == f'{values[name]:.1f}' else '>'} {name}"
    return text + "."


def _figures(row: TableRow) -> list[str]:
    """A line of the table of figures."""
    masks = [run.mask for run in row.measured if run.mask is not None]
    paper = {metric: row.paper[name] for metric, name in METRICS.items()}
    ours = {metric: _mean([mask[metric] for mask in masks]) for metric in METRICS}
    ap = ours["AP"] or STANDING.get(row.kind, "") or ("failed" if row.runs else "to do")
    iou = _mean([run.matched_iou for run in row.measured], 3)
    rest = [
        " ".join([ours[metric] or "-", *([f"({figure:.1f})"] if (figure := paper[metric]) is not None else [])])
        for metric in list(METRICS)[1:]
    ]
    return [row.name, ap, "-" if paper["AP"] is None else f"{paper['AP']:.1f}", *rest, iou or "-"]


def _costs(row: TableRow) -> list[str]:
    """A line of the table of costs."""

    def beside(ours: str, paper: float | None, digits: int) -> str:
        return ours if paper is None else f"{ours} ({paper:.{digits}f})"

    trained = [run for run in row.measured if run.train_seconds is not None]
    return [
        row.name,
        beside(f"{(row.params or 0) / 1e6:.2f}", row.paper["params_m"], 2),
        beside(f"{(row.macs or 0) / 1e9:.2f}", row.paper["gmacs"], 2),
        "-" if row.iterations is None else str(row.iterations),
        str(len(trained)) if row.kind == "train" else "-",
        _mean([run.train_seconds for run in trained]) or "-",
        beside(_mean([run.device_hours for run in trained], 4) or "-", row.paper["gpu_hours"], 0),
        _mean([run.evaluation_seconds for run in row.measured]) or "-",
    ]


def _mean(values: Sequence[float | None], digits: int = 1) -> str:
    """The mean of figures, "12.3 ± 0.4" or "12.3"; "" where there is nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{fmean(known):.{digits}f}{spread}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in [head, *rows]]
    return [lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]]
