"""Reading COCO-format data: layouts, broken files, broken annotations."""

import gc
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.coco import CocoData, check_size
from mask_frozen_detr.data.formats.coco import read_coco
from mask_frozen_detr.data.formats.coco_layout import search_splits
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.data.validation import Broken, decode_counts
from mask_frozen_detr.errors import UserError

W, H = 40, 30
SQUARE = [5, 5, 15, 5, 15, 15, 5, 15]
MASK = np.zeros((H, W), dtype=np.uint8)
MASK[5:15, 5:15] = 1
RLE = coco_mask.encode(np.asfortranarray(MASK))
COUNTS = RLE["counts"].decode()
RUNS = decode_counts(RLE["counts"]).tolist()
COCO_549 = Path(__file__).parents[2].parent / "shared" / "data" / "coco-549"


def image(image_id=1, name="dog.jpg", width=W, height=H) -> dict:
    return {"id": image_id, "file_name": name, "width": width, "height": height}


def annotation(annotation_id=1, image_id=1, **changes) -> dict:
    """A good annotation with some fields changed, or left out where they are None."""
    fields = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 3,
        "bbox": [5, 5, 10, 10],
        "segmentation": [SQUARE],
        "iscrowd": 0,
        "area": 100.0,
    } | changes
    return {key: value for key, value in fields.items() if value is not None}


