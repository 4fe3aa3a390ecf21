"""`predict`, interrupted and called again: it goes on, and nothing of others is overwritten."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from predicted import OWN, THRESHOLD, names, read
from pycocotools.coco import COCO
from synthetic_detections import scatter_parameters

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.prediction import files
from mask_frozen_detr.prediction.files import PREDICTIONS_FILE, predict_files
from mask_frozen_detr.results.prediction_files import RESULTS_FILE, save_own_picture

# --- interrupted, and again ---


class Stop(BaseException):
    """As KeyboardInterrupt, which pytest would take for its own."""


def test_an_interrupted_call_leaves_files_and_goes_on(model, photos, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict_files(model, [photos], whole, THRESHOLD)
    asked = count_predictions(monkeypatch, stop_at=3)
    with pytest.raises(Stop):
        predict_files(model, [photos], out, THRESHOLD)
    assert [image["file_name"] for image in read(out)["images"]] == ["a.jpg", "b.png"]
    assert len(COCO(str(out / PREDICTIONS_FILE)).loadRes(str(out / RESULTS_FILE)).anns) > 3
    asked.clear()
    report = predict_files(model, [photos], out, THRESHOLD)
    assert len(asked) == 1
    assert "2 of them had been done before" in report
    assert {name: (out / name).read_bytes() for name in names(out)} == {
        name: (whole / name).read_bytes() for name in names(whole)
    }


def count_predictions(monkeypatch, stop_at: int = 0) -> list[object]:
    asked: list[object] = []
    real = MaskFrozenDetr.predict_prepared

    def predict(self, pictures, *arguments, **options):
        asked.extend(pictures)
        if len(asked) == stop_at:
            raise Stop
        return real(self, pictures, *arguments, **options)

    monkeypatch.setattr(MaskFrozenDetr, "predict_prepared", predict)
    return asked


def test_only_what_has_changed_is_done_again(model, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict_files(model, [photos], out, THRESHOLD)
    before = {name: (out / name).read_bytes() for name in names(out)}
    asked = count_predictions(monkeypatch)
    predict_files(model, [photos], out, THRESHOLD)
    assert (len(asked), {name: (out / name).read_bytes() for name in names(out)}) == (0, before)

    Image.new("RGB", (90, 70), "red").save(photos / "b.png")
    (out / "a.png").unlink()
    predict_files(model, [photos], out, THRESHOLD)
    assert len(asked) == 2
    assert [image["width"] for image in read(out)["images"]][1] == 90

    (photos / "b.png").write_text("no picture any more")
    assert "skipped" in predict_files(model, [photos], out, THRESHOLD)
    assert [image["file_name"] for image in read(out)["images"]] == ["a.jpg", "more/c.webp"]


@pytest.mark.parametrize("what", ["threshold", "detections", "weights"])
def test_other_settings_do_all_anew(what, model, squashing, tiny_network, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict_files(model, [photos], out, THRESHOLD)
    other: MaskFrozenDetr = model
    options: dict[str, Any] = {"score_threshold": THRESHOLD}
    if what == "threshold":
        options["score_threshold"] = 0.06
    elif what == "detections":
        options["max_detections"] = 5
    else:
        other = MaskFrozenDetr.build(squashing, tiny_network)
        scatter_parameters(other.network, seed=1)
    asked = count_predictions(monkeypatch)
    report = predict_files(other, [photos], out, **options)
    assert len(asked) == 3
    word = {"threshold": "score_threshold", "detections": "max_detections", "weights": "mask_network"}[what]
    assert f"all made anew, since settings have changed: {word} was" in report
    fresh = tmp_path / "fresh"
    predict_files(other, [photos], fresh, **options)
    assert (out / PREDICTIONS_FILE).read_bytes() == (fresh / PREDICTIONS_FILE).read_bytes()


def test_more_pictures_are_added(model, photos, tmp_path):
    out = tmp_path / "out"
    predict_files(model, [photos / "b.png"], out, THRESHOLD)
    predict_files(model, [photos / "more"], out, THRESHOLD)
    assert [image["file_name"] for image in read(out)["images"]] == ["more/c.webp", "b.png"]


def test_probability_maps_on_request(model, photos, tmp_path):
    predict_files(model, [photos / "a.jpg"], tmp_path / "out", THRESHOLD, probability_maps=True, overlays=False)
    assert names(tmp_path / "out") == {"a.probabilities.png"} | OWN


@pytest.mark.parametrize("form", ["file", "folder", "glob", "two"])
def test_files_folders_and_globs(form, model, photos, tmp_path):
    inputs = {
        "file": ([photos / "b.png"], {"b.png"}),
        "folder": ([str(photos / "more")], {"c.png"}),
        "glob": ([f"{photos}/*.jpg"], {"a.png"}),
        "two": ([photos / "a.jpg", photos / "b.png", photos / "a.jpg"], {"a.png", "b.png"}),
    }[form]
    predict_files(model, inputs[0], tmp_path / "out", THRESHOLD)
    assert names(tmp_path / "out") == inputs[1] | OWN


def test_bad_pictures_are_named_and_skipped(model, photos, tmp_path):
    (photos / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:-2500])
    (photos / "empty.png").touch()
    (photos / "text.webp").write_text("hello")
    report = predict_files(model, [photos], tmp_path / "out", THRESHOLD)
    assert names(tmp_path / "out") == {"a.png", "b.png", "c.png"} | OWN
    assert "in 3 pictures" in report
    for name in ("cut.jpg", "empty.png", "text.webp"):
        assert f"skipped: {photos / name}" in report


def test_odd_files_among_the_pictures(model, photos, tmp_path):
    """Too thin for any pre-processing, a pipe, a folder of a picture's name, a name that is no Unicode, other kinds."""
    Image.new("RGB", (6000, 2)).save(photos / "flat.png")
    os.mkfifo(photos / "pipe.png")
    (photos / "zero.jpg").symlink_to("/dev/zero")
    (photos / "folder.png").mkdir()
    odd = os.fsencode(photos) + b"/\xff\xfe.png"
    with open(odd, "wb") as file:
        file.write((photos / "b.png").read_bytes())
    (photos / f"{'n' * 245}.png").write_bytes((photos / "b.png").read_bytes())
    (photos / "esc\x1b[31m.png").write_bytes((photos / "b.png").read_bytes())
    for name in ("x.heic", "y.HEIC", "film.mp4", "notes"):
        (photos / name).touch()
    report = predict_files(model, [photos], tmp_path / "out", THRESHOLD)
    assert f"skipped: {photos / 'pipe.png'}: is no file that can be read" in report
    assert "zero.jpg: is no file that can be read" in report
    assert "its name is not valid Unicode; rename it" in report
    assert "not read: 2 × .heic, 1 × .mp4, 1 × no suffix" in report
    assert "\x1b" not in report
    found = {image["file_name"] for image in read(tmp_path / "out")["images"]}
    assert {"a.jpg", "b.png", "more/c.webp", f"{'n' * 245}.png", "esc\x1b[31m.png"} <= found
    assert all("\x1b" not in name for name in names(tmp_path / "out"))
    assert ("flat.png" in found) != ("flat.png" in report)


