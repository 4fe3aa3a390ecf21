"""YOLO-seg: layouts as tools write them, polygons beside boxes, and every kind of broken line and data.yaml."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from format_samples import SQUARE, TRIANGLE, H, W, draw, mask_of, overlap, square_mask, triangle_mask
from PIL import Image

from mask_frozen_detr import UserError, load_data
from mask_frozen_detr.data.load import load_split


def fractions(points: list[int]) -> str:
    return " ".join(f"{value / (W, H)[place % 2]:.6f}" for place, value in enumerate(points))


LINES = [f"1 {fractions(SQUARE)}", f"0 {fractions(TRIANGLE)}", "1 0.5 0.5 0.25 0.5", ""]


def write(folder: Path, images: str = "images/train", labels: str = "labels/train", **changes) -> Path:
    """A data set of one picture, and its data.yaml with some keys changed, or left out where they are None."""
    draw(folder / images / "a.png")
    (folder / labels).mkdir(parents=True, exist_ok=True)
    (folder / labels / "a.txt").write_text("\n".join(LINES))
    settings = {"train": images, "names": ["cat", "dog"], "nc": 2} | changes
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
    return file


def test_polygons_and_boxes_in_one_file(tmp_path):
    file = write(tmp_path)
    for data in (tmp_path, file):
        (record,) = (found := load_data(data).train).images
        assert (record.path, record.width, record.height) == (tmp_path / "images/train/a.png", W, H)
        square, triangle, box = record.annotations
        assert [found.categories[a.category_id] for a in record.annotations] == ["dog", "cat", "dog"]
        assert (mask_of(square, record) == square_mask()).all()
        assert overlap(mask_of(triangle, record), triangle_mask()) > 0.95
        assert (box.segmentation, box.bbox) == (None, (15, 7.5, 10, 15))
        assert "YOLO-seg, train: 1 images" in found.summary()
        assert "2 classes" in found.summary()


LAYOUTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Ultralytics": ("images/train", "labels/train", {}),
    "with a root": ("images/train", "labels/train", {"path": "."}),
    "a root of another machine": ("images/train", "labels/train", {"path": "../datasets/pets"}),
    "Roboflow": ("train/images", "train/labels", {"train": "../train/images"}),
    "a path of Colab's": ("train/images", "train/labels", {"train": "/content/pets-3/train/images"}),
    "a list": ("images/train", "labels/train", {"train": ["images/train"]}),
    "labels beside pictures": ("train", "train", {}),
    "names by number": ("images/train", "labels/train", {"names": {"0": "cat", 1: "dog"}, "nc": None}),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts(case, tmp_path):
    images, labels, changes = LAYOUTS[case]
    write(tmp_path, images, labels, **changes)
    data = load_data(tmp_path)
    assert [len(record.annotations) for record in data.train.images] == [3]
    assert list(data.train.categories.items()) == [(0, "cat"), (1, "dog")]
    assert data.val is None


def test_splits(tmp_path):
    write(tmp_path, val="images/val", test="images/test.txt")
    for split in ("val", "test"):
        draw(tmp_path / f"images/{split}/b.png")
        (tmp_path / f"labels/{split}").mkdir()
        (tmp_path / f"labels/{split}/b.txt").write_text(LINES[0])
    (tmp_path / "images/test.txt").write_text("./test/b.png\n./test/gone.png\n")
    val = load_data(tmp_path).val
    assert val is not None
    assert val.images[0].path == tmp_path / "images/val/b.png"
    test = load_split(tmp_path, "test")
    assert [record.path.name for record in test.images] == ["b.png"]
    assert test.left_out() == {"image file is missing": 1}


def test_classes_txt_as_label_studio_writes_it(tmp_path):
    write(tmp_path, "images", "labels").unlink()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert load_data(tmp_path).train.categories == {0: "cat", 1: "dog"}


def test_class_numbers_keep_their_gaps(tmp_path):
    """Names that are counted instead would call every class behind a gap by another's name."""
    write(tmp_path, names={1: "dog", 90: "toothbrush"}, nc=None)
    (tmp_path / "labels/train/a.txt").write_text(f"90 {fractions(SQUARE)}\n1 {fractions(SQUARE)}\n0 0.5 0.5 0.1 0.1")
    data = load_split(tmp_path, "train")
    assert [data.categories[a.category_id] for a in data.images[0].annotations] == ["toothbrush", "dog"]
    assert data.left_out() == {"unknown class": 1}


def test_a_photo_on_its_side_is_labelled_upright(tmp_path):
    write(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (H, W)).save(tmp_path / "images/train/a.png", exif=exif)
    assert [(r.width, r.height) for r in load_split(tmp_path, "train").images] == [(W, H)]
    assert [(r.width, r.height) for r in load_split(tmp_path, "train", orientation="ignore").images] == [(H, W)]


def test_pictures_named_apart(tmp_path):
    write(tmp_path / "export")
    draw(tmp_path / "photos" / "a.png")
    (tmp_path / "export/images/train/a.png").unlink()
    (record,) = load_data(tmp_path / "export", images=tmp_path / "photos").train.images
    assert record.path == tmp_path / "photos/a.png"
    assert len(record.annotations) == 3


