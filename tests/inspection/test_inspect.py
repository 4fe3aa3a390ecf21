"""A look at data: counts and suspicious things against what was put there, recall against boxes that are known."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from format_samples import draw
from PIL import Image

from mask_frozen_detr import UserError, load_data
from mask_frozen_detr.cli import main
from mask_frozen_detr.data.coco import Annotation, CocoData, ImageRecord
from mask_frozen_detr.data.load import Data
from mask_frozen_detr.inspection.facts import facts_of
from mask_frozen_detr.inspection.inspect import inspect_data
from mask_frozen_detr.inspection.oddities import oddities
from mask_frozen_detr.inspection.pictures import draw_pairs
from mask_frozen_detr.training.config import AugmentConfig


def test_counts_by_size():
    """COCO's borders: 32² is small, 96² medium."""
    areas = [1024, 1025, 9216, 9217, 5]
    objects = tuple(Annotation(i, 1, (0, 0, 9, 9), None, i == 4, area) for i, area in enumerate(areas))
    images = [ImageRecord(1, Path("a.png"), 200, 200, objects), ImageRecord(2, Path("b.png"), 200, 200, ())]
    facts = facts_of("train", CocoData(Path("x.json"), images, {1: "cat", 2: "dog"}, []))
    assert facts.classes == {"cat": (2, 2, 1), "dog": (0, 0, 0)}
    assert (facts.images, facts.bare, facts.objects, facts.crowds, facts.boxes_alone) == (2, 1, 5, 1, 5)


def test_suspicious_things(tmp_path):
    draw(tmp_path / "train/a.png", tmp_path / "train/b.png")
    (tmp_path / "val").mkdir()
    shutil.copy(tmp_path / "train/a.png", tmp_path / "val/other name.png")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "train/b.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "train/c.png", exif=exif)
    square = [[10.0, 8.0, 20.0, 8.0, 20.0, 18.0, 10.0, 18.0]]
    objects = (
        Annotation(1, 1, (10, 8, 10, 10), square, False, 100),
        Annotation(2, 1, (10, 8, 10, 10), square, False, 100),  # twice
        Annotation(3, 1, (10, 8, 20, 18), square, False, 100),  # the second corner as width and height
        Annotation(4, 1, (12, 8, 28, 20), square, False, 100),
        Annotation(5, 1, (1, 1, 2, 2), None, False, 4),
    )
    train = [
        ImageRecord(number, tmp_path / f"train/{name}.png", 40, 30, objects if name == "a" else ())
        for number, name in enumerate("abc", 1)
    ]
    val = [ImageRecord(1, tmp_path / "val/other name.png", 40, 30, ())]
    names = {1: "cat"}
    splits = {"train": CocoData(tmp_path, train, names, []), "val": CocoData(tmp_path / "v", val, names, [])}
    assert {fault.kind: fault.count for fault in oddities(splits)} == {
        "object drawn twice (one class, one box)": 1,
        "box whose width and height are its second corner": 1,
        "box that does not fit its polygon": 1,
        "object of less than 16 pixels": 1,
        "picture with an orientation tag": 1,
        "picture in train and in val": 1,
    }
    assert "train, a.png, cat at 10, 8, 20, 18" in [fault.first for fault in oddities(splits)]


def test_good_data_is_not_suspicious(scenes):
    kinds = {fault.kind for fault in oddities({"train": scenes[0], "val": scenes[1]})}
    assert kinds <= {"object of less than 16 pixels"}


