"""A saved model gives what it gave; damage is named."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from same_instances import THRESHOLD, change, same
from synthetic_detections import scattered
from tiny_detectors import build_squashing_detector

from mask_frozen_detr import MaskFrozenDetr, UserError, load_detector
from mask_frozen_detr.detectors.base import DetectorShapes
from mask_frozen_detr.model import CONFIG_FILE, WEIGHTS_FILE
from mask_frozen_detr.run.card import CARD_FILE
from mask_frozen_detr.run.transformers_names import TRANSFORMERS_FILES

# --- round trip ---


def test_a_loaded_model_gives_the_same_masks_to_the_bit(model, saved_model, photo):
    assert {path.name for path in saved_model.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, *TRANSFORMERS_FILES, CARD_FILE}
    again = MaskFrozenDetr.from_pretrained(saved_model)
    assert again.network.config == model.network.config
    assert again.network.shapes == model.network.shapes
    assert not again.network.training
    first, second = model.predict(photo, THRESHOLD), again.predict(photo, THRESHOLD)
    assert len(first) > 10
    assert first.masks.any()
    assert same(first, second)


def test_the_detectors_weights_stay_where_they_are(model, saved_model):
    kept = load_file(saved_model / WEIGHTS_FILE)
    assert set(kept) == set(model.network.state_dict())
    content = json.loads((saved_model / CONFIG_FILE).read_text())
    assert content["detector"]["weights"] == model.detector.info.identity.weights
    assert content["class_names"] == ["disc", "ring", "star"]
    assert content["preprocessing"]["size"] == {"height": 96, "width": 96}


def test_any_file_mode_is_readable(saved_model):
    """safetensors writes files that only their owner may read."""
    assert (saved_model / WEIGHTS_FILE).stat().st_mode & 0o044 == (saved_model / CONFIG_FILE).stat().st_mode & 0o044


@pytest.mark.parametrize("how", ["folder", "path", "loaded"])
def test_a_moved_detector(how, model, saved_model, squashing_folder, squashing, photo, tmp_path):
    if how == "loaded":
        place = squashing
    else:
        place = shutil.copytree(squashing_folder, tmp_path / "moved")
        place = str(place) if how == "folder" else place
    assert same(
        MaskFrozenDetr.from_pretrained(saved_model, place).predict(photo, THRESHOLD), model.predict(photo, THRESHOLD)
    )


def test_a_detector_that_is_gone(copied_model):
    content = json.loads((copied_model / CONFIG_FILE).read_text())
    content["detector"]["name"] = str(copied_model / "nowhere")
    content["detector_place"] = {"absolute": str(copied_model / "nowhere"), "relative": "nowhere"}
    (copied_model / CONFIG_FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"nowhere' cannot be loaded; name its place with --detector"):
        MaskFrozenDetr.from_pretrained(copied_model)


def test_a_detector_with_other_weights(saved_model, tmp_path):
    other = build_squashing_detector(tmp_path / "other", seed=1)
    for place in (other, load_detector(str(other))):
        with pytest.raises(
            UserError, match=r"belongs to detector .*squashing.*has other weights.*masks would be wrong"
        ):
            MaskFrozenDetr.from_pretrained(saved_model, place)


def test_the_maps_of_another_encoder_layer(padding_folder, tiny_network, tmp_path, photo):
    first = load_detector(str(padding_folder), encoder_layer=1)
    model = scattered(first, tiny_network)
    model.save_pretrained(tmp_path / "run")
    again = MaskFrozenDetr.from_pretrained(tmp_path / "run")
    assert same(again.predict(photo, THRESHOLD), model.predict(photo, THRESHOLD))
    with pytest.raises(UserError, match="trained on the maps of encoder layer 1, found those of layer 2"):
        MaskFrozenDetr.from_pretrained(tmp_path / "run", load_detector(str(padding_folder)))


# --- damage ---


DAMAGE = {
    "weights gone": (WEIGHTS_FILE, lambda path: path.unlink(), "weights are missing"),
    "weights cut short": (
        WEIGHTS_FILE,
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        "are damaged: the file is not what was written",
    ),
    "weights empty": (WEIGHTS_FILE, lambda path: path.write_bytes(b""), "cannot be read"),
    "weights of another network": (
        WEIGHTS_FILE,
        lambda path: save_file({"x": torch.zeros(1)}, path),
        "of another mask network",
    ),
    "no JSON": (CONFIG_FILE, lambda path: path.write_text("{"), "is damaged"),
    "not text": (CONFIG_FILE, lambda path: path.write_bytes(b"\xff\xfe\x00"), "is damaged"),
    "a list": (CONFIG_FILE, lambda path: path.write_text("[]"), "is damaged"),
    "empty": (CONFIG_FILE, lambda path: path.write_text("{}"), "is damaged"),
    "format is text": (CONFIG_FILE, lambda path: change(path, format="one"), "is damaged"),
    "format of the future": (CONFIG_FILE, lambda path: change(path, format=99), "newer version"),
    "no detector": (CONFIG_FILE, lambda path: change(path, detector=None), "is damaged"),
    "a detector's field is missing": (CONFIG_FILE, lambda path: change(path, detector={"name": "x"}), "is damaged"),
    "no shapes": (CONFIG_FILE, lambda path: change(path, shapes=[]), "is damaged"),
    "unknown option": (CONFIG_FILE, lambda path: change(path, network={"depth": 3}), "is damaged"),
    "impossible option": (CONFIG_FILE, lambda path: change(path, network={"roi_size": 30}), "is damaged.*roi_size"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_runs(damage, copied_model, squashing):
    name, spoil, words = DAMAGE[damage]
    spoil(copied_model / name)
    with pytest.raises(UserError, match=words) as error:
        MaskFrozenDetr.from_pretrained(copied_model, squashing)
    assert str(copied_model / name) in str(error.value)


@pytest.mark.parametrize("kind", ["a detector", "an empty folder", "a file", "nothing"])
def test_what_is_no_run(kind, squashing_folder, tmp_path):
    place = {
        "a detector": squashing_folder,
        "an empty folder": tmp_path,
        "a file": squashing_folder / "config.json",
        "nothing": tmp_path / "nowhere",
    }[kind]
    with pytest.raises(UserError, match=rf"{place}: no {CONFIG_FILE} in it, expected a run folder"):
        MaskFrozenDetr.from_pretrained(place)


def test_parts_that_do_not_fit_the_detector(squashing, monkeypatch):
    monkeypatch.setattr(type(squashing), "shapes", DetectorShapes(24, (16, 16, 16), (8, 16, 32), 8, 3))
    with pytest.raises(UserError, match=r"squashing: .*queries have width 24, its features 16"):
        MaskFrozenDetr.training_free(squashing)


def test_nothing_is_written_where_nothing_may_be(model, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "a file"


def test_a_network_goes_where_its_detector_lies(squashing, tiny_network):
    """A detector that has been trained on lies on the GPU; here another device stands for that."""
    detector = copy.deepcopy(squashing).to("meta")
    model = MaskFrozenDetr.build(detector, tiny_network)
    assert {parameter.device.type for parameter in model.network.parameters()} == {"meta"}
