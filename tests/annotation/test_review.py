"""The most doubtful masks first: a page that stands alone, and pre-annotations that labelling tools read."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from synthetic_detections import scattered

from mask_frozen_detr import MaskFrozenDetr, MaskNetworkConfig, UserError
from mask_frozen_detr.annotation.annotate import annotate
from mask_frozen_detr.annotation.document import QUALITY
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.detectors import FrozenDetector

NAME = '<script>alert("disc")</script> & Söhne'


@pytest.fixture(scope="module")
def labelled(
    squashing: FrozenDetector,
    tiny_network: MaskNetworkConfig,
    scenes_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Scenes of which every second object has lost its mask, annotated, with a review of four."""
    model = scattered(squashing, tiny_network)
    folder = tmp_path_factory.mktemp("review")
    shutil.copytree(scenes_folder / "val2017", folder / "pictures")
    content = json.loads((scenes_folder / "annotations" / "instances_val2017.json").read_text())
    for entry in content["annotations"][::2]:
        del entry["segmentation"]
    for category in content["categories"]:
        category["name"] = NAME if category["name"] == "disc" else category["name"]
    (folder / "boxes.json").write_text(json.dumps(content))
    annotate(model, load_split(folder / "boxes.json", "train", folder / "pictures"), folder / "labelled.json", review=4)
    return folder


@pytest.fixture
def model(squashing: FrozenDetector, tiny_network: MaskNetworkConfig) -> MaskFrozenDetr:
    return scattered(squashing, tiny_network)


def worst(folder: Path) -> list[dict[str, Any]]:
    """Entries that were open, most doubtful first: those without a mask, then by quality."""
    before = json.loads((folder / "boxes.json").read_text())["annotations"]
    after = json.loads((folder / "labelled.json").read_text())["annotations"]
    made = [new for old, new in zip(before, after, strict=True) if "segmentation" not in old]
    return sorted(made, key=lambda entry: entry.get(QUALITY, 0.0))


def test_the_page_shows_the_worst_first_and_needs_nothing_else(labelled: Path):
    page = (labelled / "labelled.review.html").read_text()
    numbers = [int(number) for number in re.findall(r"object (\d+)</div>", page)]
    assert numbers == [entry["id"] for entry in worst(labelled)[:4]]
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 8
    bare, drawn = (np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in pictures[:2])
    assert bare.shape == drawn.shape
    assert np.abs(bare.astype(int) - drawn).max() > 60
    for entry in worst(labelled)[:4]:
        assert "no mask found" in page if QUALITY not in entry else f"quality {entry[QUALITY]:.2f}" in page


def test_label_studio_gets_whole_pictures_and_their_masks(labelled: Path):
    tasks = json.loads((labelled / "labelled.review.label-studio.json").read_text())
    after = json.loads((labelled / "labelled.json").read_text())
    images = {f"/data/local-files/?d={image['file_name']}": image for image in after["images"]}
    scores = [task["predictions"][0]["score"] for task in tasks]
    assert scores == sorted(scores)
    for task in tasks:
        image = images[task["data"]["image"]]
        entries = [entry for entry in after["annotations"] if entry["image_id"] == image["id"]]
        union = np.zeros((image["height"], image["width"]), bool)
        for entry in entries:
            if "segmentation" in entry:
                rle = entry["segmentation"]
                if isinstance(rle, list):
                    rle = coco_mask.merge(coco_mask.frPyObjects(rle, image["height"], image["width"]))
                union |= coco_mask.decode(rle).astype(bool)
        drawn = np.zeros_like(union)
        for result in task["predictions"][0]["result"]:
            assert (result["original_width"], result["original_height"]) == (image["width"], image["height"])
            if result["type"] == "polygonlabels":
                points = np.array(result["value"]["points"]) / 100 * [image["width"], image["height"]]
                rle = coco_mask.frPyObjects([points.ravel().tolist()], image["height"], image["width"])
                drawn |= coco_mask.decode(coco_mask.merge(rle)).astype(bool)
        assert (drawn & union).sum() / (drawn | union).sum() > 0.9  # holes are filled
    first = next(result for result in tasks[0]["predictions"][0]["result"] if "score" in result)
    assert first["score"] == scores[0]


def test_labelme_files_are_read_back(labelled: Path):
    folder = labelled / "labelled.review.labelme"
    files = sorted(folder.glob("*.json"))
    assert files
    read = load_split(folder, "train", format="labelme")
    assert {record.path.resolve().parent for record in read.images} == {(labelled / "pictures").resolve()}
    after = json.loads((labelled / "labelled.json").read_text())
    sizes = {image["file_name"]: image["id"] for image in after["images"]}
    for record in read.images:
        own = [entry for entry in after["annotations"] if entry["image_id"] == sizes[record.path.name]]
        assert len(record.annotations) == len(own)


def test_a_second_review_takes_the_place_of_the_first(labelled: Path, model: MaskFrozenDetr, tmp_path: Path):
    folder = shutil.copytree(labelled, tmp_path / "copy")
    data = load_split(folder / "boxes.json", "train", folder / "pictures")
    before = set((folder / "labelled.review.labelme").iterdir())
    report = annotate(model, data, folder / "labelled.json", review=1)
    assert "the 1 most doubtful" in report
    assert len(list((folder / "labelled.review.labelme").iterdir())) == 1 < len(before)
    [kept] = (folder / "labelled.review.labelme").iterdir()
    kept.write_text("corrected by hand")
    with pytest.raises(UserError, match="is not as annotate wrote it"):
        annotate(model, data, folder / "labelled.json", review=1)
    assert kept.read_text() == "corrected by hand"


@pytest.mark.parametrize("name", ["labelled.review.html", "labelled.review.label-studio.json"])
def test_nobody_elses_page_is_replaced(name: str, labelled: Path, model: MaskFrozenDetr, tmp_path: Path):
    data = load_split(labelled / "boxes.json", "train", labelled / "pictures")
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        annotate(model, data, tmp_path / "labelled.json", review=2)
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "labelled.json").exists()
