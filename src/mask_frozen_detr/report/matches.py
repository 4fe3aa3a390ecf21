"""What became of each object, and what each detection is: found, missed, of the wrong class, twice, or nothing at all.

Not in the paper. Detections meet objects as in COCO's evaluation, best score first, at a box IoU of one half: boxes are
the frozen detector's, so what is left is what the masks add. Kinds after TIDE ("A General Toolbox for Identifying
Object Detection Errors").
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.coco import Annotation, ImageRecord
from mask_frozen_detr.evaluation import Measured
from mask_frozen_detr.results.rle import segmentation_to_rle

Kind = Literal["good mask", "loose mask", "missed", "wrong class", "duplicate", "nothing there"]
KINDS: dict[Kind, str] = {
    "loose mask": "class and box are right, the mask overlaps the true one by less than 0.75",
    "missed": "no box of the object's class, nor of another, overlaps it by half",
    "wrong class": "the box is right, the class is not",
    "duplicate": "a second box on an object that is found",
    "nothing there": "no object's box overlaps this one by half",
    "good mask": "class and box are right, the mask overlaps the true one by 0.75 or more",
}
BOX_IOU = 0.5
LOOSE = 0.75  # a mask IoU below it counts at AP50, and not at AP75
SMALL, MEDIUM = 32**2, 96**2  # pixels, COCO's bounds


@dataclass(frozen=True)
class Finding:
    """One object or detection. truth: the object, if there is one. found: the COCO result, if there is one.

    first: for duplicates, the result that was there before. iou: of the masks, where both are known.
    """

    kind: Kind
    record: ImageRecord
    truth: Annotation | None
    found: Mapping[str, Any] | None
    iou: float | None = None
    first: Mapping[str, Any] | None = None

    @property
    def category_id(self) -> int:
        """The object's, or of what is no object the detection's."""
        if self.truth is not None:
            return self.truth.category_id
        assert self.found is not None
        return self.found["category_id"]

    @property
    def area(self) -> float:
        """Pixels, of the object or of the mask that was found."""
        if self.truth is not None:
            return self.truth.area
        assert self.found is not None
        return float(coco_mask.area(self.found["segmentation"]))

    @property
    def size(self) -> str:
        """The object's size as COCO has it: small, medium, large."""
        return "small" if self.area < SMALL else "medium" if self.area < MEDIUM else "large"


@dataclass(frozen=True)
class Findings:
    """What was found in all images.

    threshold: detections that score less are not looked at; it is where F1 is highest.
    """

    threshold: float
    all: list[Finding]

    def count(self, kind: Kind) -> int:
        return sum(finding.kind == kind for finding in self.all)

    def mask_ious(self) -> list[float]:
        """The IoU of objects that are found with a mask whose true one is known."""
        return [finding.iou for finding in self.all if finding.iou is not None]


