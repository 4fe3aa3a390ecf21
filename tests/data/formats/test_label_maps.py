"""Formats whose masks are pictures: Pascal VOC, as VOC and as CVAT write it, and COCO's panoptic PNG files."""

import json
from pathlib import Path

import numpy as np
import pytest
from format_samples import H, W, draw, mask_of, square_mask, triangle_mask
from PIL import Image

from mask_frozen_detr import UserError, load_data
from mask_frozen_detr.data.load import load_split

RIM = np.zeros((H, W), bool)
RIM[4:16, 4:16] = True
RIM &= ~square_mask()


def label_map() -> np.ndarray:
    """The square is object 1, the triangle 2, a rim around the square belongs to none."""
    return np.select([square_mask(), triangle_mask(), RIM], [1, 2, 255], 0).astype(np.uint8)


def class_map() -> np.ndarray:
    return np.select([square_mask(), triangle_mask(), RIM], [8, 12, 255], 0).astype(np.uint8)


def save_palette(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    image.save(path)


def xml_object(name: str, x0: int, y0: int, x1: int, y1: int) -> str:
    box = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


OBJECTS = [xml_object("cat", 4, 5, 16, 15), xml_object("dog", 21, 5, 36, 24), xml_object("person", 1, 1, 9, 9)]


def write_voc(root: Path, name: str = "a", objects: list[str] = OBJECTS) -> Path:
    draw(root / "JPEGImages" / f"{name}.jpg")
    save_palette(root / "SegmentationObject" / f"{name}.png", label_map())
    save_palette(root / "SegmentationClass" / f"{name}.png", class_map())
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
    return root


def test_pascal_voc(tmp_path):
    root = write_voc(tmp_path / "VOCdevkit" / "VOC2012")
    write_voc(root, "b")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("a\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("b\n")
    data = load_data(tmp_path / "VOCdevkit")
    assert data.val is not None
    assert [[record.path.name for record in split.images] for split in (data.train, data.val)] == [["a.jpg"], ["b.jpg"]]
    (record,) = data.train.images
    cat, dog, person = record.annotations
    assert [data.train.categories[a.category_id] for a in record.annotations] == ["cat", "dog", "person"]
    assert (mask_of(cat, record) == square_mask()).all()
    assert (mask_of(dog, record) == triangle_mask()).all()
    assert person.segmentation is None
    assert [a.bbox for a in record.annotations] == [(3, 4, 13, 11), (20, 4, 16, 20), (0, 0, 9, 9)], "from pixel 1 on"
    assert "Pascal VOC" in data.summary()


def test_classes_are_those_of_the_map_where_the_xml_has_another_order(tmp_path):
    write_voc(tmp_path, objects=OBJECTS[1::-1])
    data = load_split(tmp_path, "train")
    found = data.images[0].annotations
    assert [data.categories[a.category_id] for a in found] == ["cat", "dog"]
    assert found[0].bbox == (5, 5, 10, 10), "the mask's, since the box at its place is of another"


def test_voc_as_cvat_writes_it(tmp_path):
    """Colours, names in labelmap.txt, and no XML."""
    draw(tmp_path / "JPEGImages" / "a.png")
    labels = label_map() % 255
    objects, classes = (np.zeros((H, W, 3), np.uint8) for _ in range(2))
    objects[labels == 1], objects[labels == 2] = (128, 0, 0), (0, 128, 0)  # VOC's first two colours
    classes[labels == 1], classes[labels == 2] = (250, 50, 83), (51, 221, 255)
    for folder, pixels in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "a.png")
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbolt:250,50,83::\nnut:51,221,255::\n"
    )
    data = load_split(tmp_path, "train")
    (record,) = data.images
    assert data.categories == {1: "bolt", 2: "nut"}
    assert [a.category_id for a in record.annotations] == [1, 2]
    assert (mask_of(record.annotations[1], record) == triangle_mask()).all()
    (tmp_path / "labelmap.txt").write_text("bolt;250\n")
    with pytest.raises(UserError, match=r"labelmap\.txt: found the line 'bolt;250', expected name:red,green,blue"):
        load_split(tmp_path, "train")


def test_boxes_alone(tmp_path):
    write_voc(tmp_path, objects=[xml_object("screw", 1, 1, 9, 9)])
    for folder in ("SegmentationObject", "SegmentationClass"):
        (tmp_path / folder / "a.png").unlink()
        (tmp_path / folder).rmdir()
    data = load_split(tmp_path, "train")
    assert data.categories == {1: "screw"}
    assert [(a.segmentation, a.bbox) for a in data.images[0].annotations] == [(None, (0, 0, 9, 9))]


