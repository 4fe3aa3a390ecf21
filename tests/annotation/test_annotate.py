"""Boxes in, masks out: what was there stays, what is new is readable, and a killed or repeated call goes on."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.annotation import annotate as module
from mask_frozen_detr.annotation.annotate import annotate
from mask_frozen_detr.annotation.document import QUALITY
from mask_frozen_detr.cli import main
from mask_frozen_detr.data.load import load_split

ADDED = {"segmentation", "area", "iscrowd", "score", QUALITY}


@pytest.fixture
def boxes(scenes_folder: Path, tmp_path: Path) -> Path:
    """Five scenes: the first two keep their masks, of the others the boxes are left, with whatever tools add."""
    folder = tmp_path / "boxes"
    shutil.copytree(scenes_folder / "val2017", folder / "val2017")
    content = json.loads((scenes_folder / "annotations" / "instances_val2017.json").read_text())
    kept = {image["id"] for image in content["images"][:2]}
    for number, entry in enumerate(content["annotations"]):
        entry["attributes"] = {"occluded": bool(number % 2)}
        if entry["image_id"] not in kept:
            entry.pop("segmentation")
            entry.pop("area", None)
    content["info"] = {"description": "ours", "contributor": "me"}
    content["licenses"] = [{"id": 1, "name": "free"}]
    for image in content["images"]:
        image["coco_url"] = f"http://pictures/{image['id']}"
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return folder


def source_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "annotations" / "instances_val2017.json").read_text())


def change(folder: Path, by: Callable[[dict[str, Any]], None]) -> None:
    content = source_of(folder)
    by(content)
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))


def run(model: MaskFrozenDetr, folder: Path, output: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    report = annotate(model, load_split(folder, "val"), output, **options)
    return report, json.loads(output.read_text())


def test_boxes_get_masks_and_all_else_stays(model: MaskFrozenDetr, boxes: Path, tmp_path: Path):
    output = tmp_path / "out" / "labelled.json"
    before = source_of(boxes)
    report, after = run(model, boxes, output)
    for key in before.keys() - {"info", "annotations"}:
        assert after[key] == before[key]
    assert before["info"].items() <= after["info"].items()
    assert len(after["annotations"]) == len(before["annotations"])
    new = 0
    for old, entry in zip(before["annotations"], after["annotations"], strict=True):
        if "segmentation" in old:
            assert entry == old
            continue
        assert {key: value for key, value in entry.items() if key not in ADDED} == {
            key: value for key, value in old.items() if key not in ADDED
        }
        if "segmentation" not in entry:
            continue  # not a pixel was found
        new += 1
        mask = coco_mask.decode(entry["segmentation"]).astype(bool)
        x, y, w, h = entry["bbox"]
        rows, columns = np.nonzero(mask)
        assert columns.min() + 0.5 >= x - 1e-3
        assert columns.max() + 0.5 < x + w + 1e-3
        assert rows.min() + 0.5 >= y - 1e-3
        assert rows.max() + 0.5 < y + h + 1e-3
        assert entry["area"] == mask.sum()
        assert entry["iscrowd"] == 0
        assert 0 <= entry[QUALITY] == entry["score"] <= 1
    assert new > 5
    assert f"{new} of " in report


def test_the_masks_are_those_of_predict(model: MaskFrozenDetr, boxes: Path, tmp_path: Path):
    _, after = run(model, boxes, tmp_path / "labelled.json")
    data = load_split(boxes, "val")
    record = data.images[3]
    entries = [entry for entry in after["annotations"] if entry["image_id"] == record.id]
    corners = [[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in entries)]
    names = [data.categories[entry["category_id"]] for entry in entries]
    found = model.predict(record.path, boxes=corners, labels=names, careful=True)
    for entry, mask, score in zip(entries, found.masks, found.scores, strict=True):
        if "segmentation" in entry:
            assert np.array_equal(coco_mask.decode(entry["segmentation"]), mask)
            assert entry[QUALITY] == pytest.approx(score, abs=1e-4)
        else:
            assert not mask.any()


def test_other_readers_take_it(model: MaskFrozenDetr, boxes: Path, tmp_path: Path):
    output = tmp_path / "far" / "away" / "labelled.json"
    run(model, boxes, output)
    coco = COCO(str(output))
    read = load_split(output, "val")
    assert {record.path.resolve() for record in read.images} == {
        path.resolve() for path in (boxes / "val2017").iterdir() if path.suffix in (".jpg", ".png")
    }
    for record in read.images:
        for annotation in record.annotations:
            if annotation.segmentation is not None:
                mask = coco.annToMask(coco.anns[annotation.id])
                assert mask.shape == (record.height, record.width)
                assert mask.any()
    assert not read.skipped


def test_boxes_of_another_format(model: MaskFrozenDetr, boxes: Path, tmp_path: Path):
    """YOLO's: a box in one line, a mask in the other."""
    folder = tmp_path / "yolo"
    (folder / "images" / "train").mkdir(parents=True)
    (folder / "labels" / "train").mkdir(parents=True)
    picture = sorted((boxes / "val2017").iterdir())[0]
    shutil.copy(picture, folder / "images" / "train" / picture.name)
    lines = "0 0.5 0.5 0.4 0.5\n1 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n"
    (folder / "labels" / "train" / f"{picture.stem}.txt").write_text(lines)
    (folder / "data.yaml").write_text("train: images/train\nnames: [disc, thing]\n")
    output = tmp_path / "labelled.json"
    annotate(model, load_split(folder, "train"), output)
    [record] = load_split(output, "train").images
    width, height = record.width, record.height
    assert record.path.resolve() == (folder / "images" / "train" / picture.name).resolve()
    made, drawn = json.loads(output.read_text())["annotations"]
    assert made["bbox"] == pytest.approx([0.3 * width, 0.25 * height, 0.4 * width, 0.5 * height])
    assert coco_mask.decode(made["segmentation"]).any()
    assert QUALITY not in drawn
    corners = np.array([0.1, 0.1, 0.3, 0.1, 0.3, 0.4, 0.1, 0.4]).reshape(-1, 2) * [width, height]
    assert np.allclose(np.array(drawn["segmentation"][0]).reshape(-1, 2), corners, atol=1e-3)


