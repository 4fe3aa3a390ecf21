"""Data and pictures that will not do: one clear message, exit code 2, no traceback, nothing half-written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY
from PIL import Image

from mask_frozen_detr.cli import main
from mask_frozen_detr.model import WEIGHTS_FILE

# --- bad data ---


GOOD = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [5, 5, 30, 30],
            "segmentation": [[5, 5, 35, 5, 35, 35, 5, 35]],
            "area": 900,
            "iscrowd": 0,
        }
    ],
    "categories": [{"id": 1, "name": "disc"}],
}


@pytest.fixture
def data(tmp_path) -> Callable[..., Path]:
    """Makes a data set of one image: `data(content)`, or `data(text)` for an annotation file that is no JSON."""

    def make(content: dict | str, image: bytes | None = None) -> Path:
        folder = tmp_path / "data"
        (folder / "annotations").mkdir(parents=True)
        (folder / "train2017").mkdir()
        if image is None:
            Image.new("RGB", (64, 48), "blue").save(folder / "train2017" / "a.jpg")
        else:
            (folder / "train2017" / "a.jpg").write_bytes(image)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "annotations" / "instances_train2017.json").write_text(text)
        return folder

    return make


def changed(**changes: object) -> dict:
    """`GOOD` with its one annotation changed."""
    return {**GOOD, "annotations": [GOOD["annotations"][0] | changes]}


ANNOTATIONS: dict[str, tuple[dict | str, str]] = {
    "no polygon": (changed(segmentation=[]), "no segmentation"),
    "a polygon too short": (changed(segmentation=[[5, 5, 35, 5]]), "fewer than 3 points"),
    "a polygon outside": (changed(segmentation=[[500, 5, 530, 5, 530, 30]]), "outside the image"),
    "RLE of the wrong size": (changed(segmentation={"size": [64, 48], "counts": [3072]}), "another size"),
    "an unknown category": (changed(category_id=9), "unknown category"),
    "an unknown image": (changed(image_id=9), "unknown image"),
    "crowds alone": (changed(iscrowd=1), "no image has an annotation to learn from"),
    "no annotations": ({**GOOD, "annotations": []}, "no image has an annotation to learn from"),
    "no images": ({**GOOD, "images": [], "annotations": []}, "'images' is empty"),
    "no categories": ({**GOOD, "categories": []}, "'categories' is empty"),
    "image ids twice": (
        {**GOOD, "images": [*GOOD["images"], {**GOOD["images"][0], "file_name": "b.jpg"}]},
        "id 1 is taken",
    ),
    "files that are not there": (
        {**GOOD, "images": [{**GOOD["images"][0], "file_name": "z.jpg"}]},
        "none of its 1 image files",
    ),
    "no JSON": ("eggs, flour, a pound of butter", "is not JSON"),
    "JSON cut short": ('{"images": [', "truncated?"),
    "an empty file": ("", "is empty"),
    "a key missing": ({"images": []}, "no key 'annotations'"),
}


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_bad_annotation_files(kind, refused, data, squashing_folder, tmp_path):
    content, words = ANNOTATIONS[kind]
    message = refused("train", squashing_folder, data(content), "--output", tmp_path / "run")
    assert "instances_train2017.json" in message
    assert words in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_folder_without_data(command, refused, squashing_folder, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        more = ["--output", tmp_path / "run"] if command == "train" else []
        assert str(folder) in refused(command, squashing_folder, folder, *more)
    assert not (tmp_path / "run").exists()


def test_broken_annotations_beside_good_ones(data, squashing_folder, tmp_path, capfd):
    """Self-crossing polygons and doubled ids are used, a broken polygon leaves its box; what is broken is named and
    counted, before and after."""
    good = GOOD["annotations"][0]
    content = {
        **GOOD,
        "annotations": [
            good,
            good | {"category_id": 1},  # of the same id
            good | {"id": 2, "segmentation": [[5, 5, 35, 35, 35, 5, 5, 35]]},  # crosses itself
            good | {"id": 3, "segmentation": [[1, 2]]},
            good | {"id": 4, "category_id": 77},
            good | {"id": 5, "iscrowd": 1},
        ],
    }
    arguments = ["train", squashing_folder, data(content), "--output", tmp_path / "run", *TINY]
    assert main([str(argument) for argument in arguments]) == 0
    shown = capfd.readouterr().err
    for words in (
        "annotation id missing, used twice",
        "fewer than 3 points",
        "unknown category",
        "crosses itself",
        "annotation 4",
    ):
        assert words in shown
    assert "1 entries of instances_train2017.json were broken and have been skipped" in shown


@pytest.mark.parametrize("content", [b"", b"hello", None], ids=["empty", "text", "cut short"])
def test_no_training_image_can_be_read(content, refused, data, squashing_folder, scenes, tmp_path):
    image = scenes[0].images[0].path.read_bytes()[:2000] if content is None else content
    message = refused("train", squashing_folder, data(GOOD, image), "--output", tmp_path / "run", *TINY)
    assert "not one training image can be read" in message
    assert "a.jpg" in message
    assert not (tmp_path / "run" / WEIGHTS_FILE).exists()


def test_no_val_image_can_be_read(refused, data, squashing_folder):
    folder = data(GOOD, b"hello")
    assert "not one image can be read" in refused("evaluate", squashing_folder, folder, "--split", "train")


# --- bad pictures ---


@pytest.mark.parametrize("kind", ["missing", "an empty folder", "a pattern without match", "text", "cut short"])
def test_bad_pictures(kind, refused, tiny_run, scenes, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "text.png").write_text("hello")
    (folder / "cut.jpg").write_bytes(scenes[0].images[0].path.read_bytes()[:2000])
    (folder / "none").mkdir()
    place = {
        "missing": folder / "gone.jpg",
        "an empty folder": folder / "none",
        "a pattern without match": f"{folder}/*.webp",
        "text": folder / "text.png",
        "cut short": folder / "cut.jpg",
    }[kind]
    assert str(place) in refused("predict", tiny_run, place, "--output", tmp_path / "out")
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_one_bad_picture_among_good_ones(tiny_run, scenes, tmp_path, capfd):
    bad = tmp_path / "cut.jpg"
    bad.write_bytes(scenes[0].images[0].path.read_bytes()[:2000])
    arguments = ["predict", tiny_run, bad, scenes[0].images[1].path, "--output", tmp_path / "out"]
    assert main([str(argument) for argument in arguments]) == 0
    shown = capfd.readouterr().out
    assert "in 1 pictures" in shown
    assert f"skipped: {bad}" in shown
