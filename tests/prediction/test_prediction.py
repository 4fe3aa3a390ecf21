"""`predict`: overlays, a COCO data set, what is told, and where nothing can be written."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predicted import OWN, THRESHOLD, names, read
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torchvision.datasets import CocoDetection

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.machine.locks import FolderLock
from mask_frozen_detr.prediction.files import PREDICTIONS_FILE, predict_files
from mask_frozen_detr.results.prediction_files import RESULTS_FILE


def test_overlays_and_results(model, photos, tmp_path):
    report = predict_files(model, [photos], tmp_path / "out", THRESHOLD)
    assert names(tmp_path / "out") == {"a.png", "b.png", "c.png"} | OWN
    saved = read(tmp_path / "out")
    assert [image["file_name"] for image in saved["images"]] == ["a.jpg", "b.png", "more/c.webp"]
    assert [image["id"] for image in saved["images"]] == [1, 2, 3]
    assert saved["categories"] == [{"id": k, "name": name} for k, name in enumerate(["disc", "ring", "star"])]
    assert f"{len(saved['annotations'])} instances in 3 pictures, in {tmp_path / 'out'}" in report
    for entry in saved["images"]:
        found = model.predict(photos / entry["file_name"], THRESHOLD)
        of_image = [one for one in saved["annotations"] if one["image_id"] == entry["id"]]
        assert len(of_image) == len(found) > 3
        masks = np.stack([coco_mask.decode(one["segmentation"]) for one in of_image]).astype(bool)
        assert np.array_equal(masks, found.masks)
        assert [one["category_id"] for one in of_image] == found.labels.tolist()
        with Image.open(tmp_path / "out" / f"{Path(entry['file_name']).stem}.png") as overlay:
            assert overlay.size == (entry["width"], entry["height"])
            assert overlay.tobytes() != read_image(photos / entry["file_name"]).tobytes()


def test_others_read_it(model, photos, tmp_path, capsys):
    """pycocotools with `loadRes`, torchvision and this tool."""
    turned = read_image(photos / "a.jpg").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(photos / "turned.png", exif=exif)
    out = tmp_path / "out"
    predict_files(model, [photos], out, THRESHOLD)
    coco = COCO(str(out / PREDICTIONS_FILE))
    assert len(coco.getImgIds()) == 4
    annotations = coco.loadAnns(coco.getAnnIds())
    assert sorted(entry["id"] for entry in annotations) == list(range(1, len(annotations) + 1))
    for entry in annotations:
        assert entry["area"] == coco.annToMask(entry).sum()
        assert (entry["iscrowd"], len(entry["bbox"])) == (0, 4)
        image = coco.imgs[entry["image_id"]]
        assert entry["segmentation"]["size"] == [image["height"], image["width"]]
    upright = next(image for image in coco.imgs.values() if image["file_name"] == "turned.png")
    assert (upright["width"], upright["height"]) == read_image(photos / "turned.png").size != turned.size

    results = coco.loadRes(str(out / RESULTS_FILE))
    assert len(results.anns) == len(annotations)
    assert [results.anns[k + 1]["image_id"] for k in range(3)] == [entry["image_id"] for entry in annotations[:3]]
    assert all(found["area"] == coco.anns[k]["area"] for k, found in results.anns.items()), "of masks, not of boxes"

    dataset = CocoDetection(str(photos), str(out / PREDICTIONS_FILE))
    picture, entries = dataset[0]
    assert picture.size == (coco.imgs[1]["width"], coco.imgs[1]["height"])
    assert len(entries) == len(coco.getAnnIds(imgIds=[1]))

    data = load_split(out / PREDICTIONS_FILE, "val")
    assert [record.path.resolve() for record in data.images] == [
        photos / name for name in ("a.jpg", "b.png", "more/c.webp", "turned.png")
    ]
    assert sum(len(record.annotations) for record in data.images) == sum(entry["area"] > 0 for entry in annotations)


def test_other_formats_and_chosen_classes(model, photos, tmp_path):
    """Exports hold what predictions.json holds, also when an interrupted or earlier call had done the pictures."""
    everything = tmp_path / "all"
    predict_files(model, [photos], everything, 0.0, overlays=False)
    name = next(entry["name"] for entry in json.loads((everything / PREDICTIONS_FILE).read_text())["categories"])
    out = tmp_path / "out"
    predict_files(model, [photos], out, 0.0, overlays=False, classes=[name.upper()])
    predict_files(model, [photos], out, 0.0, overlays=False, classes=[name], formats=["coco", "masks", "labelme"])
    written = json.loads((out / PREDICTIONS_FILE).read_text())
    known = {entry["id"]: entry["name"] for entry in written["categories"]}
    assert {known[entry["category_id"]] for entry in written["annotations"]} == {name}
    listed = json.loads((out / "masks" / "masks.json").read_text())
    assert [entry["class"] for entry in listed] == [name] * len(written["annotations"])
    assert len(list((out / "labelme").glob("*.json"))) == len(written["images"])
    with pytest.raises(UserError, match=r"classes: found zebra, expected some of"):
        predict_files(model, [photos], out, classes=["zebra"])


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_and_threads_change_nothing(workers, model, photos, tmp_path):
    alone, out = tmp_path / "alone", tmp_path / "out"
    predict_files(model, [photos], alone, THRESHOLD, workers=0)
    predict_files(model, [photos], out, THRESHOLD, batch=2, workers=workers)
    assert names(out) == names(alone)
    for one, other in zip(read(alone)["annotations"], read(out)["annotations"], strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert other["bbox"] == pytest.approx(one["bbox"], abs=1e-2), "but for the order in which a batch adds"
        assert other["score"] == pytest.approx(one["score"], abs=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_pictures_side_by_side_are_those_one_after_the_other(half, model, photos, tmp_path, monkeypatch):
    """Two threads of torch's see two pictures at once, each in one: to the bit what one thread makes of them."""
    seen: dict[int, set[int]] = {}  # of each model, torch's threads
    real = MaskFrozenDetr.predict_prepared

    def predict(self, *arguments):
        seen.setdefault(id(self), set()).add(torch.get_num_threads())
        return real(self, *arguments)

    monkeypatch.setattr(MaskFrozenDetr, "predict_prepared", predict)
    with torch.autocast("cpu", enabled=half):
        predict_files(model, [photos], tmp_path / "alone", THRESHOLD)
        assert seen == {id(model): {1}}
        with two_threads():
            predict_files(model, [photos], tmp_path / "two", THRESHOLD, workers=2)
            assert torch.get_num_threads() == 2
    assert len(seen) == 2
    assert set().union(*seen.values()) == {1}
    assert contents(tmp_path / "two") == contents(tmp_path / "alone")


