"""Masks as polygons that people can edit: few corners, holes kept, and close to the mask's own pixels.

Contours run between pixels, so that with all corners a polygon is the mask to the pixel; corners are left out only as
long as what is then drawn overlaps the mask by `CLOSE`. Letters: h × w mask, P corners.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from mask_frozen_detr.results.contours import trace_contours

CLOSE = 0.98  # overlap with the mask that simplified polygons keep
TOLERANCES = (1.5, 1.0, 0.7, 0.5)  # pixels by which a corner may be off its line to be left out, tried in turn


@dataclass(frozen=True, eq=False)
class Part:
    """A connected part of a mask. outer, holes: (P, 2) corners x, y; holes run the other way round."""

    outer: np.ndarray
    holes: list[np.ndarray] = field(default_factory=list)


def outline(mask: np.ndarray, x: int = 0, y: int = 0) -> list[Part]:
    """The parts of an (h, w) bool mask that lies at x, y of its image, largest first."""
    outers, holes = trace_contours(mask)
    parts = [Part(outer) for outer in outers]
    for hole in holes:
        _home(hole, parts).holes.append(hole)
    for tolerance in TOLERANCES if parts else ():
        simple = [_simplified(part, tolerance) for part in parts]
        if _overlap(simple, mask) >= CLOSE:
            parts = simple
            break
    corner = np.array([x, y])
    moved = [Part(part.outer + corner, [hole + corner for hole in part.holes]) for part in parts]
    return sorted(moved, key=lambda part: -abs(_doubled_area(part.outer)))


def one_ring(parts: Sequence[Part]) -> np.ndarray:
    """All of them as one closed line, (P, 2): holes and further parts hang on seams of no width.

    For formats that know one polygon an object. Filled by either rule it is the same area.
    """
    ring = np.zeros((0, 2))
    for part in parts:
        whole = part.outer
        for hole in part.holes:
            whole = _joined(whole, hole)
        ring = _joined(ring, whole) if len(ring) else whole
    return ring


def with_seams(part: Part) -> np.ndarray:
    """A part as one closed line, (P, 2), its holes on seams."""
    return one_ring([part])


def _joined(ring: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A ring with a detour, from its corner nearest to the other ring, around that and back."""
    distance = np.abs(ring[:, None] - other[None]).sum(-1)
    here, there = np.unravel_index(distance.argmin(), distance.shape)
    around = np.roll(other, -int(there), axis=0)
    return np.concatenate([ring[: here + 1], around, around[:1], ring[here:]])


def _home(hole: np.ndarray, parts: list[Part]) -> Part:
    """The part that a hole is in: of those around the mask's pixel beside its first edge, the smallest."""
    step = np.sign(hole[1] - hole[0])
    pixel = hole[0] + step / 2 + np.array([-step[1], step[0]]) / 2  # the mask lies on the right
    around = [part for part in parts if _inside(pixel, part.outer)]
    return min(around, key=lambda part: abs(_doubled_area(part.outer)))


def _inside(point: np.ndarray, ring: np.ndarray) -> bool:
    """Even-odd rule; the point lies on no corner's height."""
    x, y = ring[:, 0], ring[:, 1]
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    crossing = (y > point[1]) != (y2 > point[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x + (point[1] - y) / (y2 - y) * (x2 - x)
    return bool((crossing & (at > point[0])).sum() % 2)


def _doubled_area(ring: np.ndarray) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def _simplified(part: Part, tolerance: float) -> Part:
    holes = [_simple(hole, tolerance) for hole in part.holes]
    return Part(_simple(part.outer, tolerance), [hole for hole in holes if len(hole) > 2])


def _simple(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Douglas and Peucker's polygon (1973), between the two corners that are farthest from the first and each other."""
    start = int(np.square(ring - ring[0]).sum(1).argmax())
    ring = np.roll(ring, -start, axis=0)
    middle = int(np.square(ring - ring[0]).sum(1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, middle, len(ring)]] = True
    waiting = [(0, middle), (middle, len(ring))]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        line = closed[last] - closed[first]
        offset = closed[first + 1 : last] - closed[first]
        length = np.hypot(*line)
        distance = np.abs(line[0] * offset[:, 1] - line[1] * offset[:, 0]) / length if length else np.hypot(*offset.T)
        far = int(distance.argmax())
        if distance[far] > tolerance:
            keep[first + 1 + far] = True
            waiting += [(first, first + 1 + far), (first + 1 + far, last)]
    return closed[:-1][keep[:-1]]


def _overlap(parts: Sequence[Part], mask: np.ndarray) -> float:
    if any(len(part.outer) < 3 for part in parts):
        return 0.0
    height, width = mask.shape
    rings = [with_seams(part).astype(float).ravel().tolist() for part in parts]
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, height, width))).astype(bool)
    union = np.count_nonzero(drawn | mask)
    return np.count_nonzero(drawn & mask) / union if union else 1.0