def test_what_gets_no_mask_is_counted_and_stays(model: MaskFrozenDetr, boxes: Path, tmp_path: Path):
    def spoil(content: dict[str, Any]) -> None:
        open_ones = [entry for entry in content["annotations"] if "segmentation" not in entry]
        open_ones[0]["bbox"] = [5, 5, 0, 10]
        open_ones[1]["bbox"] = [300, 300, 5, 5]
        open_ones[2]["iscrowd"] = 1
        del open_ones[3]["bbox"]
        open_ones[4]["category_id"] = 777
        open_ones[5]["score"] = 0.125
        content["annotations"].append({"id": 9001, "image_id": 12345, "category_id": 1, "bbox": [1, 1, 5, 5]})
        content["annotations"].append("what is this")

    change(boxes, spoil)
    before = source_of(boxes)
    report, after = run(model, boxes, tmp_path / "labelled.json")
    for fault in ("bbox without width or height", "bbox lies outside", "a crowd's box", "neither mask nor box"):
        assert f"left out: 1 × {fault}" in report
    assert "left out: 1 × picture is missing" in report
    assert "left out: 1 × annotation is not an object" in report
    old = [place for place, entry in enumerate(before["annotations"]) if "segmentation" not in entry]
    for place in [*old[:4], -2, -1]:
        assert after["annotations"][place] == before["annotations"][place]
    unknown = after["annotations"][old[4]]
    assert unknown["category_id"] == 777
    assert QUALITY in unknown  # no class that anybody knows, and a mask all the same
    assert after["annotations"][old[5]]["score"] == 0.125


def test_classes_that_the_detector_does_not_know(model: MaskFrozenDetr, boxes: Path, tmp_path: Path):
    def rename(content: dict[str, Any]) -> None:
        for category in content["categories"]:
            category["name"] = f"\x1b[31mthing {category['id']}"

    change(boxes, rename)
    report, after = run(model, boxes, tmp_path / "labelled.json")
    assert sum(QUALITY in entry for entry in after["annotations"]) > 5
    assert "classes that the detector does not know, masks made all the same: ?[31mthing" in report


