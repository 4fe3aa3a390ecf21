"""What becomes of objects and detections, on an image that was drawn for it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mask_frozen_detr.data.coco import Annotation, ImageRecord
from mask_frozen_detr.report.matches import find_errors
from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.results.rle import crop_to_rle

H, W = 100, 200
CAT, DOG = 1, 2


def rle(x: int, y: int, w: int, h: int) -> dict:
    return crop_to_rle(Crop(x, y, np.ones((h, w), bool)), H, W)


def truth(number: int, category: int, box: tuple[int, int, int, int], mask: bool = True, crowd: bool = False):
    return Annotation(number, category, box, rle(*box) if mask else None, crowd, float(box[2] * box[3]))


def found(category: int, box: tuple[int, int, int, int], score: float, mask: tuple[int, int, int, int] | None = None):
    segmentation = rle(*(mask or box))
    return {"image_id": 7, "category_id": category, "bbox": list(box), "score": score, "segmentation": segmentation}


TRUTH = (
    truth(1, CAT, (0, 0, 20, 20)),  # found, with a good mask
    truth(2, CAT, (30, 0, 20, 20)),  # found, half of its mask
    truth(3, DOG, (60, 0, 20, 20)),  # taken for a cat
    truth(4, DOG, (90, 0, 40, 40)),  # missed
    truth(5, CAT, (140, 0, 20, 20), mask=False),  # found, its mask is not known
    truth(6, DOG, (0, 50, 60, 40), crowd=True),
    truth(8, CAT, (0, 30, 10, 10)),  # found, at a low score
    truth(7, 99, (150, 50, 20, 20)),  # of a category that the detector lacks
)
FOUND = [
    found(CAT, (0, 0, 20, 20), 0.9, (0, 0, 20, 18)),
    found(CAT, (30, 0, 20, 20), 0.8, (30, 0, 20, 10)),
    found(CAT, (60, 0, 20, 20), 0.7),
    found(CAT, (140, 0, 20, 20), 0.6),
    found(CAT, (1, 0, 20, 20), 0.55),  # the first cat again
    found(DOG, (10, 55, 20, 20), 0.5),  # within the crowd: neither right nor wrong
    found(DOG, (170, 70, 20, 20), 0.45),  # nothing there
    found(DOG, (92, 0, 40, 40), 0.44),  # the missed dog after all
    found(CAT, (0, 30, 10, 10), 0.43),
    *[found(DOG, (100, 60, 10, 10), 0.1 - 0.001 * number) for number in range(20)],  # below any sense
]


def errors(entries: list[dict]):
    record = ImageRecord(7, Path("7.jpg"), W, H, TRUTH)
    classes = SimpleNamespace(index_of={CAT: 0, DOG: 1})
    return find_errors(SimpleNamespace(entries=entries, images=[record], classes=classes))  # type: ignore[arg-type]


def test_kinds():
    findings = errors(FOUND)
    kinds = {
        (finding.kind, finding.truth and finding.truth.id, finding.found and finding.found["score"])
        for finding in findings.all
    }
    # Right at 0.9, 0.8, 0.6, 0.44 and 0.43, wrong at three scores between, 6 objects: F1 is 10 / 14 at 0.43.
    assert findings.threshold == 0.43
    assert kinds == {
        ("good mask", 1, 0.9),
        ("loose mask", 2, 0.8),
        ("wrong class", 3, 0.7),
        ("good mask", 5, 0.6),
        ("duplicate", 1, 0.55),
        ("nothing there", None, 0.45),
        ("good mask", 4, 0.44),
        ("good mask", 8, 0.43),
    }
    assert findings.mask_ious() == pytest.approx([0.9, 0.5, 38 / 42, 1.0])


def test_what_is_not_found_is_missed():
    findings = errors([entry for entry in FOUND if entry["score"] > 0.5])
    assert [finding.truth.id for finding in findings.all if finding.kind == "missed" and finding.truth] == [4, 8]
    missed, _ = (finding for finding in findings.all if finding.kind == "missed")
    assert (missed.size, missed.category_id) == ("medium", DOG)


def test_nothing_is_right():
    for entries in ([], [found(DOG, (170, 70, 20, 20), 0.9)]):
        findings = errors(entries)
        assert findings.threshold == 0
        assert findings.count("missed") == 6
        assert findings.count("nothing there") == len(entries)