@contextmanager
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("half", [False, True])
def test_pictures_in_forked_processes_are_those_one_after_the_other(half, model, photos, tmp_path):
    with torch.autocast("cpu", enabled=half):
        predict_files(model, [photos], tmp_path / "alone", THRESHOLD)
        with two_threads():
            predict_files(model, [photos], tmp_path / "two", THRESHOLD)
    assert contents(tmp_path / "two") == contents(tmp_path / "alone")


def test_who_is_forked(model, monkeypatch):
    """Not with one thread, not with large batches, not where a system has no safe fork."""
    assert model.forks(1) == 0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr("mask_frozen_detr.machine.forks.usable_cores", lambda: 2)
    assert model.forks(1) == 2, "a core each"
    monkeypatch.setattr("mask_frozen_detr.machine.forks.usable_cores", lambda: 64)
    assert model.forks(1) == 3
    assert model.forks(1000) == 0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert model.forks(1) == 16
    monkeypatch.setattr("sys.platform", "darwin")
    assert model.forks(1) == 0


def test_a_full_disk_of_a_forked_process(model, photos, tmp_path, monkeypatch):
    def fail(source: Path, target: Path) -> None:
        if target.suffix == ".png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.rename(source, target)

    monkeypatch.setattr("mask_frozen_detr.machine.files.os.replace", fail)
    with two_threads(), pytest.raises(UserError, match=r"a\.png: cannot be written: No space left on device"):
        predict_files(model, [photos], tmp_path / "out", THRESHOLD)
    assert not list((tmp_path / "out").glob("*.png"))


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