class _Image:
    """One image's objects that count, its crowds, and its detections by score."""

    def __init__(self, record: ImageRecord, entries: Sequence[Mapping[str, Any]], known: Mapping[int, int]):
        annotations = [a for a in record.annotations if a.category_id in known]
        self.record = record
        self.truth = [a for a in annotations if not a.iscrowd]
        self.crowds = [a for a in annotations if a.iscrowd]
        self.found = sorted(entries, key=lambda entry: -entry["score"])
        boxes = [entry["bbox"] for entry in self.found]
        self.overlap = _box_overlap(boxes, [a.bbox for a in self.truth], crowd=False)  # (D, G)
        self.in_crowd = _box_overlap(boxes, [a.bbox for a in self.crowds], crowd=True)

    def match(self) -> list[int | None]:
        """The object that each detection finds, None for none. Detections of lower scores never change a match."""
        taken: set[int] = set()
        matches: list[int | None] = []
        for d, entry in enumerate(self.found):
            free = [g for g in self._of_class(entry["category_id"]) if g not in taken and self.overlap[d, g] >= BOX_IOU]
            best = max(free, key=lambda g: self.overlap[d, g], default=None)
            if best is not None:
                taken.add(best)
            matches.append(best)
        return matches

    def ignored(self, d: int) -> bool:
        """Whether a detection lies in a crowd of its class: then it is neither right nor wrong."""
        category = self.found[d]["category_id"]
        return any(self.in_crowd[d, c] >= BOX_IOU for c, a in enumerate(self.crowds) if a.category_id == category)

    def findings(self, matches: Sequence[int | None], threshold: float) -> list[Finding]:
        kept = [d for d, entry in enumerate(self.found) if entry["score"] >= threshold]
        finder = {g: d for d in kept if (g := matches[d]) is not None}
        result = [self._found(g, d) for g, d in finder.items()]
        mistaken: dict[int, int] = {}
        for d in kept:
            if matches[d] is not None or self.ignored(d):
                continue
            near = [g for g in range(len(self.truth)) if self.overlap[d, g] >= BOX_IOU]
            again = [g for g in near if g in finder]
            open_ones = [g for g in near if g not in finder and g not in mistaken]
            entry = self.found[d]
            if open_ones:
                best = max(open_ones, key=lambda g: self.overlap[d, g])
                mistaken[best] = d
                result.append(Finding("wrong class", self.record, self.truth[best], entry))
            elif again:
                best = max(again, key=lambda g: self.overlap[d, g])
                first = self.found[finder[best]]
                result.append(Finding("duplicate", self.record, self.truth[best], entry, first=first))
            elif not near:
                result.append(Finding("nothing there", self.record, None, entry))
        missed = [g for g in range(len(self.truth)) if g not in finder and g not in mistaken]
        return result + [Finding("missed", self.record, self.truth[g], None) for g in missed]

    def _found(self, g: int, d: int) -> Finding:
        truth, entry = self.truth[g], self.found[d]
        if truth.segmentation is None:
            return Finding("good mask", self.record, truth, entry)  # for what is known
        rle = segmentation_to_rle(truth.segmentation, self.record.height, self.record.width)
        iou = float(coco_mask.iou([entry["segmentation"]], [rle], [0])[0, 0])
        return Finding("good mask" if iou >= LOOSE else "loose mask", self.record, truth, entry, iou)

    def _of_class(self, category_id: int) -> list[int]:
        return [g for g, a in enumerate(self.truth) if a.category_id == category_id]


def find_errors(measured: Measured) -> Findings:
    """What became of all objects and detections of an evaluation."""
    entries: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in measured.entries:
        entries[entry["image_id"]].append(entry)
    images = [_Image(record, entries[record.id], measured.classes.index_of) for record in measured.images]
    matches = [image.match() for image in images]
    objects = sum(len(image.truth) for image in images)
    scored = [
        (entry["score"], match is not None)
        for image, found in zip(images, matches, strict=True)
        for d, (entry, match) in enumerate(zip(image.found, found, strict=True))
        if match is not None or not image.ignored(d)
    ]
    threshold = _best_threshold(scored, objects)
    pairs = zip(images, matches, strict=True)
    return Findings(threshold, [finding for image, found in pairs for finding in image.findings(found, threshold)])


def _best_threshold(scored: Sequence[tuple[float, bool]], objects: int) -> float:
    """The score at which F1 = 2 · right / (detections + objects) is highest; 0 where nothing is right."""
    if not any(right for _, right in scored):
        return 0.0
    scores, right = np.array(sorted(scored, key=lambda pair: -pair[0]), np.float64).T
    f1 = 2 * np.cumsum(right) / (np.arange(1, len(scores) + 1) + objects)
    return float(scores[np.argmax(f1)])


def _box_overlap(found: Sequence[Any], truth: Sequence[Any], crowd: bool) -> np.ndarray:
    """(D, G) IoU of boxes x, y, w, h; with a crowd the share of the detection."""
    if not found or not truth:
        return np.zeros((len(found), len(truth)))
    boxes = np.array(found, np.float64), np.array(truth, np.float64)
    return np.asarray(coco_mask.iou(*boxes, [int(crowd)] * len(truth)))