def test_recall_is_that_of_the_detector(squashing, scenes):
    """Truth that is the detector's own boxes is found whole; boxes of no size that it gives are not."""
    from mask_frozen_detr.model import MaskFrozenDetr

    train, val = scenes
    found = MaskFrozenDetr.training_free(squashing).predict(val.images[0].path, 0.0)
    ids = {name: number for number, name in val.categories.items()}
    true = [
        Annotation(i, ids[found.names[i]], (x0, y0, x1 - x0, y1 - y0), None, False, 2000)
        for i, (x0, y0, x1, y1) in enumerate(found.boxes[:4].tolist())
    ]
    false = [Annotation(9, ids["disc"], (0, 0, 0.01, 0.01), None, False, 20)]
    record = replace(val.images[0], annotations=(*true, *false))
    seen = inspect_data(Data(train, replace(val, images=[record]), ""), squashing)
    assert seen.recall is not None
    assert seen.recall.share == len(true) / (len(true) + 1)
    assert seen.recall.by_size == {"small": (0, 1), "medium": (4, 4), "large": (0, 0)}
    assert "80.0% of the 5 objects in 1 images of val" in seen.text()


def test_the_command(scenes_folder, squashing_folder, tmp_path, capfd):
    page, file = tmp_path / "look.html", tmp_path / "look.json"
    arguments = ["inspect", scenes_folder, squashing_folder, "--html", page, "--json", file, "--pictures", "2"]
    for _ in range(2):  # its own files are replaced
        assert main([str(argument) for argument in arguments]) == 0
    shown = capfd.readouterr().out
    assert "train: COCO, 10 images, 6 classes, 62 objects" in shown
    assert "3 classes of detector and data match by name" in shown
    written = json.loads(file.read_text())
    assert written["splits"][1]["objects"] == 37
    assert 0 <= written["recall"]["share"] <= 1
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 2 * 2 * 2
    assert not re.search(r"(src|href)=\"(?!data:)", text), "it needs nothing beside itself"
    page.write_text("mine")
    assert main([str(argument) for argument in arguments]) == 2
    assert page.read_text() == "mine"
    assert "was not written by inspect" in capfd.readouterr().err


def test_names_are_escaped(scenes):
    train = replace(scenes[0], categories={number: f"<b>{number}&" for number in scenes[0].categories})
    text = inspect_data(Data(train, None, "<i>"), pictures=1).page()
    assert "<b>" not in text
    assert "<i>" not in text
    assert "&lt;b&gt;1&amp;" in text


def test_a_picture_that_cannot_be_read_is_named(scenes, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    record = replace(scenes[0].images[0], path=tmp_path / "bad.png")
    seen = inspect_data(Data(replace(scenes[0], images=[record]), None, ""), pictures=1)
    assert "bad.png" in seen.problems[0]
    assert "bad.png" in seen.page()


def test_no_class_in_common(scenes, squashing):
    train = replace(scenes[0], categories=dict.fromkeys(scenes[0].categories, "zebra"))
    with pytest.raises(UserError, match="no category of the data is a class of the detector"):
        inspect_data(Data(train, None, ""), squashing)


def test_any_format(tmp_path):
    draw(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n7 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    text = inspect_data(load_data(tmp_path)).text()
    assert "YOLO-seg, 1 images, 1 classes, 1 objects" in text
    assert "skipped 1 × unknown class, first:" in text


def test_pictures_of_the_page_are_small_and_one_too_large_is_one_line(tmp_path, monkeypatch):
    objects = (Annotation(1, 1, (10, 8, 10, 10), None, False, 100),)
    records = []
    for number, width in enumerate((1500, 40, 1600)):
        Image.new("RGB", (width, 30)).save(tmp_path / f"{number}.png")
        records.append(ImageRecord(number, tmp_path / f"{number}.png", width, 30, objects))

    def draw_but_one(image: Image.Image, *_: object) -> Image.Image:
        if image.width == 1600:
            raise MemoryError
        return image

    monkeypatch.setattr("mask_frozen_detr.inspection.pictures.draw_truth", draw_but_one)
    data = CocoData(Path("x.json"), records, {1: "cat"}, [])
    drawn, problems = draw_pairs(data, 3, AugmentConfig(crop=False), None)
    assert [name for name, _, _ in drawn] == ["0.png", "1.png"]
    assert drawn[0][1].size == (640, 13)
    assert max(drawn[0][2].size) <= 640
    assert problems == [f"{tmp_path / '2.png'}: not enough memory"]
