"""COCO annotation files: good, broken as a whole, and real ones."""

import gc
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from coco_entries import COUNTS, MASK, RLE, RUNS, SQUARE, H, W, annotation, data_set, image, read
from PIL import Image
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.coco import check_size
from mask_frozen_detr.data.formats.coco import read_coco
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.errors import UserError

COCO_549 = Path(__file__).parents[3].parent / "shared" / "data" / "coco-549"


def test_a_good_file(tmp_path):
    data = read(
        tmp_path,
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


@pytest.mark.parametrize("side", [1e5, 2**31, 1e30, "9" * 5000])
def test_absurd_sizes_are_errors(tmp_path, side):
    with pytest.raises(UserError, match=r"entry 0 of 'images'.* expected"):
        read(tmp_path, data_set(annotation(), images=[image(width=side, height=side)]))


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
def test_broken_files_are_errors(tmp_path, case):
    content, message = BAD_FILES[case]
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, content)
    assert str(tmp_path / "instances_train.json") in str(error.value)
    assert gc.isenabled()


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot read the annotation file"):
        read_coco(tmp_path / "missing.json", tmp_path)
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    with pytest.raises(UserError, match=r"picture\.json: is not JSON"):
        read_coco(tmp_path / "picture.json", tmp_path)


def test_a_byte_order_mark_does_not_matter(tmp_path):
    assert len(read(tmp_path, "\ufeff" + json.dumps(data_set(annotation()))).images) == 1


def test_missing_image_files_are_dropped_with_their_annotations(tmp_path):
    images = [image(), image(2, "gone.jpg"), image(2, "gone.jpg")]
    data = read(tmp_path, data_set(annotation(1), annotation(2, image_id=2), annotation(3, image_id=2), images=images))
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


def test_boxes_that_nobody_has_named(tmp_path):
    entries = [{"id": n, "image_id": 1, "bbox": [1, 2, 3, 4]} for n in (1, 2)]
    bare = {"images": [image()], "annotations": entries}
    assert read(tmp_path, bare).categories == {1: "(no class)"}
    named = read(tmp_path, data_set(*entries))
    assert named.categories == {3: "dog", 7: "cat", 8: "(no class)"}
    assert [one.category_id for one in named.images[0].annotations] == [8, 8]
    assert "2 × annotation without a class, as all are" in named.summary()
    with pytest.raises(UserError, match="no key 'categories'"):
        read(tmp_path, bare | {"annotations": [entries[0], entries[1] | {"category_id": 3}]})


def test_check_size(tmp_path):
    (record,) = read(tmp_path, data_set()).images
    check_size(record, Image.new("RGB", (W, H)))
    with pytest.raises(UserError, match=r"dog\.jpg: the file is 41 × 30 pixels, the annotation file says 40 × 30"):
        check_size(record, Image.new("RGB", (W + 1, H)))
    with pytest.raises(UserError, match="was the file turned after it was annotated"):
        check_size(record, Image.new("RGB", (H, W)))


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
