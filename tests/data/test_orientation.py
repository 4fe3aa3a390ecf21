"""Photos with orientation tags: which pixels annotations refer to. The right pixels are Pillow's own turns, or none."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mask_frozen_detr.data.coco import CocoData, ImageRecord
from mask_frozen_detr.data.load import load_data, load_split
from mask_frozen_detr.data.orientation import ambiguous, open_picture
from mask_frozen_detr.errors import UserError

TAGS = range(1, 9)


def photo(folder: Path, tag: int, suffix: str, size: tuple[int, int] = (40, 24)) -> tuple[ImageRecord, Image.Image]:
    """A record of the stored size, and its stored pixels: four quarters of four colours."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    for number, (rows, columns) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        quarter = np.s_[rows * height // 2 :, columns * width // 2 :]
        pixels[quarter] = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)][number]
    stored = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = tag
    path = folder / f"{tag}.{suffix}"
    stored.save(path, exif=exif)
    return ImageRecord(1, path, width, height, ()), stored


def like(found: Image.Image, expected: Image.Image) -> bool:
    """Equal up to what JPEG loses."""
    if found.size != expected.size:
        return False
    return np.abs(np.asarray(found, float) - np.asarray(expected, float)).mean() < 8


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("tag", TAGS)
def test_the_annotated_size_tells(tag, suffix, tmp_path):
    record, stored = photo(tmp_path, tag, suffix)
    upright = ImageOps.exif_transpose(Image.open(record.path)).convert("RGB")
    turned = ImageRecord(1, record.path, upright.width, upright.height, ())
    if tag >= 5:  # width and height exchanged
        assert like(open_picture(record), stored)
        assert like(open_picture(turned), upright)
    else:
        assert like(open_picture(turned, "apply"), upright)
        if suffix != "tif":  # Pillow turns TIFF files by itself
            assert like(open_picture(record), stored), "as stored, where the size does not tell"


@pytest.mark.parametrize("tag", TAGS)
def test_options_insist(tag, tmp_path):
    record, stored = photo(tmp_path, tag, "png", (24, 24))
    upright = ImageOps.exif_transpose(Image.open(record.path)).convert("RGB")
    assert like(open_picture(record, "ignore"), stored)
    assert like(open_picture(record, "apply"), upright)
    assert like(open_picture(record, "auto"), stored)


def test_what_the_size_says_nothing_about_is_noted(tmp_path):
    records = [photo(tmp_path, tag, "png")[0] for tag in TAGS]
    assert [record.path.stem for record in ambiguous(records)] == ["2", "3", "4"]
    squares = [photo(tmp_path, tag, "jpg", (24, 24))[0] for tag in TAGS]
    assert [record.path.stem for record in ambiguous(squares)] == ["2", "3", "4", "5", "6", "7", "8"]


def told(data: CocoData) -> int:
    return sum(count for note, count in data.notes.items() if "orientation tag that its size says nothing" in note)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_note_is_on_every_split_whoever_reads_it(split, tmp_path):
    (tmp_path / split).mkdir()
    records = [photo(tmp_path / split, tag, "png")[0] for tag in TAGS]
    images = [
        {"id": number, "file_name": record.path.name, "width": record.width, "height": record.height}
        for number, record in enumerate(records)
    ]
    square = {"bbox": [2, 2, 9, 9], "segmentation": [[2, 2, 11, 2, 11, 11, 2, 11]], "area": 81, "iscrowd": 0}
    objects = [{**square, "id": number, "image_id": number, "category_id": 1} for number in range(len(images))]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "disc"}]}
    (tmp_path / f"{split}.json").write_text(json.dumps(content))
    assert told(load_split(tmp_path, split)) == 3
    assert told(load_split(tmp_path, split, orientation="apply")) == 0
    if split == "train":
        data = load_data(tmp_path, val_fraction=0.99)
        assert data.val is not None
        assert len(data.val.images) == 7
        assert told(data.val) in (2, 3)  # one image is left to train


def test_another_size_is_named(tmp_path):
    record, _ = photo(tmp_path, 6, "png")
    with pytest.raises(UserError, match=r"6\.png: the file is 40 × 24 pixels, the annotation file says 41 × 24"):
        open_picture(ImageRecord(1, record.path, 41, 24, ()))
