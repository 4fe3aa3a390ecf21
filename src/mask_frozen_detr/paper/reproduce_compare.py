"""The order of a table's rows here and in the paper, held against the spread over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean, stdev
from typing import NamedTuple

from scipy import stats

METRICS = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "APs": "ap_s", "APm": "ap_m", "APl": "ap_l"}  # ours: paper's
TOLERANCE = 0.05  # AP below which figures printed to one digit are the same
CONFIDENCE = 0.95


@dataclass(frozen=True)
class MeasuredRow:
    """A row with a figure of ours for each seed, and the paper's. trained: seeds matter."""

    name: str
    ours: tuple[float, ...]
    paper: float
    trained: bool = True

    @property
    def mean(self) -> float:
        return fmean(self.ours)


class Pair(NamedTuple):
    """Two rows that the paper orders. paper, ours: by how much the first is better there and here, in AP."""

    better: str
    worse: str
    paper: float
    ours: float


@dataclass
class Pairs:
    """What became here of the pairs that the paper orders."""

    as_in_the_paper: list[Pair] = field(default_factory=list)
    against_the_paper: list[Pair] = field(default_factory=list)
    not_resolved: list[Pair] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.as_in_the_paper) + len(self.against_the_paper) + len(self.not_resolved)


@dataclass(frozen=True)
class RowOrder:
    """order, paper_order: row names, best first. spearman, kendall, kendall_p: None where there is no order.

    spread: standard deviation over seeds, pooled over rows; None for one seed. resolved_from: AP from which on two
    rows are told apart.
    """

    rows: int
    order: list[str]
    paper_order: list[str]
    spearman: float | None
    kendall: float | None
    kendall_p: float | None
    spread: float | None
    resolved_from: float | None
    pairs: Pairs


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


def spread_over_seeds(rows: Sequence[MeasuredRow]) -> tuple[float, int] | None:
    """Standard deviation over seeds, pooled over all trained rows, and its degrees of freedom; None for one seed."""
    several = [row.ours for row in rows if row.trained and len(row.ours) > 1]
    freedom = sum(len(ours) - 1 for ours in several)
    if not freedom:
        return None
    return math.sqrt(sum(stdev(ours) ** 2 * (len(ours) - 1) for ours in several) / freedom), freedom


def least_difference(one: MeasuredRow, other: MeasuredRow, spread: tuple[float, int] | None) -> float:
    """The difference of their means from which on two rows are told apart: Student's t with the pooled spread.

    Infinite where seeds matter and there is one only.
    """
    variance = sum(1 / len(row.ours) for row in (one, other) if row.trained)
    if not variance:
        return TOLERANCE
    if spread is None:
        return math.inf
    deviation, freedom = spread
    return max(TOLERANCE, float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * deviation * math.sqrt(variance))


def compare(rows: Sequence[MeasuredRow]) -> RowOrder:
    """The order of the rows here and in the paper, and each pair that the paper orders: does it hold here?"""
    spread = spread_over_seeds(rows)
    pairs = Pairs()
    least = [math.inf]
    for one, other in combinations(rows, 2):
        if abs(one.paper - other.paper) < TOLERANCE:
            continue
        better, worse = (one, other) if one.paper > other.paper else (other, one)
        difference, needed = better.mean - worse.mean, least_difference(one, other, spread)
        least.append(needed)
        kind = pairs.not_resolved
        if abs(difference) >= needed:
            kind = pairs.as_in_the_paper if difference > 0 else pairs.against_the_paper
        kind.append(Pair(better.name, worse.name, round(better.paper - worse.paper, 2), round(difference, 3)))
    return RowOrder(
        rows=len(rows),
        order=[row.name for row in sorted(rows, key=lambda row: -row.mean)],
        paper_order=[row.name for row in sorted(rows, key=lambda row: -row.paper)],
        **rank_correlation([row.mean for row in rows], [row.paper for row in rows]),
        spread=None if spread is None else round(spread[0], 4),
        resolved_from=round(min(least), 4) if math.isfinite(min(least)) else None,
        pairs=pairs,
    )
