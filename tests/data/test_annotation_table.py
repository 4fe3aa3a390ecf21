"""Objects as columns: what is read as Python's numbers would give it, whatever is found good at once."""

import json
import pickle
import random
from typing import Any

import numpy as np
import pytest

from mask_frozen_detr.data.annotation_table import Annotations, pack, recategorise
from mask_frozen_detr.data.formats import coco_entries
from mask_frozen_detr.data.formats.coco import read_coco
from mask_frozen_detr.data.validation import Annotation

SQUARE = [5.0, 5.0, 15.0, 5.0, 15.0, 15.0, 5.0, 15.0]
RUNS = {"size": [30, 40], "counts": b"f4:d0:d0"}
OBJECTS = (
    Annotation(1, 3, (5.0, 5.0, 10.0, 10.0), [SQUARE, [1.0, 1.0, 2.5, 1.0, 2.0, 2.0]], False, 100.0),
    Annotation(2, 7, (0.0, 0.0, 9.0, 9.0), None, False, 81.0),
    Annotation(3, 3, (0.0, 0.0, 9.0, 9.0), RUNS, True, 12.0),
)
WRONG = [
    None,
    "5",
    [],
    {},
    float("nan"),
    -1e9,
    1e9,
    10**400,
    2**63,
    True,
    [[1, 2, 3]],
    {"counts": "f4", "size": [30, 40]},
]


def test_objects_come_out_as_they_went_in():
    first, none, last = pack([(OBJECTS, (30, 40)), ((), (9, 9)), (OBJECTS[1:], (30, 40))])
    assert (first, none, last) == (OBJECTS, (), OBJECTS[1:])
    assert (first[-1], list(first[1:]), len(none)) == (OBJECTS[2], list(OBJECTS[1:]), 0)
    assert first != OBJECTS[:2]
    assert pickle.loads(pickle.dumps([first, last])) == [OBJECTS, OBJECTS[1:]]


def test_classes_are_renumbered_and_left_out_without_a_copy_of_the_masks():
    groups = pack([(OBJECTS, (30, 40)), (OBJECTS[1:2], (30, 40)), ((), (30, 40))])
    kept = recategorise(groups, {3: 8})
    assert [[(a.id, a.category_id, a.segmentation) for a in group] for group in kept] == [
        [(1, 8, OBJECTS[0].segmentation), (3, 8, RUNS)],
        [],
        [],
    ]
    assert kept[0].table.shapes is groups[0].table.shapes


@pytest.mark.parametrize("package", ["msgspec", None])
def test_entries_are_good_at_once_or_one_by_one_alike(tmp_path, monkeypatch, package):
    """Against a reading that asks `check_annotation` about each."""
    if package is None:
        monkeypatch.setitem(__import__("sys").modules, "msgspec", None)
    else:
        pytest.importorskip(package)
    draw, rng = random.Random(1), np.random.default_rng(1)
    entries: list[Any] = []
    for number in range(1, 1500):
        around = rng.uniform(-5, 45, (draw.choice([2, 3, 3, 4, 9]), 2)).round(2)
        (x0, y0), (x1, y1) = around.min(0).tolist(), around.max(0).tolist()
        entry: dict[str, Any] = {
            "id": number,
            "image_id": draw.choice([1, 2, 2, 5]),
            "category_id": draw.choice([3, 7]),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "segmentation": [around.ravel().tolist()] * draw.choice([1, 1, 2]),
            "iscrowd": 0,
            "area": 7,
        }
        if draw.random() < 0.3:
            key = draw.choice(list(entry))
            entry[key] = draw.choice(WRONG)
        elif draw.random() < 0.3:
            part = draw.choice(entry["segmentation"])
            part[draw.randrange(len(part))] = draw.choice(WRONG)
        elif draw.random() < 0.1:
            entry["bbox"][draw.randrange(4)] = draw.choice(WRONG)
        entries.append(entry if draw.random() < 0.99 else draw.choice(WRONG))
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in (1, 2, 5)]
    content = {"annotations": entries, "images": images, "categories": [{"id": i, "name": str(i)} for i in (3, 7)]}
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content).replace("NaN", "NaN" if package is None else "-1e9"))
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).touch()
    at_once = read_coco(file, tmp_path)
    monkeypatch.setattr(coco_entries, "plainly_good", lambda boxes, *rest: np.zeros(len(boxes), bool))
    one_by_one = read_coco(file, tmp_path)
    assert at_once == one_by_one
    assert len(at_once.skipped) > 100
    assert sum(at_once.notes.values()) > 50
    assert all(
        isinstance(record.annotations, Annotations) and len(record.annotations) > 90 for record in at_once.images
    )