def test_a_voc_mask_of_another_size_than_its_picture(tmp_path):
    write_voc(tmp_path)
    save_palette(tmp_path / "SegmentationObject/a.png", label_map()[:, :30])
    data = load_split(tmp_path, "train")
    assert [a.segmentation for a in data.images[0].annotations] == [None] * 3, "boxes are still true"
    assert data.left_out() == {"mask of another size than the picture": 1}
    assert "30 × 30, expected 40 × 30" in data.summary()


def test_broken_voc_files_are_named(tmp_path):
    write_voc(tmp_path)
    for name in "bcd":
        write_voc(tmp_path, name)
    (tmp_path / "Annotations/b.xml").write_text("<annotation><object>")
    (tmp_path / "SegmentationObject/c.png").write_bytes(b"no picture")
    (tmp_path / "JPEGImages/d.jpg").unlink()
    data = load_split(tmp_path, "train")
    assert [len(record.annotations) for record in data.images] == [3, 2, 3]
    assert data.left_out() == {"XML file cannot be read": 1, "mask cannot be read": 1, "image file is missing": 1}


def write_panoptic(folder: Path, **changes) -> Path:
    draw(folder / "train2017" / "a.jpg")
    number = {1: 7, 2: 300 * 256 + 9, 255: 70000}  # of square, triangle and rim
    pixels = np.zeros((H, W, 3), np.uint8)
    for label, segment in number.items():
        pixels[label_map() == label] = segment % 256, segment // 256 % 256, segment // 65536
    (folder / "panoptic_train2017").mkdir()
    Image.fromarray(pixels).save(folder / "panoptic_train2017" / "a.png")
    segments = [
        {"id": 7, "category_id": 17, "iscrowd": 0, "bbox": [5, 5, 10, 10], "area": 100},
        {"id": number[2], "category_id": 18, "iscrowd": 1, "bbox": [20, 4, 16, 20]},
        {"id": 70000, "category_id": 187, "iscrowd": 0, "bbox": [4, 4, 12, 12]},
    ]
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": W, "height": H}],
        "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": segments}],
        "categories": [
            {"id": 17, "name": "cat", "isthing": 1},
            {"id": 18, "name": "dog", "isthing": 1},
            {"id": 187, "name": "sky", "isthing": 0},
        ],
    }
    file = folder / "panoptic_train2017.json"
    file.write_text(json.dumps(content | changes))
    return file


def test_panoptic(tmp_path):
    file = write_panoptic(tmp_path)
    for place in (tmp_path, file):
        data = load_data(place).train
        (record,) = data.images
        cat, dog = record.annotations
        assert (record.id, data.categories) == (5, {17: "cat", 18: "dog"})
        assert (mask_of(cat, record) == square_mask()).all()
        assert (mask_of(dog, record) == triangle_mask()).all()
        assert [a.iscrowd for a in record.annotations] == [False, True]
        assert data.notes == {"segment of stuff, which has no instances, left out": 1}
        assert "COCO panoptic" in data.summary()


def test_broken_segments_are_named(tmp_path):
    segments = [
        {"id": 7, "category_id": 17},
        {"id": 8, "category_id": 17},
        {"id": 7, "category_id": 5},
        {"id": "x", "category_id": 17},
        7,
    ]
    write_panoptic(tmp_path, annotations=[{"image_id": 5, "file_name": "a.png", "segments_info": segments}])
    data = load_split(tmp_path, "train")
    assert len(data.images[0].annotations) == 1
    assert data.left_out() == {"segment is not in its PNG": 2, "unknown category id": 1, "segment is not an object": 1}


@pytest.mark.parametrize("kind", ["another size", "no picture", "gone"])
def test_a_panoptic_png_that_does_not_fit(kind, tmp_path):
    write_panoptic(tmp_path)
    png = tmp_path / "panoptic_train2017/a.png"
    if kind == "another size":
        Image.new("RGB", (W, W)).save(png)
    elif kind == "no picture":
        png.write_bytes(b"no picture")
    else:
        png.unlink()
    reason = "mask of another size than the picture" if kind == "another size" else "panoptic PNG cannot be read"
    with pytest.raises(UserError, match=rf"(?s)no picture with its labels can be used.*{reason}"):
        load_split(tmp_path, "train")
