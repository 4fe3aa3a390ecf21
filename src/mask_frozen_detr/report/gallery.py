"""Pictures of the worst and best masks and of what went wrong: image, truth and result of one object side by side."""

import base64
import contextlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image

from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.report.matches import KINDS, Finding, Findings, Kind
from mask_frozen_detr.results.drawing import GAP, draw_piece
from mask_frozen_detr.results.rle import rle_to_mask, segmentation_to_rle

EACH = 40  # pictures of a kind
PANEL = 200  # pixels, the longer side of one of three
BYTES = 6_000_000  # of all pictures
QUALITY = 80
TRUTH, FOUND, FIRST = (46, 160, 67), (217, 72, 15), (110, 118, 129)  # colours


@dataclass(frozen=True)
class Example:
    """A finding with its picture: three panels as a data URI."""

    finding: Finding
    picture: str


def make_examples(findings: Findings) -> list[Example]:
    """The most telling findings of each kind, over all classes in turn; at most `BYTES` of JPEG."""
    chosen = [_choose(kind, findings.all, EACH) for kind in KINDS]
    # Rank by rank, so that what the limit leaves out is the least telling of each kind.
    ranked = [many[rank] for rank in range(EACH) for many in chosen if rank < len(many)]
    examples, size = [], 0
    for finding, jpeg in zip(ranked, _draw(ranked), strict=True):
        if not jpeg:
            continue
        size += len(jpeg)
        if size > BYTES:
            break
        examples.append(Example(finding, _data_uri(jpeg)))
    kinds = list(KINDS)
    return sorted(examples, key=lambda example: kinds.index(example.finding.kind))


def _draw(findings: Sequence[Finding]) -> list[bytes]:
    """A JPEG for each, empty where that failed; every picture is opened once."""
    jpegs = [b""] * len(findings)
    in_turn = sorted(range(len(findings)), key=lambda place: findings[place].record.id)
    for _, places in groupby(in_turn, key=lambda place: findings[place].record.id):
        of_image = list(places)
        record = findings[of_image[0]].record
        with contextlib.suppress(Exception):  # one picture that cannot be drawn costs no other, and no figure
            image = open_picture(record, record.orientation).convert("RGB")
            for place in of_image:
                jpegs[place] = _jpeg(_panels(findings[place], image))
    return jpegs


def _choose(kind: Kind, findings: Iterable[Finding], most: int) -> list[Finding]:
    """The worst first (of good masks the best), the classes taking turns."""
    by_class: dict[int, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.kind == kind and not (kind == "good mask" and finding.iou is None):
            by_class[finding.category_id].append(finding)
    for many in by_class.values():
        many.sort(key=_order)
    turns = sorted(by_class.values(), key=lambda many: _order(many[0]))
    rounds = range(max((len(many) for many in turns), default=0))
    return [many[turn] for turn in rounds for many in turns if turn < len(many)][:most]


def _order(finding: Finding) -> float:
    if finding.kind == "loose mask":
        return finding.iou or 0.0
    if finding.kind == "good mask":
        return -(finding.iou or 0.0)
    return -finding.area if finding.found is None else -finding.found["score"]


def _panels(finding: Finding, image: Image.Image) -> Image.Image:
    around = _around(finding, image.width, image.height)
    truth = [] if finding.truth is None else [(_truth_mask(finding), finding.truth.bbox, TRUTH)]
    found = [
        (rle_to_mask(one["segmentation"]), one["bbox"], colour)
        for one, colour in ((finding.first, FIRST), (finding.found, FOUND))
        if one is not None
    ]
    panels = [draw_piece(image, around, PANEL, shown) for shown in ([], truth, found)]
    width, height = panels[0].size
    row = Image.new("RGB", (3 * width + 2 * GAP, height), "white")
    for place, panel in enumerate(panels):
        row.paste(panel, (place * (width + GAP), 0))
    return row


def _truth_mask(finding: Finding) -> np.ndarray | None:
    assert finding.truth is not None
    if finding.truth.segmentation is None:
        return None
    return rle_to_mask(segmentation_to_rle(finding.truth.segmentation, finding.record.height, finding.record.width))


def _around(finding: Finding, width: int, height: int) -> tuple[int, int, int, int]:
    """The object and what was found, with a third of their longer side around them: x0, y0, x1, y1."""
    shown: Sequence[Mapping[str, Any] | None] = (finding.found, finding.first)
    boxes = [one["bbox"] for one in shown if one is not None]
    boxes += [] if finding.truth is None else [finding.truth.bbox]
    x, y, w, h = np.array(boxes, np.float64).T
    x0, y0, x1, y1 = x.min(), y.min(), (x + w).max(), (y + h).max()
    margin = max(16.0, max(x1 - x0, y1 - y0) / 3)
    left, top = max(0, int(x0 - margin)), max(0, int(y0 - margin))
    right, bottom = min(width, int(np.ceil(x1 + margin))), min(height, int(np.ceil(y1 + margin)))
    return min(left, width - 1), min(top, height - 1), max(right, left + 1), max(bottom, top + 1)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