def data_set(*annotations, images=None) -> dict:
    return {
        "images": [image()] if images is None else images,
        "annotations": list(annotations),
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


@pytest.fixture
def read(tmp_path):
    """Writes an annotation file (JSON, or text as it is) beside the images it names and reads it."""

    def write_and_read(content, files=("dog.jpg",)) -> CocoData:
        for name in files:
            (tmp_path / name).touch()
        file = tmp_path / "instances_train.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_coco(file, tmp_path)

    return write_and_read


def test_a_good_file(read, tmp_path):
    data = read(
        data_set(
            annotation(10),
            annotation(11, image_id=2, category_id=7, segmentation={"size": [H, W], "counts": COUNTS}),
            annotation(12, iscrowd=1, segmentation={"size": [H, W], "counts": RUNS}),
            images=[image(), image(2, "cat.jpg"), image(9, "nothing.jpg")],
        ),
        files=["dog.jpg", "cat.jpg", "nothing.jpg"],
    )
    assert list(data.categories.items()) == [(3, "dog"), (7, "cat")]
    dog, cat, nothing = data.images
    assert (dog.id, dog.path, dog.width, dog.height) == (1, tmp_path / "dog.jpg", W, H)
    assert [a.id for a in dog.annotations] == [10, 12]
    assert dog.annotations[0].segmentation == [SQUARE]
    assert dog.annotations[0].bbox == (5, 5, 10, 10)
    assert [a.iscrowd for a in dog.annotations] == [False, True]
    assert cat.annotations[0].segmentation == {"size": [H, W], "counts": RLE["counts"]}
    assert np.array_equal(coco_mask.decode(dog.annotations[1].segmentation), MASK)
    assert nothing.annotations == ()
    assert not data.skipped
    assert data.summary() == (
        "COCO, instances_train.json: 3 images (1 without annotations), 3 instances (1 of them crowds), 2 classes, "
        "0 skipped"
    )


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
def test_broken_annotations_are_skipped_and_named(read, case):
    changes, why = BROKEN[case]
    box = {"bbox": None} if "segmentation" in changes else {}  # a good box would stay
    data = read(data_set(annotation(1), annotation(**({"annotation_id": 17} | box | changes)), annotation(20)))
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
def test_a_box_stays_without_its_mask(read, case):
    changes, why = BROKEN[case]
    data = read(data_set(annotation(1), annotation(17, area=None, **changes)))
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
def test_a_box_is_taken_from_the_mask(read, bbox, segmentation):
    data = read(data_set(annotation(bbox=bbox, segmentation=segmentation)))
    assert data.images[0].annotations[0].bbox == tuple(coco_mask.toBbox(RLE))
    assert data.notes == {"box taken from the mask, the file's is none": 1}


def test_a_box_and_a_mask_that_are_both_broken_are_skipped(read):
    data = read(data_set(annotation(1), annotation(2, bbox=[5, 5, 0, 10], segmentation=[[5, 5, 15, 15]])))
    assert data.left_out() == {"bbox without width or height": 1}


@pytest.mark.parametrize("ids", [[1, 1, 2], [None, 4, 5], ["a", 4, 5], [0, 1, 2], [1.5, 2, 3], [10**30, 2, 3]])
def test_annotation_ids_are_bookkeeping(read, ids):
    boxes = [[5, 5, 10, 10], [6, 6, 9, 9], [7, 7, 8, 8]]
    entries = [annotation(i, bbox=box) for i, box in zip(ids, boxes, strict=True)]
    data = read(data_set(*entries))
    assert [(a.id, list(a.bbox)) for a in data.images[0].annotations] == list(enumerate(boxes, 1))
    assert not data.skipped
    assert "numbered anew" in data.summary()


def test_a_whole_number_is_one_however_it_is_written(read):
    images = [image(1.0, width=float(W), height=str(H))]
    content = data_set(annotation(7.0, image_id="1", category_id="3", iscrowd=True), images=images)
    content["categories"] = [{"id": "3", "name": "dog"}, {"id": 7.0, "name": "cat"}]
    (record,) = (data := read(content)).images
    assert (record.id, record.width, record.height) == (1, W, H)
    assert all(type(value) is int for value in (record.id, record.width, record.height, *data.categories))
    (kept,) = record.annotations
    assert (kept.id, kept.category_id, kept.iscrowd) == (7, 3, True)
    assert (type(kept.id), type(kept.category_id)) == (int, int)


@pytest.mark.parametrize(("value", "crowd"), [(None, False), (True, True), (False, False), (1.0, True), ("0", False)])
def test_crowd_flags(read, value, crowd):
    entry = annotation() | {"iscrowd": value}
    assert read(data_set(entry)).images[0].annotations[0].iscrowd is crowd


@pytest.mark.parametrize("side", [1e5, 2**31, 1e30, "9" * 5000])
def test_absurd_sizes_are_errors(read, side):
    with pytest.raises(UserError, match=r"entry 0 of 'images'.* expected"):
        read(data_set(annotation(), images=[image(width=side, height=side)]))


@pytest.mark.parametrize("far", [1e6, 1e30, 1e300])
def test_coordinates_far_beyond_the_image_are_not_drawn(read, far):
    data = read(data_set(annotation(1, segmentation=[[5, 5, far, 5, far, 15]]), annotation(2, bbox=[5, 5, far, far])))
    assert [(a.id, a.segmentation) for a in data.images[0].annotations] == [(1, None)]
    assert data.left_out() == {"bbox reaches far beyond the image": 1}


def test_an_annotation_that_is_no_object(read):
    data = read(data_set(annotation(), [1, 2]))
    assert data.skipped[0].where == "instances_train.json, entry 1 of 'annotations'"
    assert data.skipped[0].why == "annotation is not an object: entry 1 is a list"


def test_the_summary_groups_faults(read):
    lines = [annotation(i, bbox=None, segmentation=[[5, 5, 15, 15]]) for i in range(2, 6)]
    data = read(data_set(annotation(1), *lines, annotation(6, category_id=4)))
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
def test_odd_but_good_annotations_are_used(read, case):
    changes, expected = GOOD[case]
    data = read(data_set(annotation(**changes)))
    assert not data.skipped
    (kept,) = data.images[0].annotations
    for key, value in expected.items():
        assert getattr(kept, key) == value


def test_odd_polygons_are_noted(read):
    parts = annotation(2, segmentation=[[5, 5, 9, 9], SQUARE])
    data = read(data_set(annotation(1, segmentation=[BOW_TIE]), parts, annotation(3)))
    assert sum(data.notes.values()) == 2
    assert "note: 1 × polygon crosses itself" in data.summary()
    assert "note: 1 × part of an object dropped, the rest kept (polygon with fewer than 3 points)" in data.summary()


BAD_FILES = {
    "empty": ("", "is empty"),
    "not JSON": ("width, height\n40, 30 and so on", "is not JSON"),
    "truncated": (json.dumps(data_set(annotation()))[:-70], r"ends too early, truncated\?"),
    "truncated in a word": ('{"images": [{"file_name": "do', r"ends too early, truncated\?"),
    "a list": ([annotation()], "holds JSON of type list .COCO results"),
    "a number": ("5", "holds JSON of type int"),
    "deep": ("[" * 200_000, "nested too deeply"),
    "no images": ({k: v for k, v in data_set().items() if k != "images"}, "no key 'images' .found: 'annotations', "),
    "no annotations": ({k: v for k, v in data_set().items() if k != "annotations"}, "no key 'annotations'"),
    "no categories": ({k: v for k, v in data_set().items() if k != "categories"}, "no key 'categories'"),
    "annotations by id": (data_set() | {"annotations": {"1": annotation()}}, "'annotations' is a dict, expected a"),
    "image is text": (data_set(images=["dog.jpg"]), "entry 0 of 'images': is a str, expected an object"),
    "image without id": (data_set(images=[{"file_name": "dog.jpg"}]), "entry 0 of 'images': 'id' is missing"),
    "image id is text": (data_set(images=[image("x")]), "entry 0 of 'images': 'id' is 'x', expected a number"),
    "no file name": (data_set(images=[{"id": 1, "width": W, "height": H}]), "'file_name' is missing, expected text"),
    "no width": (data_set(images=[image(), image(2, width=None)]), "entry 1 of 'images': 'width' is None"),
    "no pixels": (data_set(images=[image(height=0)]), r"entry 0 of 'images' \(dog.jpg\): is 40 × 0 pixels"),
    "one id, two images": (data_set(images=[image(), image(1, "cat.jpg")]), "entry 1 of 'images': id 1 is taken .*cat"),
    "one id, two sizes": (data_set(images=[image(), image(1, width=50)]), "entry 1 of 'images': id 1 is taken .*50"),
    "one id, two categories": (
        data_set() | {"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]},
        "entry 1 of 'categories': id 1 is taken by 'cat', found 'dog'",
    ),
    "category without name": (data_set() | {"categories": [{"id": 1}]}, "entry 0 of 'categories': 'name' is missing"),
    "nothing at all": (data_set(images=[]), "'images' is empty"),
    "no category": (data_set() | {"categories": []}, "'categories' is empty"),
    "no image file": (data_set(images=[image(1, "a.jpg"), image(2, "b.jpg")]), "none of its 2 image files .*a.jpg"),
    "all broken": (
        data_set(annotation(category_id=5), annotation(2, bbox=[1], segmentation=[])),
        "none of 2 annotations can be used",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_broken_files_are_errors(read, tmp_path, case):
    content, message = BAD_FILES[case]
    with pytest.raises(UserError, match=message) as error:
        read(content)
    assert str(tmp_path / "instances_train.json") in str(error.value)
    assert gc.isenabled()


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot read the annotation file"):
        read_coco(tmp_path / "missing.json", tmp_path)
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    with pytest.raises(UserError, match=r"picture\.json: is not JSON"):
        read_coco(tmp_path / "picture.json", tmp_path)


def test_a_byte_order_mark_does_not_matter(read):
    assert len(read("\ufeff" + json.dumps(data_set(annotation()))).images) == 1


def test_missing_image_files_are_dropped_with_their_annotations(read, tmp_path):
    images = [image(), image(2, "gone.jpg"), image(2, "gone.jpg")]
    data = read(data_set(annotation(1), annotation(2, image_id=2), annotation(3, image_id=2), images=images))
    assert [record.id for record in data.images] == [1]
    (skipped,) = data.skipped
    assert skipped.where == "instances_train.json, image 2 (gone.jpg)"
    assert skipped.why == f"image file is missing: not in {tmp_path}, 2 annotations dropped with it"
    assert "note: 1 × image listed twice, used once" in data.summary()


@pytest.mark.parametrize("name", ["x.jpg", "train2017/x.jpg", "images/train2017/x.jpg", "images\\train2017\\x.jpg"])
def test_file_names_may_hold_folders(tmp_path, name):
    folder = tmp_path / "images" / "train2017"
    folder.mkdir(parents=True)
    (folder / "x.jpg").touch()
    (tmp_path / "train.json").write_text(json.dumps(data_set(images=[image(1, name)])))
    assert read_coco(tmp_path / "train.json", folder).images[0].path == folder / "x.jpg"


def test_check_size(read):
    (record,) = read(data_set()).images
    check_size(record, Image.new("RGB", (W, H)))
    with pytest.raises(UserError, match=r"dog\.jpg: the file is 41 × 30 pixels, the annotation file says 40 × 30"):
        check_size(record, Image.new("RGB", (W + 1, H)))
    with pytest.raises(UserError, match="was the file turned after it was annotated"):
        check_size(record, Image.new("RGB", (H, W)))


def lay_out(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(data_set(annotation())) if file.suffix == ".json" else "")


LAYOUTS = {
    "COCO": (
        ["annotations/instances_train2017.json", "annotations/instances_val2017.json", "train2017/dog.jpg",
         "val2017/dog.jpg", "annotations/captions_train2017.json", "annotations/person_keypoints_val2017.json",
         "annotations/image_info_test2017.json", "annotations/image_info_test-dev2017.json", "test2017/dog.jpg"],
        {"train": ("annotations/instances_train2017.json", "train2017"),
         "val": ("annotations/instances_val2017.json", "val2017"),
         "test": ("annotations/image_info_test-dev2017.json", "test2017")},
    ),
    "COCO with images/, two years": (
        ["annotations/instances_val2014.json", "annotations/instances_val2017.json", "images/val2014/dog.jpg",
         "images/val2017/dog.jpg"],
        {"val": ("annotations/instances_val2017.json", "images/val2017")},
    ),
    "the images of one year only": (
        ["annotations/instances_val2014.json", "annotations/instances_val2017.json", "val2014/dog.jpg"],
        {"val": ("annotations/instances_val2014.json", "val2014")},
    ),
    "COCO without a year": (
        ["annotations/instances_train.json", "train/dog.jpg"],
        {"train": ("annotations/instances_train.json", "train")},
    ),
    "Roboflow": (
        ["train/_annotations.coco.json", "train/dog.jpg", "valid/_annotations.coco.json", "valid/dog.jpg",
         "test/_annotations.coco.json", "test/dog.jpg", "README.roboflow.txt"],
        {"train": ("train/_annotations.coco.json", "train"), "val": ("valid/_annotations.coco.json", "valid"),
         "test": ("test/_annotations.coco.json", "test")},
    ),
    "plain": (
        ["annotations/train.json", "annotations/valid.json", "train/dog.jpg", "val/dog.jpg"],
        {"train": ("annotations/train.json", "train"), "val": ("annotations/valid.json", "val")},
    ),
    "plain, all images together": (
        ["train.json", "val.json", "images/dog.jpg"],
        {"train": ("train.json", "images"), "val": ("val.json", "images")},
    ),
    "plain, a folder a split": (
        ["train/annotations.json", "train/images/dog.jpg"],
        {"train": ("train/annotations.json", "train/images")},
    ),
    "annotations of a split without images": (
        ["annotations/instances_train2017.json", "annotations/instances_val2017.json", "images/train2017/dog.jpg"],
        {"train": ("annotations/instances_train2017.json", "images/train2017")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_find_splits(tmp_path, case):
    files, expected = LAYOUTS[case]
    lay_out(tmp_path, *files)
    splits, _ = search_splits(tmp_path)
    assert list(splits) == list(expected)
    assert splits == {name: (tmp_path / file, tmp_path / folder) for name, (file, folder) in expected.items()}
    for name, (file, folder) in expected.items():
        data = load_split(str(tmp_path), name)
        assert data.annotation_file == tmp_path / file
        assert data.images[0].path == tmp_path / folder / "dog.jpg"
        assert load_split(tmp_path / file, name).images[0].path == tmp_path / folder / "dog.jpg", "given directly"


def test_boxes_that_nobody_has_named(read):
    entries = [{"id": n, "image_id": 1, "bbox": [1, 2, 3, 4]} for n in (1, 2)]
    bare = {"images": [image()], "annotations": entries}
    assert read(bare).categories == {1: "(no class)"}
    named = read(data_set(*entries))
    assert named.categories == {3: "dog", 7: "cat", 8: "(no class)"}
    assert [one.category_id for one in named.images[0].annotations] == [8, 8]
    assert "2 × annotation without a class, as all are" in named.summary()
    with pytest.raises(UserError, match="no key 'categories'"):
        read(bare | {"annotations": [entries[0], entries[1] | {"category_id": 3}]})


def test_an_annotation_file_given_directly(tmp_path):
    lay_out(tmp_path, "beside/result.json", "beside/dog.jpg", "apart/labels/my.json", "apart/val/dog.jpg")
    assert load_split(tmp_path / "beside" / "result.json", "val").images[0].path == tmp_path / "beside" / "dog.jpg"
    assert load_split(tmp_path / "apart/labels/my.json", "val").images[0].path == tmp_path / "apart/val/dog.jpg"


def test_test_sets_need_no_annotations(tmp_path):
    lay_out(tmp_path, "test2017/dog.jpg", "annotations/image_info_test-dev2017.json")
    content = {key: value for key, value in data_set().items() if key != "annotations"}
    (tmp_path / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content))
    assert load_split(tmp_path, "test").images[0].annotations == ()


def test_what_was_looked_for_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        load_split(tmp_path / "nowhere", "train")
    with pytest.raises(
        UserError, match=r"(?s)no data of a known format.*instances_train2017\.json.*_annotations\.coco\.json.*YOLO"
    ):
        load_split(tmp_path, "train")
    lay_out(tmp_path, "annotations/instances_val2017.json")
    with pytest.raises(UserError, match=r"instances_val2017\.json has no image folder \(none of .*/val2017, "):
        load_split(tmp_path, "train")
    lay_out(tmp_path, "annotations/instances_train2017.json", "train2017/dog.jpg")
    with pytest.raises(UserError, match=r"no split 'val'; found: train .*instances_val2017\.json has no image folder"):
        load_split(tmp_path, "val")


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


@pytest.mark.skipif(not COCO_549.is_dir(), reason="needs the COCO images in ../shared/data/coco-549")
@pytest.mark.parametrize(("split", "counts"), [("train", (343, 2974, 29)), ("val", (206, 1786, 21))])
def test_real_coco(split, counts):
    data = load_split(COCO_549, split)
    annotations = [a for record in data.images for a in record.annotations]
    assert (len(data.images), len(annotations), sum(a.iscrowd for a in annotations)) == counts
    assert not data.skipped
    assert len(data.categories) == 80
    raw = json.loads(data.annotation_file.read_text())["annotations"]
    assert Counter(a["id"] for a in raw) == Counter(a.id for a in annotations)
    given = {a["id"]: a for a in raw}
    assert all(a.bbox == tuple(given[a.id]["bbox"]) and a.area == given[a.id]["area"] for a in annotations)
    for record in data.images[:5]:
        with Image.open(record.path) as file:
            check_size(record, file)
