"""Annotations of COCO files: what is broken is skipped and named, what is odd but good is used."""

import math
import re
from typing import Any

import numpy as np
import pytest
from coco_entries import COUNTS, RLE, RUNS, SQUARE, H, W, annotation, data_set, image, read
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.validation import Broken, decode_counts

BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no segmentation": (dict(segmentation=None), "no segmentation"),
    "empty list": (dict(segmentation=[]), "no segmentation"),
    "empty object": (dict(segmentation={}), "no segmentation"),
    "text": (dict(segmentation="5 5 15 5"), "segmentation is neither polygons nor RLE"),
    "flat list": (dict(segmentation=SQUARE), "segmentation is a flat list"),
    "points as pairs": (dict(segmentation=[[[5, 5], [15, 5], [15, 15]]]), "polygon holds something that is no finite"),
    "empty polygon": (dict(segmentation=[[]]), "polygon with fewer than 3 points"),
    "two points": (dict(segmentation=[[5, 5, 15, 15]]), "polygon with fewer than 3 points: part 0 has 2"),
    "odd count": (dict(segmentation=[[5, 5, 15, 5, 15, 15, 5]]), "polygon with an odd count of numbers: part 0 has 7"),
    "text in a polygon": (dict(segmentation=[[5, 5, 15, "5", 15, 15]]), "polygon holds something that is no finite"),
    "null in a polygon": (dict(segmentation=[[5, 5, 15, [], 15, 15]]), "polygon holds something that is no finite"),
    "NaN": (dict(segmentation=[[5, 5, 15, math.nan, 15, 15]]), "polygon holds something that is no finite"),
    "infinity": (dict(segmentation=[[5, 5, 15, math.inf, 15, 15]]), "polygon holds something that is no finite"),
    "right of the image": (dict(segmentation=[[W + x for x in SQUARE]]), "polygon lies outside the image"),
    "above the image": (dict(segmentation=[[5, -9, 15, -9, 15, 0, 5, 0]]), "polygon lies outside the image"),
    "vertical line": (dict(segmentation=[[5, 5, 5, 9, 5, 15]]), "polygon without area"),
    "slanted line": (dict(segmentation=[[5, 5, 6.1, 6.1, 15, 15, 9, 9]]), "polygon without area"),
    "one point thrice": (dict(segmentation=[[5, 5, 5, 5, 5, 5]]), "polygon without area"),
    "RLE of another size": (dict(segmentation={"size": [20, 60], "counts": COUNTS}), "RLE of another size"),
    "RLE turned": (dict(segmentation={"size": [W, H], "counts": COUNTS}), r"RLE of another size .*swapped\?"),
    "RLE without size": (dict(segmentation={"counts": COUNTS}), "RLE of another size"),
    "RLE without counts": (dict(segmentation={"size": [H, W]}), "RLE counts cannot be decoded"),
    "RLE cut short": (dict(segmentation={"size": [H, W], "counts": COUNTS[:-2]}), "RLE counts"),
    "RLE too long": (dict(segmentation={"size": [H, W], "counts": COUNTS + "5"}), "RLE counts do not add up"),
    "RLE with odd signs": (dict(segmentation={"size": [H, W], "counts": "é ~\n"}), "RLE counts cannot be decoded"),
    "empty RLE": (dict(segmentation={"size": [H, W], "counts": ""}), "RLE counts cannot be decoded"),
    "list too short": (dict(segmentation={"size": [H, W], "counts": RUNS[:-1]}), "RLE counts do not add up"),
    "list too long": (dict(segmentation={"size": [H, W], "counts": [*RUNS, 5]}), "RLE counts do not add up"),
    "no counts": (dict(segmentation={"size": [H, W], "counts": []}), "RLE counts do not add up"),
    "negative run": (dict(segmentation={"size": [H, W], "counts": [5, -5, H * W]}), "RLE counts cannot be decoded"),
    "broken run": (dict(segmentation={"size": [H, W], "counts": [0.5, H * W - 0.5]}), "RLE counts cannot be decoded"),
    "RLE of nothing": (dict(segmentation={"size": [H, W], "counts": [H * W]}), "RLE of an empty mask"),
    "box outside": (dict(bbox=[W, 5, 10, 10]), "bbox lies outside the image"),
    "box elsewhere": (dict(bbox=[25, 20, 8, 8]), "bbox and polygon do not touch"),
    "unknown category": (dict(category_id=4), r"unknown category id: 4, the file has \[3, 7\]"),
    "no category": (dict(category_id=None), "category_id is missing"),
    "unknown image": (dict(image_id=77), "unknown image id: 77"),
    "image id as a list": (dict(image_id=[1]), "image_id is missing or no whole number"),
    "odd crowd flag": (dict(iscrowd="no"), "iscrowd is neither 0 nor 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_annotations_are_skipped_and_named(tmp_path, case):
    changes, why = BROKEN[case]
    box = {"bbox": None} if "segmentation" in changes else {}  # a good box would stay
    data = read(
        tmp_path, data_set(annotation(1), annotation(**({"annotation_id": 17} | box | changes)), annotation(20))
    )
    kept = data.images[0].annotations
    assert [(a.id, a.segmentation) for a in kept] == [(1, [SQUARE]), (20, [SQUARE])], "the others stay"
    (skipped,) = data.skipped
    assert re.match(why, skipped.why), skipped.why
    image_id = changes.get("image_id", 1)
    named = "image 1, dog.jpg" if image_id == 1 else f"image {image_id}"
    where = f"annotation 17 ({named})"
    assert skipped.where == f"instances_train.json, {where}"
    kind, _, found = skipped.why.partition(":")
    first = f"{where}:{found}" if found else where
    assert f"skipped 1 × {kind}, first: {first}" in data.summary(), "the first case is shown whole"
    assert data.left_out() == {kind: 1}


@pytest.mark.parametrize("case", [case for case, (changes, _) in BROKEN.items() if "segmentation" in changes])
def test_a_box_stays_without_its_mask(tmp_path, case):
    changes, why = BROKEN[case]
    data = read(tmp_path, data_set(annotation(1), annotation(17, area=None, **changes)))
    kept = data.images[0].annotations[1]
    assert (kept.id, kept.bbox, kept.segmentation, kept.area) == (17, (5, 5, 10, 10), None, 100)
    assert not data.skipped
    (note,) = data.notes
    assert note.startswith("object without a mask, a box alone (")
    assert re.match(why.split(":")[0].split(" .*")[0], note.split("(")[1].rstrip(")"))


@pytest.mark.parametrize(
    "bbox", [[], [5, 5, 0, 10], [5, 5, 10, -1], [5, 5, 10], [5, 5, "10", 10], [5, 5, math.nan, 10], "5 5 10 10"]
)
@pytest.mark.parametrize("segmentation", [[SQUARE], {"size": [H, W], "counts": COUNTS}])
def test_a_box_is_taken_from_the_mask(tmp_path, bbox, segmentation):
    data = read(tmp_path, data_set(annotation(bbox=bbox, segmentation=segmentation)))
    assert data.images[0].annotations[0].bbox == tuple(coco_mask.toBbox(RLE))
    assert data.notes == {"box taken from the mask, the file's is none": 1}


def test_a_box_and_a_mask_that_are_both_broken_are_skipped(tmp_path):
    data = read(tmp_path, data_set(annotation(1), annotation(2, bbox=[5, 5, 0, 10], segmentation=[[5, 5, 15, 15]])))
    assert data.left_out() == {"bbox without width or height": 1}


@pytest.mark.parametrize("ids", [[1, 1, 2], [None, 4, 5], ["a", 4, 5], [0, 1, 2], [1.5, 2, 3], [10**30, 2, 3]])
def test_annotation_ids_are_bookkeeping(tmp_path, ids):
    boxes = [[5, 5, 10, 10], [6, 6, 9, 9], [7, 7, 8, 8]]
    entries = [annotation(i, bbox=box) for i, box in zip(ids, boxes, strict=True)]
    data = read(tmp_path, data_set(*entries))
    assert [(a.id, list(a.bbox)) for a in data.images[0].annotations] == list(enumerate(boxes, 1))
    assert not data.skipped
    assert "numbered anew" in data.summary()


def test_a_whole_number_is_one_however_it_is_written(tmp_path):
    images = [image(1.0, width=float(W), height=str(H))]
    content = data_set(annotation(7.0, image_id="1", category_id="3", iscrowd=True), images=images)
    content["categories"] = [{"id": "3", "name": "dog"}, {"id": 7.0, "name": "cat"}]
    (record,) = (data := read(tmp_path, content)).images
    assert (record.id, record.width, record.height) == (1, W, H)
    assert all(type(value) is int for value in (record.id, record.width, record.height, *data.categories))
    (kept,) = record.annotations
    assert (kept.id, kept.category_id, kept.iscrowd) == (7, 3, True)
    assert (type(kept.id), type(kept.category_id)) == (int, int)


@pytest.mark.parametrize(("value", "crowd"), [(None, False), (True, True), (False, False), (1.0, True), ("0", False)])
def test_crowd_flags(tmp_path, value, crowd):
    entry = annotation() | {"iscrowd": value}
    assert read(tmp_path, data_set(entry)).images[0].annotations[0].iscrowd is crowd


@pytest.mark.parametrize("far", [1e6, 1e30, 1e300])
def test_coordinates_far_beyond_the_image_are_not_drawn(tmp_path, far):
    data = read(
        tmp_path, data_set(annotation(1, segmentation=[[5, 5, far, 5, far, 15]]), annotation(2, bbox=[5, 5, far, far]))
    )
    assert [(a.id, a.segmentation) for a in data.images[0].annotations] == [(1, None)]
    assert data.left_out() == {"bbox reaches far beyond the image": 1}


def test_an_annotation_that_is_no_object(tmp_path):
    data = read(tmp_path, data_set(annotation(), [1, 2]))
    assert data.skipped[0].where == "instances_train.json, entry 1 of 'annotations'"
    assert data.skipped[0].why == "annotation is not an object: entry 1 is a list"


def test_the_summary_groups_faults(tmp_path):
    lines = [annotation(i, bbox=None, segmentation=[[5, 5, 15, 15]]) for i in range(2, 6)]
    data = read(tmp_path, data_set(annotation(1), *lines, annotation(6, category_id=4)))
    assert data.summary().splitlines() == [
        "COCO, instances_train.json: 1 images (0 without annotations), 1 instances (0 of them crowds), 2 classes, "
        "5 skipped",
        "  skipped 4 × polygon with fewer than 3 points, first: annotation 2 (image 1, dog.jpg): part 0 has 2",
        "  skipped 1 × unknown category id, first: annotation 6 (image 1, dog.jpg): 4, the file has [3, 7]",
    ]


BOW_TIE = [5, 5, 15, 15, 15, 5, 5, 15]
GOOD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "partly outside": (dict(segmentation=[[-5, -5, 15, -5, 15, 15, -5, 15]]), {}),
    "crossing itself": (dict(segmentation=[BOW_TIE]), dict(segmentation=[BOW_TIE])),
    "a part without area": (dict(segmentation=[[5, 5, 9, 9], SQUARE]), dict(segmentation=[SQUARE])),
    "a part outside": (dict(segmentation=[SQUARE, [W + x for x in SQUARE]]), dict(segmentation=[SQUARE])),
    "no box": (dict(bbox=None), dict(bbox=(5, 5, 10, 10))),
    "no box, two parts": (dict(bbox=None, segmentation=[SQUARE, [20, 1, 30, 1, 30, 9]]), dict(bbox=(5, 1, 25, 14))),
    "no box, partly outside": (dict(bbox=None, segmentation=[[-5, 20, 50, 20, 50, 99]]), dict(bbox=(0, 20, W, 10))),
    "no box, RLE": (dict(bbox=None, segmentation={"size": [H, W], "counts": COUNTS}), dict(bbox=(5, 5, 10, 10))),
    "no area": (dict(area=None), dict(area=100)),
    "no area, two parts": (dict(area=None, segmentation=[SQUARE, [20, 1, 30, 1, 30, 9]]), dict(area=140)),
    "no area, turning left": (dict(area=None, segmentation=[[5, 5, 5, 15, 15, 15]]), dict(area=50)),
    "no area, RLE": (dict(area=0, segmentation={"size": [H, W], "counts": RUNS}), dict(area=100)),
    "no crowd flag": (dict(iscrowd=None), dict(iscrowd=False)),
    "crowd of polygons": (dict(iscrowd=1), dict(iscrowd=True)),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_odd_but_good_annotations_are_used(tmp_path, case):
    changes, expected = GOOD[case]
    data = read(tmp_path, data_set(annotation(**changes)))
    assert not data.skipped
    (kept,) = data.images[0].annotations
    for key, value in expected.items():
        assert getattr(kept, key) == value


def test_odd_polygons_are_noted(tmp_path):
    parts = annotation(2, segmentation=[[5, 5, 9, 9], SQUARE])
    data = read(tmp_path, data_set(annotation(1, segmentation=[BOW_TIE]), parts, annotation(3)))
    assert sum(data.notes.values()) == 2
    assert "note: 1 × polygon crosses itself" in data.summary()
    assert "note: 1 × part of an object dropped, the rest kept (polygon with fewer than 3 points)" in data.summary()


def test_compressed_counts_are_decoded():
    rng = np.random.default_rng(0)
    for share in (0.01, 0.3, 0.9):
        mask = rng.random((57, 83)) < share
        runs = decode_counts(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"])
        values = np.arange(len(runs)) % 2
        assert np.array_equal(np.repeat(values, runs), mask.ravel(order="F"))
    blank = coco_mask.encode(np.zeros((5000, 7000), np.uint8, order="F"))["counts"]
    assert decode_counts(blank).tolist() == [35_000_000]
    with pytest.raises(Broken, match="cannot be decoded"):
        decode_counts(b"oooooooooooo0")
