"""What a visitor of the page sees, without a browser: what is shown, drawn and taken home."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from mask_frozen_detr import Instances, UserError
from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.serving.downloads import COCO_FILE, PNG_FILE, YOLO_FILE, write_downloads
from mask_frozen_detr.serving.visit import LEAST_SCORE, LONGEST_SIDE, click, look_at


def test_threshold_and_classes_choose_of_what_was_found(model, photo):
    visit = look_at(model, photo)
    found = model.predict(photo, LEAST_SCORE)
    least = float(np.median(found.scores))
    assert len(visit.chosen(0.0, [])) == len(found) > 3
    assert visit.chosen(least, []).scores.min() >= least
    (name, *_) = found.names
    assert set(visit.chosen(0.0, [name]).names) == {name}
    assert len(visit.chosen(0.0, ["no such class"])) == 0


def test_two_clicks_make_a_box_whichever_corners_they_are(model, photo):
    visit = look_at(model, photo)
    corners = [((20, 30), (90, 80)), ((90, 30), (20, 80)), ((20, 80), (90, 30))]
    drawn = []
    for first, second in corners:
        waiting = click(model, visit, first)
        assert waiting.corner == first
        assert waiting.draw(waiting.found).tobytes() != visit.draw(visit.found).tobytes()  # the corner is marked
        drawn.append(click(model, waiting, second))
    for one in drawn:
        assert one.corner is None
        assert one.chosen(1.0, [])[0].boxes.tolist() == [[20, 30, 90, 80]]
    expected = model.predict(photo, boxes=[[20, 30, 90, 80]])
    assert np.array_equal(drawn[0].chosen(1.0, []).masks, expected.masks)


def test_clicks_beside_the_picture_and_on_one_spot(model, photo):
    visit = look_at(model, photo)
    beside = click(model, click(model, visit, (-5, -5)), (10_000, 10_000))
    assert beside.drawn[0].boxes.tolist() == [[0, 0, visit.picture.width, visit.picture.height]]
    assert click(model, click(model, visit, (9, 9)), (9, 9)).drawn == []


def test_a_large_picture_is_made_smaller(model, tmp_path):
    Image.new("RGB", (4000, 1000), "gray").save(tmp_path / "wide.png")
    visit = look_at(model, tmp_path / "wide.png")
    assert visit.picture.size == (LONGEST_SIDE, LONGEST_SIDE // 4)
    assert (visit.found.width, visit.found.height) == visit.picture.size


@pytest.mark.parametrize("content", [b"", b"no picture", b"<svg></svg>", b"\x89PNG\r\n\x1a\nbroken"])
def test_what_is_no_picture(content, model, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.png"):
        look_at(model, tmp_path / "x.png")


def blocks() -> Instances:
    """A block, one of two parts, and one of an unknown class, in 40 × 60 pixels."""
    parts = np.zeros((20, 30), bool)
    parts[:8, :10] = parts[12:, 16:] = True
    full = np.ones((10, 12), bool)
    crops = [Crop(5, 5, full), Crop(20, 10, parts), Crop(0, 30, full)]
    boxes = np.array([[5, 5, 17, 15], [20, 10, 50, 30], [0, 30, 12, 40]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    return Instances(boxes, scores, scores, np.array([1, 0, -1]), ["ring", "disc", "thing"], crops, 40, 60)


def test_the_files_hold_what_is_shown(tmp_path):
    instances = blocks()
    paths = write_downloads(tmp_path, instances, "photo.jpg", ["disc", "ring", ""])
    assert [Path(path).name for path in paths] == [COCO_FILE, YOLO_FILE, PNG_FILE]
    content = json.loads((tmp_path / COCO_FILE).read_text())
    assert content["images"] == [{"id": 1, "file_name": "photo.jpg", "width": 60, "height": 40}]
    assert [category["name"] for category in content["categories"]] == ["disc", "ring", "2"]
    assert [annotation["category_id"] for annotation in content["annotations"]] == [1, 0]  # the unknown class has none
    for annotation, mask in zip(content["annotations"], instances.masks[:2], strict=True):
        assert np.array_equal(coco_mask.decode(annotation["segmentation"]).astype(bool), mask)
    lines = (tmp_path / YOLO_FILE).read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["1", "0"]
    for line, mask in zip(lines, instances.masks[:2], strict=True):
        assert np.array_equal(rasterise(line, 60, 40), mask)
    numbers = np.array(Image.open(tmp_path / PNG_FILE))
    assert numbers.shape == (40, 60)
    for number, mask in enumerate(instances.masks, 1):
        assert np.array_equal(numbers == number, mask)


def rasterise(line: str, width: int, height: int) -> np.ndarray:
    """The outline's inside, by Pillow at eight times the size, read at the pixels' centres."""
    points = np.array([float(number) for number in line.split()[1:]]).reshape(-1, 2) * [width * 8, height * 8]
    canvas = Image.new("1", (width * 8, height * 8))
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in points], fill=1)
    return np.array(canvas)[4::8, 4::8]


def test_nothing_found_gives_empty_files(tmp_path):
    write_downloads(tmp_path, Instances.empty(4, 6), "photo.jpg", ["disc"])
    assert json.loads((tmp_path / COCO_FILE).read_text())["annotations"] == []
    assert (tmp_path / YOLO_FILE).read_text() == ""
    assert not np.array(Image.open(tmp_path / PNG_FILE)).any()
