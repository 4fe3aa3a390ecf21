"""A run finds its detector again, and takes no other; what its description says is bounded before it takes memory."""

import contextlib
import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from synthetic_detections import scattered

from mask_frozen_detr import MaskFrozenDetr, UserError, load_detector
from mask_frozen_detr.cli import main
from mask_frozen_detr.cli.loading import load_model
from mask_frozen_detr.detectors import FAMILIES, FrozenDetector
from mask_frozen_detr.detectors.identity import hash_tensors, hash_weights

CONFIG_FILE, WEIGHTS_FILE = "mask_frozen_detr.json", "mask_network.safetensors"


@pytest.fixture(scope="module")
def trained(squashing_folder, tiny_network, tmp_path_factory) -> Path:
    """detector and runs/one, trained from within the folder by a relative path."""
    tree = tmp_path_factory.mktemp("trained")
    shutil.copytree(squashing_folder, tree / "detector")
    with contextlib.chdir(tree):
        scattered(load_detector("detector"), tiny_network).save_pretrained("runs/one")
    return tree


@pytest.fixture
def tree(trained, tmp_path, monkeypatch) -> Path:
    """A copy of `trained` that is where it was trained."""
    tree = tmp_path / "tree"
    shutil.copytree(trained, tree)
    place = {"absolute": str(tree / "detector"), "relative": "../../detector"}
    edit(tree / "runs/one" / CONFIG_FILE, detector_place=place)
    monkeypatch.chdir(tmp_path)
    return tree


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_relative_detector_is_found_from_anywhere_and_after_a_move(tree, tmp_path):
    assert MaskFrozenDetr.from_pretrained(tree / "runs/one").detector.info.identity.family == "rt_detr"
    moved = tree.rename(tmp_path / "moved")
    found = MaskFrozenDetr.from_pretrained(moved / "runs/one").detector
    assert found.info.path is not None
    assert found.info.path.resolve() == (moved / "detector").resolve()


def test_a_run_that_moved_alone_finds_the_detector_where_it_was(tree, tmp_path):
    (tmp_path / "far").mkdir()
    run = (tree / "runs/one").rename(tmp_path / "far/one")
    place = MaskFrozenDetr.from_pretrained(run).detector.info.path
    assert place is not None
    assert place.resolve() == (tree / "detector").resolve()


# What was written when: fields of the description, of its parts, and files, that earlier formats lack.
EARLIER = {
    "format 1": (("detector_place", "checksums", "max_detections"), (), ()),
    "format 1, before classes": (("detector_place", "checksums", "max_detections", "classes"), (), ()),
    "format 1, the first": (
        ("detector_place", "checksums", "max_detections", "classes"),
        ("stem_from",),
        ("stem_stride",),
    ),
}


@pytest.mark.parametrize("version", [*EARLIER, "format 2, before transformers' files"])
def test_runs_of_older_versions_load(version, tree, scenes):
    """Without place and checksums, with weights hashed over the model's state."""
    run = tree / "runs/one"
    photo = scenes[1].images[0].path
    expected = MaskFrozenDetr.from_pretrained(run).predict(photo, 0.01)
    assert len(expected) > 2
    for name in ("config.json", "preprocessor_config.json", "README.md"):
        (run / name).unlink()
    path = run / CONFIG_FILE
    saved = json.loads(path.read_text())
    saved.pop("network_checksum")
    if version in EARLIER:
        fields, network, shapes = EARLIER[version]
        parts = ((saved, fields), (saved["network"], network), (saved["shapes"], shapes))
        for part, keys in (*parts, (saved["detector"], ("scheme", "settings"))):
            for key in keys:
                part.pop(key, None)
        saved |= {"format": 1}
        saved["detector"]["weights"] = hash_weights(load_detector(tree / "detector").model)
        path.write_text(json.dumps(saved))
    again = MaskFrozenDetr.from_pretrained(run)
    found = again.predict(photo, 0.01)
    assert np.array_equal(found.masks, expected.masks)
    assert np.array_equal(found.scores, expected.scores)
    again.save_pretrained(tree / "runs/now")  # saved anew, it is of the current format
    assert json.loads((tree / "runs/now" / CONFIG_FILE).read_text())["format"] == 2
    saved["detector"]["weights"] = "0" * 64
    path.write_text(json.dumps(saved))
    with pytest.raises(UserError, match="has other weights"):
        MaskFrozenDetr.from_pretrained(run)


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("preprocessor_config.json", {"do_normalize": True}, "pre-processing .* has do_normalize True, in training it"),
        (
            "preprocessor_config.json",
            {"do_center_crop": True, "crop_size": {"height": 64, "width": 64}},
            "pre-processing .* has do_center_crop True, in training",
        ),
        ("config.json", {"id2label": {"0": "ring", "1": "disc", "2": "star"}}, "class 0 .* is 'ring', in training it"),
        ("config.json", {"num_queries": 19}, "its configuration|the configuration"),
        ("config.json", {"decoder_activation_function": "gelu"}, "the configuration"),
    ],
)
def test_what_decides_outputs_is_compared(file, changes, words, tree):
    edit(tree / "detector" / file, **changes)
    with pytest.raises(UserError, match=words):
        MaskFrozenDetr.from_pretrained(tree / "runs/one")


