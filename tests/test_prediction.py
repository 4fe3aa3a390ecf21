"""Pictures in, overlays and a COCO results file out; nothing overwritten, nothing lost to one bad file."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from synthetic_detections import scatter_parameters

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.prediction import PREDICTIONS_FILE, _output_names, predict_files

THRESHOLD = 0.05


@pytest.fixture(scope="module")
def model(squashing, tiny_network) -> MaskFrozenDetr:
    model = MaskFrozenDetr.build(squashing, tiny_network)
    scatter_parameters(model.network)
    return model


@pytest.fixture
def photos(scenes, tmp_path) -> Path:
    """A folder of three pictures of three kinds."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    images = [read_image(record.path) for record in scenes[1].images[:3]]
    images[0].save(folder / "a.jpg")
    images[1].save(folder / "b.png")
    images[2].save(folder / "more" / "c.webp")
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_overlays_and_results(model, photos, tmp_path):
    report = predict_files(model, [photos], tmp_path / "out", THRESHOLD)
    assert names(tmp_path / "out") == {"a.png", "b.png", "c.png", PREDICTIONS_FILE}
    saved = json.loads((tmp_path / "out" / PREDICTIONS_FILE).read_text())
    assert [image["file_name"] for image in saved["images"]] == [
        str(photos / name) for name in ("a.jpg", "b.png", "more/c.webp")
    ]
    assert saved["categories"] == [{"id": k, "name": name} for k, name in enumerate(["disc", "ring", "star"])]
    assert f"{len(saved['annotations'])} instances in 3 pictures, in {tmp_path / 'out'}" in report
    for entry in saved["images"]:
        found = model.predict(entry["file_name"], THRESHOLD)
        of_image = [one for one in saved["annotations"] if one["image_id"] == entry["id"]]
        assert len(of_image) == len(found) > 3
        masks = np.stack([coco_mask.decode(one["segmentation"]) for one in of_image]).astype(bool)
        assert np.array_equal(masks, found.masks)
        assert [one["category_id"] for one in of_image] == found.labels.tolist()
        with Image.open(tmp_path / "out" / f"{Path(entry['file_name']).stem}.png") as overlay:
            assert overlay.width >= entry["width"]
            assert overlay.tobytes() != read_image(entry["file_name"]).tobytes()


def test_probability_maps_on_request(model, photos, tmp_path):
    predict_files(model, [photos / "a.jpg"], tmp_path / "out", THRESHOLD, probability_maps=True, overlays=False)
    assert names(tmp_path / "out") == {"a.probabilities.png", PREDICTIONS_FILE}


@pytest.mark.parametrize("form", ["file", "folder", "glob", "two"])
def test_files_folders_and_globs(form, model, photos, tmp_path):
    inputs = {
        "file": ([photos / "b.png"], {"b.png"}),
        "folder": ([str(photos / "more")], {"c.png"}),
        "glob": ([f"{photos}/*.jpg"], {"a.png"}),
        "two": ([photos / "a.jpg", photos / "b.png", photos / "a.jpg"], {"a.png", "b.png"}),
    }[form]
    predict_files(model, inputs[0], tmp_path / "out", THRESHOLD)
    assert names(tmp_path / "out") == inputs[1] | {PREDICTIONS_FILE}


def test_bad_pictures_are_named_and_skipped(model, photos, tmp_path):
    (photos / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:-2500])
    (photos / "empty.png").touch()
    (photos / "text.webp").write_text("hello")
    report = predict_files(model, [photos], tmp_path / "out", THRESHOLD)
    assert names(tmp_path / "out") == {"a.png", "b.png", "c.png", PREDICTIONS_FILE}
    assert "in 3 pictures" in report
    for name in ("cut.jpg", "empty.png", "text.webp"):
        assert f"skipped: {photos / name}" in report


def test_not_one_readable_picture(model, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match=r"no picture could be read:\n.*text\.png"):
        predict_files(model, [tmp_path / "text.png"], tmp_path / "out")
    assert not (tmp_path / "out" / PREDICTIONS_FILE).exists()


def test_no_box_above_the_threshold_is_said(model, photos, tmp_path):
    report = predict_files(model, [photos], tmp_path / "out", 1.0, probability_maps=True)
    assert "0 instances in 3 pictures" in report
    assert f"no instance above 1.0 in 3, the first: {photos / 'a.jpg'}" in report
    saved = json.loads((tmp_path / "out" / PREDICTIONS_FILE).read_text())
    assert (len(saved["images"]), saved["annotations"]) == (3, [])
    assert names(tmp_path / "out") == {"a.png", "b.png", "c.png", PREDICTIONS_FILE}


# --- nothing is overwritten ---


def test_pictures_of_one_name_get_names_of_their_own(model, photos, tmp_path):
    (photos / "more" / "a.png").write_bytes((photos / "b.png").read_bytes())
    predict_files(model, [photos], tmp_path / "out", THRESHOLD)
    assert names(tmp_path / "out") == {"a.png", "a-2.png", "b.png", "c.png", PREDICTIONS_FILE}


@pytest.mark.parametrize(
    "paths",
    [
        ["a.jpg", "b/a.jpg", "a-2.jpg"],
        ["a-2.jpg", "a.jpg", "b/a.jpg", "c/a.jpg"],
        ["a.jpg", "a.probabilities.jpg"],
        ["a.probabilities.jpg", "a.jpg", "b/a.jpg"],
    ],
)
def test_no_two_outputs_meet(paths):
    found = _output_names([Path(path) for path in paths])
    written = [f"{name}{suffix}" for name in found for suffix in (".png", ".probabilities.png")]
    assert len(set(written)) == 2 * len(paths)
    assert found[0] == Path(paths[0]).stem


@pytest.mark.parametrize("how", ["the same folder", "by another way"])
def test_the_pictures_themselves_are_not_overwritten(how, model, photos):
    before = (photos / "b.png").read_bytes()
    output = photos if how == "the same folder" else photos / "more" / ".."
    with pytest.raises(UserError, match=r"b\.png: is one of the pictures to predict and would be overwritten"):
        predict_files(model, [photos], output, THRESHOLD)
    assert (photos / "b.png").read_bytes() == before
    assert names(photos) == {"a.jpg", "b.png", "more/c.webp"}


def test_jpegs_may_have_their_overlays_beside_them(model, photos):
    predict_files(model, [photos / "a.jpg"], photos, THRESHOLD)
    assert names(photos) == {"a.jpg", "a.png", "b.png", "more/c.webp", PREDICTIONS_FILE}


# --- where nothing can be written ---


def test_a_file_where_the_folder_should_be(model, photos, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="out: cannot make the output folder: File exists"):
        predict_files(model, [photos], tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk(code, model, photos, tmp_path, monkeypatch):
    real = os.replace

    def fail(source: object, target: object) -> None:
        if Path(str(target)).name == "b.png":
            raise OSError(code, os.strerror(code))
        real(source, target)

    monkeypatch.setattr("mask_frozen_detr.machine.files.os.replace", fail)
    with pytest.raises(UserError, match=rf"b\.png: cannot be written: {os.strerror(code)}"):
        predict_files(model, [photos], tmp_path / "out", THRESHOLD)
    assert names(tmp_path / "out") == {"a.png"}, "what was written is whole; no torso"
