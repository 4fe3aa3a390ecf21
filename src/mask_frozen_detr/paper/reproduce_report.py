"""What a reproduced table says: the order of the rows beside the paper's, the spread over seeds, and text to read.

A result is what `reproduce.json` holds: `rows`, each with its paper's figures and its `runs`, one a seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import fmean, stdev
from typing import Any

from scipy import stats

METRICS = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "APs": "ap_s", "APm": "ap_m", "APl": "ap_l"}  # ours: paper's
TOLERANCE = 0.05  # AP below which figures printed to one digit are the same
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measured:
    """A row with a figure of ours for each seed, and the paper's. trained: seeds matter."""

    name: str
    ours: tuple[float, ...]
    paper: float
    trained: bool = True

    @property
    def mean(self) -> float:
        return fmean(self.ours)


def measured_rows(result: dict[str, Any], metric: str = "AP") -> list[Measured]:
    """The rows that have both figures, each with the seeds that all trained rows have so far."""
    done = [{run["seed"] for run in row["runs"] if run.get("mask")} for row in result["rows"] if row["kind"] == "train"]
    seeds = set.intersection(*filter(None, done)) if any(done) else set()
    rows = []
    for row in result["rows"]:
        runs = [run for run in row["runs"] if run.get("mask") and run["seed"] in seeds | {None}]
        ours = [run["mask"][metric] for run in runs if run["mask"][metric] is not None]
        if ours and row["paper"][METRICS[metric]] is not None:
            rows.append(Measured(row["name"], tuple(ours), row["paper"][METRICS[metric]], row["kind"] == "train"))
    return rows


def rank_correlation(ours: Sequence[float], paper: Sequence[float]) -> dict[str, float | None]:
    """Spearman's ρ and Kendall's τ with its p; None where there is no order: fewer than two rows, or all equal."""
    if len(set(ours)) < 2 or len(set(paper)) < 2:
        return {"spearman": None, "kendall": None, "kendall_p": None}
    kendall = stats.kendalltau(ours, paper)
    return {
        "spearman": round(float(stats.spearmanr(ours, paper).statistic), 4),
        "kendall": round(float(kendall.statistic), 4),
        "kendall_p": round(float(kendall.pvalue), 5) if math.isfinite(kendall.pvalue) else None,
    }


def spread_over_seeds(rows: Sequence[Measured]) -> tuple[float, int] | None:
    """Standard deviation over seeds, pooled over all trained rows, and its degrees of freedom; None for one seed."""
    several = [row.ours for row in rows if row.trained and len(row.ours) > 1]
    freedom = sum(len(ours) - 1 for ours in several)
    if not freedom:
        return None
    return math.sqrt(sum(stdev(ours) ** 2 * (len(ours) - 1) for ours in several) / freedom), freedom


def least_difference(one: Measured, other: Measured, spread: tuple[float, int] | None) -> float:
    """From which difference of their means on two rows are told apart: Student's t with the pooled spread.

    Infinite where seeds matter and there is one only.
    """
    variance = sum(1 / len(row.ours) for row in (one, other) if row.trained)
    if not variance:
        return TOLERANCE
    if spread is None:
        return math.inf
    deviation, freedom = spread
    return max(TOLERANCE, float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * deviation * math.sqrt(variance))


def compare(rows: Sequence[Measured]) -> dict[str, Any]:
    """The order of the rows here and in the paper, and each pair that the paper orders: does it hold here?"""
    spread = spread_over_seeds(rows)
    pairs: dict[str, list[list[Any]]] = {"as_in_the_paper": [], "against_the_paper": [], "not_resolved": []}
    least = [math.inf]
    for one, other in combinations(rows, 2):
        if abs(one.paper - other.paper) < TOLERANCE:
            continue
        better, worse = (one, other) if one.paper > other.paper else (other, one)
        difference, needed = better.mean - worse.mean, least_difference(one, other, spread)
        least.append(needed)
        kind = "not_resolved"
        if abs(difference) >= needed:
            kind = "as_in_the_paper" if difference > 0 else "against_the_paper"
        pairs[kind].append([better.name, worse.name, round(better.paper - worse.paper, 2), round(difference, 3)])
    return {
        "rows": len(rows),
        "order": [row.name for row in sorted(rows, key=lambda row: -row.mean)],
        "paper_order": [row.name for row in sorted(rows, key=lambda row: -row.paper)],
        **rank_correlation([row.mean for row in rows], [row.paper for row in rows]),
        "spread": None if spread is None else round(spread[0], 4),
        "resolved_from": round(min(least), 4) if math.isfinite(min(least)) else None,
        # [better in the paper, worse, difference in the paper, difference here]
        "pairs": pairs,
    }


def comparison(result: dict[str, Any]) -> dict[str, Any]:
    """`compare` for AP, and the rank correlation of the other figures."""
    others = {
        metric: rank_correlation([row.mean for row in rows], [row.paper for row in rows])
        for metric in list(METRICS)[1:]
        if (rows := measured_rows(result, metric))
    }
    return {**compare(measured_rows(result)), "other_figures": others}


# --- text


def finding(result: dict[str, Any]) -> list[str]:
    """What the comparison says, in sentences."""
    found = result["comparison"]
    rows = {row.name: row for row in measured_rows(result)}
    if len(rows) < 2:
        return ["Fewer than two rows have a figure here and in the paper: there is no order to compare."]
    lines = [
        "Order here, best first: " + _order(found["order"], {name: row.mean for name, row in rows.items()}),
        "Order in the paper: " + _order(found["paper_order"], {name: row.paper for name, row in rows.items()}),
    ]
    if found["spearman"] is None:
        lines.append("Rank correlation: undefined, all rows are equal here or in the paper.")
    else:
        chance = "" if found["kendall_p"] is None else f" (p = {found['kendall_p']:.2g})"
        lines.append(
            f"Rank correlation over {len(rows)} rows: Spearman's ρ = {found['spearman']:.2f}, "
            f"Kendall's τ = {found['kendall']:.2f}{chance}."
        )
    others = {name: values["spearman"] for name, values in found["other_figures"].items()}
    if any(value is not None for value in others.values()):
        shown = ", ".join(f"{name} {value:.2f}" for name, value in others.items() if value is not None)
        lines.append(f"Spearman's ρ of the other figures: {shown}.")
    return [*lines, *_about_pairs(found, any(row.trained for row in rows.values()))]