@pytest.mark.parametrize(
    "where", ["read_image", "draw_instances", "save_own_picture", "MaskFrozenDetr.predict_prepared"]
)
def test_whatever_fails_on_a_picture_is_one_line(where, model, photos, tmp_path, monkeypatch):
    error = MemoryError() if where == "MaskFrozenDetr.predict_prepared" else RuntimeError("odd\nthing")
    owner, _, name = where.rpartition(".")
    target = MaskFrozenDetr if owner else files
    real, calls = getattr(target, name), iter(range(3))

    def fail(*arguments, **options):
        if next(calls) == 1:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(target, name, fail)
    report = predict_files(model, [photos], tmp_path / "out", THRESHOLD, workers=1)  # one: they fail in order
    words = "not enough memory" if isinstance(error, MemoryError) else "RuntimeError: odd"
    assert f"skipped: {photos / 'b.png'}: {words}" in report.splitlines()
    assert [image["file_name"] for image in read(tmp_path / "out")["images"]] == ["a.jpg", "more/c.webp"]


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
    assert names(tmp_path / "out") == {"a.png", "b.png", "c.png"} | OWN


# --- nothing is overwritten ---


def test_pictures_of_one_name_get_names_of_their_own(model, photos, tmp_path):
    (photos / "more" / "a.png").write_bytes((photos / "b.png").read_bytes())
    predict_files(model, [photos], tmp_path / "out", THRESHOLD)
    assert names(tmp_path / "out") == {"a.png", "a-2.png", "b.png", "c.png"} | OWN


@pytest.mark.parametrize(
    "paths",
    [
        ["a.jpg", "b/a.jpg", "a-2.jpg"],
        ["a-2.jpg", "a.jpg", "b/a.jpg", "c/a.jpg"],
        ["a.jpg", "a.probabilities.jpg"],
        ["a.probabilities.jpg", "a.jpg", "b/a.jpg"],
        ["A.jpg", "b/a.jpg"],
    ],
)
def test_no_two_outputs_meet(paths, model, tmp_path):
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (len(path) * 9, 0, 0)).save(tmp_path / path)
    predict_files(model, [tmp_path / path for path in paths], tmp_path / "out", 0.0, probability_maps=True)
    assert len(names(tmp_path / "out")) == 2 * len(paths) + 2
    assert read(tmp_path / "out")["images"][0]["overlay"] == Path(paths[0]).stem