def test_who_computes_side_by_side(model):
    """Not one thread, not large batches; the copy has the model's own weights."""
    assert model.side_by_side(1) == [model]
    with two_threads():
        one, other = model.side_by_side(1)
        assert model.side_by_side(1000) == [model]
    assert one is model
    assert other.detector.model is not model.detector.model
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(theirs.data_ptr() == ours.data_ptr() for ours, theirs in pairs)


def test_a_model_that_cannot_be_copied_computes_alone(model, monkeypatch):
    monkeypatch.setattr(type(model.detector), "__deepcopy__", lambda self, memo: 1 / 0, raising=False)
    with two_threads():
        assert model.side_by_side(1) == [model]


@pytest.mark.parametrize(("option", "value"), [("batch", 0), ("workers", -2)])
def test_batches_and_threads_that_make_no_sense(option, value, model, photos, tmp_path):
    with pytest.raises(UserError, match=f"{option}: found {value}"):
        predict_files(model, [photos], tmp_path / "out", THRESHOLD, **{option: value})


def test_one_picture_and_pictures_of_several_folders(model, photos, tmp_path):
    predict_files(model, [photos / "more" / "c.webp"], tmp_path / "one", THRESHOLD)
    assert [image["file_name"] for image in read(tmp_path / "one")["images"]] == ["c.webp"]
    predict_files(model, [photos / "more" / "c.webp", photos / "a.jpg"], tmp_path / "two", THRESHOLD)
    assert [image["file_name"] for image in read(tmp_path / "two")["images"]] == ["more/c.webp", "a.jpg"]
    assert not Path(read(tmp_path / "two")["info"]["image_root"]).is_absolute()


# --- where nothing can be written ---


def test_two_calls_into_one_folder(model, photos, tmp_path):
    out = tmp_path / "out"
    lock = FolderLock(out)
    with pytest.raises(UserError, match="out: another run or `predict` is working in it"):
        predict_files(model, [photos], out, THRESHOLD)
    lock.release()
    assert not out.exists(), "it was made for the lock"
    predict_files(model, [photos], out, THRESHOLD)
    assert {path.name for path in out.iterdir()} == {"a.png", "b.png", "c.png"} | OWN


def test_a_file_where_the_folder_should_be(model, photos, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="out: cannot work in this folder: File exists"):
        predict_files(model, [photos], tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk(code, model, photos, tmp_path, monkeypatch):
    real = os.replace

    def fail(source: Path, target: Path) -> None:
        if target.name == "b.png":
            raise OSError(code, os.strerror(code))
        real(source, target)

    monkeypatch.setattr("mask_frozen_detr.machine.files.os.replace", fail)
    with pytest.raises(UserError, match=rf"b\.png: cannot be written: {os.strerror(code)}"):
        predict_files(model, [photos], tmp_path / "out", THRESHOLD, workers=0)
    assert names(tmp_path / "out") == {"a.png"} | OWN, "what was written is whole; nothing unfinished"
    assert [image["file_name"] for image in read(tmp_path / "out")["images"]] == ["a.jpg"]


def test_a_format_of_overlays_that_nobody_draws(photos, tmp_path, refused):
    arguments = ["predict", "no-run", photos, "--output", tmp_path / "out", "--overlay-format", "jpg", "--no-overlays"]
    assert "--overlay-format jpg: found --no-overlays" in refused(*arguments)
    assert "no-run" in refused(*arguments, "--probability-maps"), "which are drawn"