def test_what_an_older_version_did_not_note_is_said(tree):
    path = tree / "runs/one" / CONFIG_FILE
    saved = json.loads(path.read_text())
    for key in ("preprocessing", "class_names", "checksums"):
        del saved[key]
    path.write_text(json.dumps(saved))
    with pytest.warns(UserWarning, match="not compared: its class names, its pre-processing, the checksum of the mask"):
        MaskFrozenDetr.from_pretrained(tree / "runs/one")


def test_other_taps_are_another_detector(tree, monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(FAMILIES, "rt_detr", replace(FAMILIES["rt_detr"], stems={}))
    with pytest.raises(UserError, match="register_detector"):
        MaskFrozenDetr.from_pretrained(tree / "runs/one")


def test_a_flipped_bit_is_found_in_either_file_of_weights(tree):
    for path, words in (
        (tree / "runs/one" / WEIGHTS_FILE, "damaged"),
        (tree / "detector/model.safetensors", "weights"),
    ):
        data = bytearray(path.read_bytes())
        data[-5] ^= 4
        path.write_bytes(data)
        with pytest.raises(UserError, match=words):
            MaskFrozenDetr.from_pretrained(tree / "runs/one")
        data[-5] ^= 4
        path.write_bytes(data)
    MaskFrozenDetr.from_pretrained(tree / "runs/one")


def test_the_hash_is_over_the_files_tensors(tree):
    """So that the names of transformers' modules have no part in it."""
    weights = load_file(tree / "detector/model.safetensors")
    assert load_detector(tree / "detector").info.identity.weights == hash_tensors(weights)
    first, second = [name for name in weights if weights[name].shape == (16, 16)][:2]
    swapped = weights | {first: weights[second], second: weights[first]}
    assert hash_tensors(swapped) != hash_tensors(weights)


def test_device_and_prompt_reach_the_parts(tree):
    model = MaskFrozenDetr.from_pretrained(tree / "runs/one", device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    with pytest.raises(UserError, match="has classes of its own"):
        MaskFrozenDetr.from_pretrained(tree / "runs/one", prompt="cat.")


def test_prompt_and_revision_of_a_command_are_those_of_a_local_run_s_detector(tree, monkeypatch, capsys):
    """The run itself lies here and has no revision; its detector may lie on the hub."""
    asked = []

    def load(name: str, **options: Any) -> FrozenDetector:
        asked.append((name, options["revision"], options["prompt"]))
        return load_detector(tree / "detector")

    run, picture = str(tree / "runs/one"), str(tree / "a.png")
    Image.new("RGB", (64, 48)).save(picture)
    words = ["predict", run, picture, "--prompt", "cat.", "--output", str(tree / "out")]
    assert main(words) == 2  # by the detector that the run has, which is of this machine
    assert "has classes of its own" in capsys.readouterr().err
    monkeypatch.setattr("mask_frozen_detr.run.detector.load_detector", load)
    load_model(run, detector="me/detr", revision="v2", prompt="cat.")
    load_model(run, detector="me/detr")
    assert asked == [("me/detr", "v2", "cat."), ("me/detr", None, None)]


HOSTILE: dict[str, dict[str, Any]] = {
    "absurd widths": {"shapes": {"query_width": 900_000, "feature_widths": [900_000], "strides": [8], "stem_width": 8}},
    "numbers past all bounds": {"shapes": {"query_width": 10**30}},
    "negative": {"shapes": {"query_width": -16}},
    "no width": {"shapes": {"feature_widths": [], "strides": []}},
    "absurd strides": {"shapes": {"strides": [10**6, 16, 32]}},
    "strides of 0": {"shapes": {"strides": [0, 16, 32]}},
    "absurd classes": {"shapes": {"num_classes": 900_000}},
    "true for a number": {"shapes": {"query_width": True}},
    "an absurd roi": {"network": {"roi_size": 4096}},
    "another activation": {"network": {"box_activation": "relu"}},
    "text for a number": {"network": {"mask_width": "8"}},
    "an unknown encoder": {"network": {"image_encoder": "\x1b[31m"}},
    "a name that is a list": {"detector": {"name": ["x"]}},
    "a layer that is text": {"detector": {"encoder_layer": "4"}},
    "names that are numbers": {"class_names": [1, 2, 3]},
    "checksums that are a list": {"checksums": []},
    "a checksum that is a number": {"checksums": {WEIGHTS_FILE: 5}},
    "a place that is text": {"detector_place": "x"},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_descriptions(case, tree, squashing):
    path = tree / "runs/one" / CONFIG_FILE
    saved = json.loads(path.read_text())
    for key, value in HOSTILE[case].items():
        saved[key] = {**saved[key], **value} if isinstance(value, dict) and isinstance(saved.get(key), dict) else value
    path.write_text(json.dumps(saved))
    with pytest.raises(UserError) as error:
        MaskFrozenDetr.from_pretrained(tree / "runs/one")
    assert "runs/one" in str(error.value)
    assert "\x1b" not in str(error.value)


def test_a_field_of_the_network_that_is_gone_is_no_default(tree):
    """Its weights would fit all the same, and the masks be others."""
    path = tree / "runs/one" / CONFIG_FILE
    saved = json.loads(path.read_text())
    del saved["network"]["box_activation"]
    path.write_text(json.dumps(saved))
    with pytest.raises(UserError, match=r"is damaged.*network: is not what the run wrote"):
        MaskFrozenDetr.from_pretrained(tree / "runs/one")


# --- copies ---


def through_pickle(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("how", [copy.deepcopy, through_pickle])
@pytest.mark.parametrize("kind", ["squashing", "padding"])
def test_copies_work_by_themselves(kind, how, request, tiny_network, scenes):
    model = scattered(request.getfixturevalue(kind), tiny_network)
    photo = scenes[1].images[0].path
    expected = model.predict(photo, 0.0)
    other = how(model)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(0)  # nothing of the original is looked at any more
    found = other.predict(photo, 0.0)
    torch.testing.assert_close(torch.tensor(found.boxes), torch.tensor(expected.boxes), rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.tensor(found.scores), torch.tensor(expected.scores), rtol=0, atol=1e-5)


# --- partial fine-tuning ---


def learned(detector: FrozenDetector) -> set[str]:
    detector.unfreeze("partial")
    return {name for name, parameter in detector.model.named_parameters() if parameter.requires_grad}


def test_partial_is_encoder_and_decoder(squashing_folder, padding_folder):
    """Table 11. Literally, but for the numbers of layers."""
    found = {name.replace(".0.", ".N.").replace(".1.", ".N.") for name in learned(load_detector(padding_folder))}
    layer = ("weight", "bias")
    attention = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    both = ("self_attn_layer_norm", "mlp.fc1", "mlp.fc2", "final_layer_norm")
    assert {name.split(".")[1] for name in found} == {"encoder", "decoder"}
    encoder = {name.removeprefix("model.encoder.layers.N.") for name in found if name.startswith("model.encoder")}
    assert encoder == {f"{part}.{kind}" for part in (*(f"self_attn.{a}" for a in attention), *both) for kind in layer}
    squashing = learned(load_detector(squashing_folder))
    assert not [name for name in squashing if "class_embed" in name or "bbox_embed" in name]
    assert {".".join(name.split(".")[:3]) for name in squashing if name.startswith("model.decoder")} == {
        "model.decoder.layers",
        "model.decoder.query_pos_head",
    }
    assert {name.split(".")[1] for name in squashing} == {"encoder", "decoder"}
