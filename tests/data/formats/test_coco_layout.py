"""Where the files of a COCO data set lie."""

import json
from pathlib import Path

import pytest
from coco_entries import annotation, data_set

from mask_frozen_detr.data.formats.coco_layout import search_splits
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.errors import UserError


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