def test_masks_that_are_only_boxes(model: MaskFrozenDetr, boxes: Path, tmp_path: Path):
    def draw_boxes(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            if "segmentation" not in entry:
                x, y, w, h = entry["bbox"]
                entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        del content["annotations"][-1]["segmentation"]

    change(boxes, draw_boxes)
    report, after = run(model, boxes, tmp_path / "kept.json")
    assert sum(QUALITY in entry for entry in after["annotations"]) <= 1
    assert "mask that is nothing but its box; --redraw-rectangles" in report
    report, after = run(model, boxes, tmp_path / "drawn.json", redraw_rectangles=True)
    assert sum(QUALITY in entry for entry in after["annotations"]) > 5
    assert "nothing but its box" not in report


def test_a_repeated_call_goes_on(model: MaskFrozenDetr, boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    output = tmp_path / "labelled.json"
    whole = annotate(model, load_split(boxes, "val"), tmp_path / "whole.json")
    opened = module.open_picture
    seen: list[int] = []

    def stop_at_second(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return opened(*arguments)

    monkeypatch.setattr(module, "open_picture", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        annotate(model, load_split(boxes, "val"), output)
    assert sum(QUALITY in entry for entry in json.loads(output.read_text())["annotations"]) > 0
    seen[:] = [0] * 5
    report = annotate(model, load_split(boxes, "val"), output)
    assert len(seen) == 5 + 2
    assert "1 of 3 pictures had been done before" in report
    assert (
        json.loads(output.read_text())["annotations"]
        == json.loads((tmp_path / "whole.json").read_text())["annotations"]
    )
    assert "had been done" not in whole
    seen[:] = [0] * 5
    first = output.read_bytes()
    annotate(model, load_split(boxes, "val"), output)
    assert len(seen) == 5
    assert output.read_bytes() == first


def test_other_data_is_made_anew(model: MaskFrozenDetr, boxes: Path, tmp_path: Path):
    output = tmp_path / "labelled.json"
    run(model, boxes, output)

    def move(content: dict[str, Any]) -> None:
        content["annotations"][-1]["bbox"] = [10, 10, 30, 30]

    change(boxes, move)
    report, after = run(model, boxes, output)
    assert "all made anew, since other than in the last call: data" in report
    assert after["annotations"][-1]["bbox"] == [10, 10, 30, 30]


def test_nobody_elses_file_is_replaced(model: MaskFrozenDetr, boxes: Path, tmp_path: Path):
    data = load_split(boxes, "val")
    with pytest.raises(UserError, match="is the data itself"):
        annotate(model, data, data.annotation_file)
    foreign = tmp_path / "labelled.json"
    for content in ("{}", "no json", json.dumps({"info": {"annotated": {"made_by": "me"}}})):
        foreign.write_text(content)
        with pytest.raises(UserError, match="is there already and is not as this version of annotate wrote it"):
            annotate(model, data, foreign)
        assert foreign.read_text() == content
    output = tmp_path / "edited.json"
    _, after = run(model, boxes, output)
    edited = copy.deepcopy(after)
    edited["annotations"].append({"id": 77777, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]})
    output.write_text(json.dumps(edited))
    with pytest.raises(UserError, match="is not as this version"):
        annotate(model, data, output)
    assert json.loads(output.read_text()) == edited


def test_one_bad_picture_is_one_line(model: MaskFrozenDetr, boxes: Path, tmp_path: Path):
    bad = sorted((boxes / "val2017").iterdir())[3]
    bad.write_bytes(bad.read_bytes()[:100])
    report, after = run(model, boxes, tmp_path / "labelled.json", review=4)
    assert report.count("skipped:") == 1
    assert str(bad) in report
    assert sum(QUALITY in entry for entry in after["annotations"]) > 3
    for path in (boxes / "val2017").iterdir():
        path.write_bytes(b"")
    data = load_split(boxes, "val")
    with pytest.raises(UserError, match="no picture could be used"):
        annotate(model, data, tmp_path / "none.json")


def test_nothing_to_do(model: MaskFrozenDetr, scenes_folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"no box that lacks a mask \(\d+ objects have one\)"):
        annotate(model, load_split(scenes_folder, "val"), tmp_path / "labelled.json")


def test_the_command(model: MaskFrozenDetr, boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model.save_pretrained(tmp_path / "run")
    output = tmp_path / "labelled.json"
    command = ["annotate", str(tmp_path / "run"), str(boxes), "--output", str(output), "--device", "cpu"]
    assert main([*command, "--split", "val", "--review", "3"]) == 0
    printed = capsys.readouterr()
    assert "boxes have masks now" in printed.out
    assert "the 3 most doubtful" in printed.out
    assert QUALITY in output.read_text()
    assert main([*command]) == 2  # there is no train split
    assert main([*command[:4], str(tmp_path / "labelled.txt"), "--split", "val"]) == 2
    assert "expected the name of a .json file" in capsys.readouterr().err


def test_what_no_file_of_text_can_hold_and_no_float_either(model: MaskFrozenDetr, boxes: Path, tmp_path: Path):
    """Half a letter as JSON may hold it stays as it came; a polygon beyond all bounds is no box."""

    def spoil(document: dict[str, Any]) -> None:
        document["annotations"][0]["note"] = "\ud800"
        document["annotations"].append({**document["annotations"][0], "segmentation": [[10**400, 0, 9, 0, 9, 9]]})

    change(boxes, spoil)
    _, written = run(model, boxes, tmp_path / "out.json")
    assert written["annotations"][0]["note"] == "\ud800"
    assert written["annotations"][-1]["segmentation"] == [[10**400, 0, 9, 0, 9, 9]]


@pytest.mark.parametrize("whole_file", [True, False], ids=["no class at all", "some without a class"])
def test_boxes_without_a_class(model: MaskFrozenDetr, boxes: Path, tmp_path: Path, whole_file: bool):
    def forget(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            if whole_file or "segmentation" not in entry:
                del entry["category_id"]
        if whole_file:
            del content["categories"]

    open_boxes = sum("segmentation" not in entry for entry in source_of(boxes)["annotations"])
    change(boxes, forget)
    report, after = run(model, boxes, tmp_path / "labelled.json", review=2)
    drawn = [entry for entry in after["annotations"] if QUALITY in entry]
    assert len(drawn) > 5
    assert f"{len(drawn)} of {open_boxes} boxes have masks now" in report
    assert "does not know" not in report
    assert not any("category_id" in entry for entry in drawn)
    if whole_file:
        assert len(COCO(str(tmp_path / "labelled.json")).anns) == len(after["annotations"])