BROKEN_LINES = {
    "an unknown class": ("7 0.1 0.1 0.2 0.1 0.2 0.2", "unknown class: 7, the names are of 0, 1"),
    "half a class": ("0.5 0.1 0.1 0.2 0.1 0.2 0.2", "unknown class: 0.5"),
    "an odd count": ("1 0.1 0.1 0.2 0.1 0.2 0.2 0.3", "odd count of coordinates: 7, expected"),
    "three numbers": ("1 0.1 0.1 0.2", "odd count of coordinates: 3"),
    "a class alone": ("1", "odd count of coordinates: 0"),
    "pixels": ("1 5 5 15 5 15 15", r"coordinates outside \[0, 1\]: 15; are these pixels\?"),
    "left of the picture": ("1 -0.5 0.1 0.2 0.1 0.2 0.2", r"coordinates outside \[0, 1\]: -0.5"),
    "a word": ("cat 0.1 0.1 0.2 0.1 0.2 0.2", "label line holds something that is no number: cat 0.1"),
    "not finite": ("1 nan 0.1 0.2 0.1 0.2 0.2", "label line holds something that is no finite number"),
    "a line without area": ("1 0.1 0.1 0.2 0.2 0.3 0.3", "polygon without area"),
    "a box without height": ("1 0.5 0.5 0.2 0", "bbox without width or height"),
}


@pytest.mark.parametrize("case", BROKEN_LINES)
def test_broken_lines_are_skipped_and_named(case, tmp_path):
    line, why = BROKEN_LINES[case]
    write(tmp_path)
    (tmp_path / "labels/train/a.txt").write_text(f"{LINES[0]}\n{line}\n")
    data = load_split(tmp_path, "train")
    assert [len(record.annotations) for record in data.images] == [1]
    (skipped,) = data.skipped
    assert skipped.where == f"{tmp_path / 'labels/train/a.txt'}, line 2"
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(skipped.why)


def test_rounding_beyond_the_edge_is_taken_back(tmp_path):
    write(tmp_path)
    (tmp_path / "labels/train/a.txt").write_text("1 -0.001 0 1.004 0 1.004 1.0 -0.001 1.0\n")
    (found,) = load_split(tmp_path, "train").images[0].annotations
    assert found.bbox == (0, 0, W, H)


def test_pictures_without_labels_are_background_and_labels_without_pictures_are_named(tmp_path):
    write(tmp_path)
    draw(tmp_path / "images/train/nothing.png")
    (tmp_path / "labels/train/gone.txt").write_text(LINES[0])
    data = load_split(tmp_path, "train")
    assert [(r.path.name, len(r.annotations)) for r in data.images] == [("a.png", 3), ("nothing.png", 0)]
    assert data.notes["picture without a label file, taken as one without objects"] == 1
    assert data.left_out() == {"image file is missing": 1}


def test_a_picture_or_a_label_file_that_cannot_be_read(tmp_path):
    write(tmp_path)
    draw(tmp_path / "images/train/b.png")
    (tmp_path / "images/train/c.png").write_bytes(b"no picture")
    (tmp_path / "labels/train/b.txt").write_bytes(b"\xff\xfe\0")
    data = load_split(tmp_path, "train")
    assert [record.path.name for record in data.images] == ["a.png"]
    assert data.left_out() == {"label file cannot be read": 1, "image file cannot be read": 1}


BAD_YAML: dict[str, tuple[dict[str, Any], str]] = {
    "no names": ({"names": None, "nc": None}, "'names' is None, expected the names"),
    "names are a number": ({"names": 5}, "'names' is 5, expected the names"),
    "names by words": ({"names": {"cat": 0, "dog": 1}}, "'names' has the key 'cat', expected class numbers"),
    "a name is a list": ({"names": [["cat"], "dog"]}, "class 0 is called .*expected a name"),
    "another count": ({"nc": 3}, "'nc' is 3, but 'names' has 2 names"),
    "no split": ({"train": None}, "no key 'train' or 'val'"),
    "a split is a number": ({"train": [5]}, "'train' is .5., expected a folder"),
    "no such folder": ({"train": "photos"}, "'train' names photos, which is not there"),
    "key points": ({"kpt_shape": [17, 3]}, "'kpt_shape' says that its labels are key points"),
    "a root of numbers": ({"path": 3}, "'path' is 3, expected a folder"),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_a_broken_data_yaml_is_an_error(case, tmp_path):
    changes, message = BAD_YAML[case]
    file = write(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as error:
        load_split(tmp_path, "train")
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    "text", ["names: [cat\n", "\0", "- 1", "!!python/object:os.system {}", "names: &a [*a]\ntrain: x"]
)
def test_what_is_no_yaml_of_this_kind(text, tmp_path):
    write(tmp_path).write_text(text)
    with pytest.raises(UserError, match=r"data\.yaml: "):
        load_split(tmp_path, "train")


def test_no_label_at_all_is_an_error(tmp_path):
    write(tmp_path)
    (tmp_path / "labels/train/a.txt").unlink()
    with pytest.raises(UserError, match=r"not one of its 1 pictures has a label file.*labels/train/a\.txt"):
        load_split(tmp_path, "train")


def test_a_val_split_that_is_not_there_is_an_error(tmp_path):
    write(tmp_path, val="images/val")
    with pytest.raises(UserError, match=r"(?s)its val split cannot be used.*'val' names images/val.*--no-val"):
        load_data(tmp_path)
    assert load_data(tmp_path, no_val=True).val is None
