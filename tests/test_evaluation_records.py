"""What an evaluation shows and writes, and the memory that it takes."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest
from PIL import Image

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.data.coco import CocoData, ImageRecord, Skipped
from mask_frozen_detr.evaluation import (
    METRICS,
    check_evaluation_file,
    evaluate,
    read_evaluation,
    write_evaluation,
)
from mask_frozen_detr.results.scoring import scorer_name

# --- what is shown and written ---


def test_json_and_table(measured_baseline, tmp_path):
    evaluation = measured_baseline[0]
    path = tmp_path / "val.json"
    write_evaluation(path, evaluation, model="runs/femto", split="val")
    saved = json.loads(path.read_text())
    assert set(saved) == {
        *("model", "split", "format", "box", "mask", "by_class", "images", "images_in_all", "left_out", "seconds"),
        *("categories_without_class", "classes", "problems", "max_detections", "score_threshold", "scorer"),
        *("supervision", "notes", "mirror"),
    }
    assert list(saved["box"]) == list(saved["mask"]) == list(METRICS)
    assert saved["box"]["APl"] is None, "no object is as large: null, for JSON has no nan"
    assert saved["mask"]["AP"] == pytest.approx(evaluation.mask["AP"], abs=1e-4)
    assert set(saved["by_class"]) == set(evaluation.box_by_class)
    assert set(saved["by_class"]["disc"]) == {"box", "mask"}
    again = read_evaluation(path)
    assert again.as_dict() == evaluation.as_dict()
    table = evaluation.table(by_class=True)
    assert f"{evaluation.mask['AP']:.1f}" in table
    assert "crescent" in table
    assert "crescent" not in evaluation.table()
    assert evaluation.table().splitlines()[3:] == ["AP over 5 of 5 images"]
    assert (saved["images"], saved["images_in_all"], saved["scorer"]) == (5, 5, scorer_name())


def test_evaluations_of_older_versions_are_read(measured_baseline, tmp_path):
    path = tmp_path / "evaluation-3.json"
    old = {
        key: measured_baseline[0].as_dict()[key] for key in ("box", "mask", "by_class", "images", "seconds", "classes")
    }
    path.write_text(json.dumps({"step": 3, **old, "problems": []}))
    again = read_evaluation(path)
    assert again.mask == pytest.approx(measured_baseline[0].mask, abs=1e-4, nan_ok=True)
    assert (again.format, again.images_in_all) == (1, None)
    assert "mask" in again.table()


def test_an_annotation_file_is_not_replaced_by_figures(measured_baseline, scenes_folder, tmp_path):
    path = tmp_path / "instances_val2017.json"
    content = (scenes_folder / "annotations" / path.name).read_bytes()
    path.write_bytes(content)
    for write in (check_evaluation_file, lambda place: write_evaluation(place, measured_baseline[0])):
        with pytest.raises(UserError, match="is there already and holds no evaluation"):
            write(path)
    assert path.read_bytes() == content


def test_what_is_left_out_is_told(baseline, scenes, tmp_path):
    """In the table and in JSON: missing and unreadable images, broken annotations, categories without a class."""
    images = list(scenes[1].images)
    images[1] = replace(images[1], path=tmp_path / "gone.jpg")
    skipped = [
        Skipped("val.json, image 77 (x.jpg)", "image file is missing: not in val2017, 3 annotations dropped with it"),
        Skipped("val.json, annotation 5", "polygon with fewer than 3 points: part 0 has 1"),
        Skipped("val.json, annotation 6", "polygon with fewer than 3 points: part 0 has 2"),
    ]
    names = scenes[1].categories | {6: "\x1b[31mgnome"}
    notes = {"annotation ids begin again: numbered anew": 2}
    data = replace(scenes[1], images=images, skipped=skipped, categories=names, notes=notes)
    measured = evaluate(baseline, data)
    table = measured.table()
    for words in (
        "AP over 4 of 6 images",
        "left out: 1 images are missing",
        "left out: 1 images cannot be used",
        "left out: 2 annotations are broken: polygon with fewer than 3 points",
        "annotations are of categories that the detector lacks",
        "note: 2 × annotation ids begin again: numbered anew",
        "?[31mgnome",
    ):
        assert words in table
    assert "\x1b" not in table
    saved = measured.as_dict()
    assert saved["notes"] == notes
    assert (saved["images"], saved["images_in_all"]) == (4, 6)
    assert saved["left_out"]["missing_images"] == saved["left_out"]["unreadable_images"] == 1
    assert saved["left_out"]["broken_annotations"] == {"polygon with fewer than 3 points": 2}
    of_class = [a for i, r in enumerate(images) if i != 1 for a in r.annotations if a.category_id == 6]
    assert saved["left_out"]["annotations_without_class"] == len(of_class) > 0


FIGURES = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 1.0)
WHOLE = {"images": 1, "seconds": 1, "classes": 1, "problems": [], "by_class": {}, "box": FIGURES, "mask": FIGURES}
DAMAGED = [json.dumps({**WHOLE, "mask": {}}), json.dumps({**WHOLE, "images": {}})]
DAMAGED.append(json.dumps({**WHOLE, "notes": ["x"]}))
DAMAGED.append(json.dumps({**WHOLE, "by_class": {"cat": {"box": 10**400, "mask": 1}}}))  # larger than any float


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"box": 1}', "nothing", *DAMAGED])
def test_a_damaged_evaluation_is_a_clear_error(text, tmp_path):
    path = tmp_path / "evaluation-3.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"evaluation-3\.json: is no evaluation"):
        read_evaluation(path)


def test_nothing_is_printed(baseline, scenes, capfd):
    """hotcoco prints tables of its own."""
    evaluate(baseline, replace(scenes[1], images=scenes[1].images[:1]))
    shown = capfd.readouterr()
    assert shown.out == ""


# --- memory ---


def peak(work: Callable[[], object]) -> float:
    """Of what numpy and Python hold while `work` runs, megabytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_images_nor_hold_full_masks(squashing, tiny_network, scenes, tmp_path):
    """Images of 6 megapixels: a stack of one's 60 masks would be 360 MB, of 20 queries' probabilities 480 MB."""
    side_h, side_w = 2000, 3000
    Image.new("RGB", (side_w, side_h), (90, 120, 150)).save(tmp_path / "large.jpg")
    model = MaskFrozenDetr.build(squashing, tiny_network)

    def of(images: int) -> CocoData:
        records = [
            ImageRecord(k, tmp_path / "large.jpg", side_w, side_h, scenes[1].images[0].annotations)
            for k in range(images)
        ]
        return replace(scenes[1], images=records)

    two = peak(lambda: evaluate(model, of(2)))
    four = peak(lambda: evaluate(model, of(4)))
    assert two < 10 * side_h * side_w / 2**20, "half of a bool stack of one mask a query"
    assert four - two < 0.1 * two