@pytest.mark.parametrize("name", ["predictions.json", "results.json", "b.png", "a.probabilities.png"])
@pytest.mark.parametrize("kind", ["a file", "a link", "nothing"])
def test_what_is_foreign_stays(name, kind, model, photos, tmp_path):
    """Refused before any work; a link is not followed either."""
    out = tmp_path / "out"
    out.mkdir()
    other = tmp_path / "other"
    other.write_text("[]")
    if kind == "a link":
        (out / name).symlink_to(other)
    else:
        (out / name).write_text("[]" if kind == "a file" else "")
    before = (out / name).read_bytes()
    with pytest.raises(UserError, match=rf"{re.escape(name)}: is there already and was not (written|drawn) by"):
        predict_files(model, [photos], out, THRESHOLD, probability_maps=True)
    assert names(out) == {name}
    assert (out / name).read_bytes() == before
    assert other.read_text() == "[]"


def test_results_that_have_been_edited_stay(model, photos, tmp_path):
    out = tmp_path / "out"
    predict_files(model, [photos], out, THRESHOLD)
    (out / RESULTS_FILE).write_text("[]")
    with pytest.raises(UserError, match=r"results\.json: is there already"):
        predict_files(model, [photos], out, 0.5)
    assert (out / RESULTS_FILE).read_text() == "[]"


def test_own_pictures_are_no_input(model, photos, monkeypatch):
    """With the output among the pictures, and with overlays that were carried elsewhere."""
    (photos / "b.png").unlink()
    first = predict_files(model, [photos], photos / "out", THRESHOLD, probability_maps=True)
    assert "left out" not in first
    (photos / "copy.png").write_bytes((photos / "out" / "a.png").read_bytes())
    asked = count_predictions(monkeypatch)
    second = predict_files(model, [photos], photos / "out", THRESHOLD, probability_maps=True)
    assert "left out: 5 pictures that predict itself has drawn" in second
    assert "not read" not in second
    assert not asked
    with pytest.raises(UserError, match="holds nothing but pictures that predict itself has drawn"):
        predict_files(model, [photos / "out" / "a.png"], photos / "out2", THRESHOLD)


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
    assert names(photos) == {"a.jpg", "a.png", "b.png", "more/c.webp"} | OWN


def test_overlays_as_jpegs(model, photos, tmp_path, monkeypatch):
    """Small, close to the lossless ones, known again, and no input of the next call."""
    predict_files(model, [photos], tmp_path / "png", THRESHOLD, probability_maps=True)
    out = photos / "out"
    predict_files(model, [photos], out, THRESHOLD, probability_maps=True, overlay_format="jpg")
    drawn = {name.replace(".png", ".jpg") for name in names(tmp_path / "png")}
    assert names(out) == drawn
    for name in sorted(drawn - OWN):
        lossy, whole = Image.open(out / name), Image.open(tmp_path / "png" / name.replace(".jpg", ".png"))
        assert (lossy.format, lossy.size) == ("JPEG", whole.size)
        assert np.abs(np.asarray(lossy, np.int16) - np.asarray(whole.convert("RGB"), np.int16)).mean() < 5
    asked = count_predictions(monkeypatch)
    report = predict_files(model, [photos], out, THRESHOLD, probability_maps=True, overlay_format="jpg")
    assert not asked
    assert f"left out: {len(drawn - OWN)} pictures that predict itself has drawn" in report
    (out / "a.jpg").unlink()
    predict_files(model, [photos], out, THRESHOLD, probability_maps=True, overlay_format="jpg")
    assert len(asked) == 1
    assert names(out) == drawn


def test_another_overlay_format_draws_anew_and_leaves_what_is_there(model, photos, tmp_path):
    out = tmp_path / "out"
    predict_files(model, [photos / "a.jpg"], out, THRESHOLD)
    predict_files(model, [photos / "a.jpg"], out, THRESHOLD, overlay_format="jpg")
    assert names(out) == {"a.png", "a.jpg"} | OWN


def test_a_jpeg_overlay_never_takes_a_pictures_place(model, photos):
    with pytest.raises(UserError, match=r"a\.jpg: is one of the pictures to predict and would be overwritten"):
        predict_files(model, [photos / "a.jpg"], photos, THRESHOLD, overlay_format="jpg")
    out = photos / "out"
    out.mkdir()
    (photos / "a.jpg").rename(out / "b.jpg")
    before = (out / "b.jpg").read_bytes()
    with pytest.raises(UserError, match=r"b\.jpg: is there already and was not drawn by predict"):
        predict_files(model, [photos / "b.png"], out, THRESHOLD, overlay_format="jpg")
    assert (out / "b.jpg").read_bytes() == before


def test_an_overlay_format_that_is_none(model, photos, tmp_path):
    with pytest.raises(UserError, match=r"overlay_format: found 'gif', expected 'png', 'jpg'"):
        predict_files(model, [photos], tmp_path / "out", overlay_format="gif")  # type: ignore[arg-type]


def test_what_no_jpeg_can_hold_is_said(tmp_path):
    with pytest.raises(UserError, match="has 65501 × 1 pixels, of which a JPEG takes 65500 a side; expected png"):
        save_own_picture(Image.new("RGB", (65_501, 1)), tmp_path / "a.jpg")
    assert not names(tmp_path)
