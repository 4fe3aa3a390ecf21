"""Files of other formats that nobody would write in earnest: an error or an entry left out, at once."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from campaign.other_formats import BOMBS, WRITERS, pictures_of

from mask_frozen_detr import UserError
from mask_frozen_detr.data.load import load_split

HUGE = 10**400  # no float can hold it


@pytest.fixture
def written(scenes_folder, tmp_path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        pictures = pictures_of(scenes_folder)
        assert sum(len(picture["objects"]) for picture in pictures) > 20
        WRITERS[name](scenes_folder, tmp_path / name, pictures)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", WRITERS)
def test_honest_files_are_read_whole(name, written, scenes_folder):
    data = load_split(written(name), "train")
    assert sum(len(record.annotations) for record in data.images) == sum(
        len(picture["objects"]) for picture in pictures_of(scenes_folder)
    )


@pytest.mark.parametrize("bomb", BOMBS[".yaml"])
def test_a_yaml_file_that_stands_for_more_than_memory_holds(bomb, written):
    data = written("yolo")
    (data / "data.yaml").write_text(f"train: images/train\n{bomb}")
    with pytest.raises(UserError, match=r"data\.yaml: "):
        load_split(data, "train")


@pytest.mark.parametrize("content", [*BOMBS[".xml"], '<?xml version="1.0" encoding="none"?><annotation/>'])
def test_an_xml_file_that_cannot_be_read_costs_its_own_boxes_alone(content, written):
    data = written("voc")
    min(data.rglob("*.xml")).write_text(content)
    read = load_split(data, "train")
    assert len(read.images) == len(list(data.rglob("*.xml")))


def _via(document: Any, value: Any) -> None:
    for picture in document.values():
        polygon, box, ellipse = (region["shape_attributes"] for region in picture["regions"][:3])
        polygon["all_points_x"][:2], box["width"], ellipse["rx"] = [value, -value], value, value


def _labelme(document: Any, value: Any) -> None:
    for shape in document["shapes"][:3]:
        shape["points"][:2] = [[value, 0], [-value, 0]]


def _panoptic(document: Any, value: Any) -> None:
    segments = document["annotations"][0]["segments_info"]
    segments[0]["id"], segments[1]["category_id"], segments[2]["bbox"][:2] = value, value, [value, -value]


@pytest.mark.parametrize("value", [HUGE, float("1e400"), 10**30])
@pytest.mark.parametrize(("name", "change"), [("via", _via), ("labelme", _labelme), ("panoptic", _panoptic)])
def test_numbers_beyond_all_bounds_cost_one_object(name, change, value, written, scenes_folder):
    data = written(name)
    file = min(data.rglob("*.json"))
    document = json.loads(file.read_text())
    change(document, value)
    file.write_text(json.dumps(document))
    if name == "via" and value == float("inf"):  # one file holds all pictures, and settings hold no infinity
        with pytest.raises(UserError, match=r"via_region_data\.json: is damaged: no JSON \(found Infinity"):
            load_split(data, "train")
        return
    read = load_split(data, "train")
    pictures = pictures_of(scenes_folder)
    objects = sum(len(picture["objects"]) for picture in pictures)
    assert 1 <= len(read.skipped) <= 3 * len(pictures)
    if name == "labelme" and value == float("inf"):  # one file of one picture
        assert len(read.images) == len(pictures) - 1
    else:
        assert sum(len(record.annotations) for record in read.images) == objects - len(read.skipped)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        *(("yolo", "data.yaml"), ("yolo", "*.txt"), ("voc", "*.xml"), ("voc", "train.txt")),
        *(("via", "*.json"), ("labelme", "*.json"), ("panoptic", "*.json")),
    ],
)
def test_a_pipe_in_a_file_s_place_is_not_waited_for(name, pattern, written):
    data = written(name)
    file = min(data.rglob(pattern))
    file.unlink()
    os.mkfifo(file)
    with contextlib.suppress(UserError):  # what is left may be enough, or not
        assert load_split(data, "train").images


def test_a_name_too_long_for_any_file_costs_itself_alone(written):
    data = written("voc")
    listing = min(data.rglob("train.txt"))
    listing.write_text(f"{'a' * 5000}\n{listing.read_text()}")
    assert len(load_split(data, "train").images) == len(list(data.rglob("*.xml")))
    data = written("yolo")
    (data / "data.yaml").write_text(f"train: {'a' * 5000}\nnames: [disc]\n")
    with pytest.raises(UserError, match="train"):
        load_split(data, "train")
