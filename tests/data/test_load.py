"""`load_data`: layouts as tools write them, pictures apart, names in other forms, and what becomes of a val split."""

import json
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from mask_frozen_detr import UserError, load_data
from mask_frozen_detr.data.load import load_split

SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]


def write(file: Path, names: list[str], width: int = 12) -> Path:
    """An annotation file of pictures with one object each."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": name, "width": width, "height": 10} for i, name in enumerate(names, 1)]
    objects = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 6, 6], "area": 36, "segmentation": [SQUARE]}
        for i in range(1, len(names) + 1)
    ]
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}))
    return file


def draw(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10)).save(path)


LAYOUTS = {
    "CVAT, default subset": ("annotations/instances_default.json", "images/default/{}"),
    "Label Studio": ("result.json", "images/{}"),
    "FiftyOne": ("labels.json", "data/{}"),
    "Kaggle": ("train.json", "train_images/{}"),
    "Roboflow, without splits": ("_annotations.coco.json", "{}"),
    "plain": ("annotations.json", "images/{}"),
    "COCO": ("annotations/instances_train2017.json", "train2017/{}"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_tools(layout, tmp_path):
    """As a folder, and by the annotation file."""
    file, place = LAYOUTS[layout]
    write(tmp_path / file, ["a.png", "b.png"])
    draw(tmp_path / place.format("a.png"), tmp_path / place.format("b.png"))
    for data in (tmp_path, tmp_path / file):
        found = load_data(data)
        assert [record.path for record in found.train.images] == [
            tmp_path / place.format(n) for n in ("a.png", "b.png")
        ]
        assert found.val is None
        assert "no val split" in found.summary()


def test_pictures_apart_from_the_annotations(tmp_path):
    file = write(tmp_path / "labels" / "instances_train.json", ["a.png"])
    draw(tmp_path / "photos" / "a.png")
    for data in (file, tmp_path / "labels"):
        assert load_data(data, images=tmp_path / "photos").train.images[0].path == tmp_path / "photos" / "a.png"
    with pytest.raises(UserError, match=r"images: found .*nowhere, expected a folder"):
        load_data(file, images=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name",
    [
        "..\\..\\media\\upload\\1\\x y.png",
        "/data/upload/1/x%20y.png",
        "s3://b/x y.png",
        "https://h/x%20y.png?raw=1#a",
        "X Y.PNG",
        "x y",
    ],
)
def test_names_of_other_machines_are_found_by_their_base(name, tmp_path):
    write(tmp_path / "result.json", [name])
    draw(tmp_path / "images" / "x y.png")
    data = load_data(tmp_path).train
    assert [record.path.name for record in data.images] == ["x y.png"]
    assert "by its base name" in data.summary()


def test_capitals_and_suffixes_decide_where_they_must(tmp_path):
    write(tmp_path / "result.json", ["a.png", "A.PNG", "b", "b.png", "c", "D.png"])
    draw(*(tmp_path / "images" / name for name in ("a.png", "A.PNG", "b.png", "c.png", "c.jpg", "d.png", "D.PNG")))
    data = load_data(tmp_path).train
    assert [record.path.name for record in data.images] == ["a.png", "A.PNG", "b.png"]


def test_base_names_that_are_not_alone_are_no_names(tmp_path):
    write(tmp_path / "result.json", ["one/x.png", "two/x.png", "three/y.png", "z.png"])
    draw(tmp_path / "images" / "x.png", *(tmp_path / "images" / folder / "y.png" for folder in "ab"))
    draw(tmp_path / "images" / "z.png")
    data = load_data(tmp_path).train
    assert [record.path.name for record in data.images] == ["z.png"]
    assert sum("image file is missing" in skipped.why for skipped in data.skipped) == 3


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_unicode_form(written, stored, tmp_path):
    name = "bouteille à café.png"
    write(tmp_path / "train.json", [unicodedata.normalize(written, name)])
    draw(tmp_path / "train" / unicodedata.normalize(stored, name))
    data = load_data(tmp_path).train
    assert len(data.images) == 1
    assert "Unicode form" in data.summary()


# --- the val split


def test_val_in_a_place_of_its_own(tmp_path):
    train = write(tmp_path / "a" / "train.json", ["a.png"])
    val = write(tmp_path / "b" / "labels.json", ["v.png"])
    draw(tmp_path / "a" / "a.png", tmp_path / "photos" / "v.png")
    found = load_data(train, val=val, val_images=tmp_path / "photos")
    assert found.val is not None
    assert [record.path.name for record in found.val.images] == ["v.png"]
    with pytest.raises(UserError, match=r"no_val: found it beside val .*expected one of them"):
        load_data(train, val=val, no_val=True)


def test_a_val_split_that_cannot_be_used_is_never_left_out_without_a_word(tmp_path):
    write(tmp_path / "annotations" / "instances_train2017.json", ["a.png"])
    write(tmp_path / "annotations" / "instances_val2017.json", ["v.png"])
    draw(tmp_path / "train2017" / "a.png", tmp_path / "elsewhere" / "v.png")
    with pytest.raises(UserError, match=r"val split cannot be used.*val2017.*--val-images.*--no-val"):
        load_data(tmp_path)
    assert load_data(tmp_path, no_val=True).val is None
    found = load_data(tmp_path, val_images=tmp_path / "elsewhere")
    assert found.val is not None
    assert len(found.val.images) == 1
    (tmp_path / "val2017").mkdir()  # the folder is there, its pictures are not
    with pytest.raises(UserError, match="none of its 1 image files"):
        load_data(tmp_path)


def test_val_that_is_the_training_data(tmp_path):
    file = write(tmp_path / "train.json", ["a.png"])
    draw(tmp_path / "train" / "a.png")
    with pytest.raises(UserError, match="is the training data too"):
        load_data(file, val=file)


def test_a_real_export_of_cvat(request):
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "exports" / "cvat"
    if not folder.is_dir():
        pytest.skip("shared/data/exports is not here")
    data = load_split(folder, "train")
    assert len(data.images) == 6
    assert len(data.categories) == 23