def _about_pairs(found: dict[str, Any], trained: bool) -> list[str]:
    pairs = found["pairs"]
    total = sum(map(len, pairs.values()))
    if not total:
        return ["The paper's figures are equal: it orders no two of these rows."]
    if trained and found["spread"] is None:
        same = sum(pair[3] > 0 for pair in pairs["not_resolved"])
        return [
            f"One seed: its spread is unknown, so that no difference between trained rows is resolved. {same} of the "
            f"{len(pairs['not_resolved'])} pairs that the paper orders lie the same way here."
        ]
    lines = []
    if trained:
        lines.append(
            f"Spread over seeds: standard deviation {found['spread']:.2f} AP, pooled over rows; differences from "
            f"{found['resolved_from']:.2f} AP on are resolved, smaller ones are not."
        )
    lines.append(
        f"Of {total} pairs that the paper orders, {len(pairs['as_in_the_paper'])} come out as in the paper, "
        f"{len(pairs['against_the_paper'])} the other way round, {len(pairs['not_resolved'])} are not resolved."
    )
    for better, worse, paper, ours in pairs["against_the_paper"]:
        lines.append(f"Against the paper: {worse} is better than {better} by {-ours:.2f} AP; there {paper:.1f} worse.")
    return lines


def _order(names: Sequence[str], values: dict[str, float]) -> str:
    """Names as "a > b = c", which means equal to the digit that is printed."""
    text = names[0]
    for before, name in pairwise(names):
        text += f" {'=' if f'{values[before]:.1f}' == f'{values[name]:.1f}' else '>'} {name}"
    return text + "."


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    lines = [f"# Table {result['table']} on a small budget", "", *result["about"], ""]
    lines += _table(["row", "AP", "paper", *list(METRICS)[1:], "IoU"], [_figures(row) for row in result["rows"]])
    lines += [
        "",
        "Mask AP in percent; with several seeds mean ± standard deviation; in brackets the paper's. "
        "IoU: mean mask IoU of the matched boxes over the last fifth of training.",
        "",
    ]
    hours = "GPU hours" if result["device"] != "cpu" else "CPU hours"
    head = ["row", "params M", "G MACs", "iterations", "seeds", "training s", hours, "evaluation s"]
    lines += _table(head, [_costs(row) for row in result["rows"] if row["runs"]])
    lines += [
        "",
        f"In brackets the paper's (V100 hours). {hours} are training seconds × {result['processes']} process(es), "
        f"of one seed. {result['cost_note']}",
        "",
    ]
    reasons = [f"- {row['name']}: {row['why']}." for row in result["rows"] if row["why"]]
    failures = [
        f"- {row['name']}, seed {run['seed']}: failed: {run['failed']}"
        for row in result["rows"]
        for run in row["runs"]
        if run.get("failed")
    ]
    if reasons or failures:
        lines += ["## Not run", "", *reasons, *failures, ""]
    lines += ["## Finding", "", *(f"- {line}" for line in finding(result)), ""]
    return "\n".join(lines)


def _figures(row: dict[str, Any]) -> list[str]:
    measured = [run for run in row["runs"] if run.get("mask")]
    paper = {metric: row["paper"][name] for metric, name in METRICS.items()}
    ours = {metric: _mean([run["mask"][metric] for run in measured]) for metric in METRICS}
    standing = {"paper": "-", "impossible": "not possible", "same": "as above", "evaluate": "", "train": ""}[
        row["kind"]
    ]
    ap = ours["AP"] or standing or ("failed" if row["runs"] else "to do")
    iou = _mean([run["matched_iou"] for run in measured if "matched_iou" in run], 3)
    rest = [
        " ".join([ours[metric] or "-", *([f"({paper[metric]:.1f})"] if paper[metric] is not None else [])])
        for metric in list(METRICS)[1:]
    ]
    return [row["name"], ap, "-" if paper["AP"] is None else f"{paper['AP']:.1f}", *rest, iou or "-"]


def _costs(row: dict[str, Any]) -> list[str]:
    measured = [run for run in row["runs"] if run.get("mask")]

    def beside(ours: str, paper: float | None, digits: int) -> str:
        return ours if paper is None else f"{ours} ({paper:.{digits}f})"

    trained = [run for run in measured if "train_seconds" in run]
    return [
        row["name"],
        beside(f"{row['params'] / 1e6:.2f}", row["paper"]["params_m"], 2),
        beside(f"{row['macs'] / 1e9:.2f}", row["paper"]["gmacs"], 2),
        "-" if row["iterations"] is None else str(row["iterations"]),
        str(len(trained)) if row["kind"] == "train" else "-",
        _mean([run["train_seconds"] for run in trained]) or "-",
        beside(_mean([run["device_hours"] for run in trained], 4) or "-", row["paper"]["gpu_hours"], 0),
        _mean([run["evaluation_seconds"] for run in measured]) or "-",
    ]


def _mean(values: Sequence[float | None], digits: int = 1) -> str:
    """As "12.3 ± 0.4" or "12.3"; "" where there is nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{fmean(known):.{digits}f}{spread}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in [head, *rows]]
    return [lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]]
