"""Detectors, runs and outputs that will not do: one clear message, exit code 2, no traceback, nothing half-written."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from mask_frozen_detr.cli import main
from mask_frozen_detr.model import CONFIG_FILE, WEIGHTS_FILE

# --- bad detectors ---


def vit(folder: Path) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, **sizes)).save_pretrained(folder)


def resnet(folder: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(folder)


def copied(source: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


DETECTORS: dict[str, tuple[Callable[[Path, Path], object], list[str]]] = {
    "an empty folder": (lambda source, folder: folder.mkdir(), ["config.json"]),
    "a folder of other things": (lambda source, folder: os.makedirs(folder / "x"), ["config.json"]),
    "nothing": (lambda source, folder: None, ["no such folder or hub model"]),
    "a ViT": (lambda source, folder: vit(folder), ["'vit'", "expected one of", "deformable_detr"]),
    "a ResNet": (lambda source, folder: resnet(folder), ["'resnet'", "expected one of", "rt_detr"]),
    "without weights": (
        lambda source, folder: (copied(source, folder) / "model.safetensors").unlink(),
        ["found no weights, expected model.safetensors"],
    ),
    "weights cut short": (
        lambda source, folder: os.truncate(copied(source, folder) / "model.safetensors", 5000),
        ["weights cannot be read"],
    ),
    "without a processor": (
        lambda source, folder: (copied(source, folder) / "preprocessor_config.json").unlink(),
        ["preprocessor_config.json"],
    ),
    "a configuration cut short": (
        lambda source, folder: os.truncate(copied(source, folder) / "config.json", 50),
        ["config.json"],
    ),
}


@pytest.mark.parametrize("kind", DETECTORS)
def test_bad_detectors(kind, refused, squashing_folder, scenes_folder, tmp_path):
    make, words = DETECTORS[kind]
    folder = tmp_path / "detector"
    make(squashing_folder, folder)
    message = refused("train", folder, scenes_folder, "--output", tmp_path / "run")
    for word in [str(folder), *words]:
        assert word in message
    assert not (tmp_path / "run").exists()


def test_weights_of_a_model_without_a_head(refused, squashing_folder, scenes_folder, tmp_path):
    from safetensors.torch import save_file

    copied(squashing_folder, tmp_path / "detector")
    path = tmp_path / "detector" / "model.safetensors"
    weights = {key: value for key, value in load_file(path).items() if "class_embed" not in key}
    save_file(weights, path, metadata={"format": "pt"})
    message = refused("train", tmp_path / "detector", scenes_folder, "--output", tmp_path / "run")
    assert "weights are missing from the file" in message
    assert "class_embed" in message


def test_a_detector_of_other_classes(refused, scenes_folder, tmp_path):
    from tiny_detectors import build_squashing_detector

    folder = build_squashing_detector(tmp_path / "detector", names={0: "cat", 1: "dog", 2: "cow"})
    message = refused("train", folder, scenes_folder, "--output", tmp_path / "run")
    for word in ("instances_train2017.json", "disc, ring", "cat, dog, cow"):
        assert word in message
    assert not (tmp_path / "run").exists()


# --- bad runs ---


def test_a_run_whose_detector_is_gone(refused, tiny_run, scenes_folder, tmp_path):
    copied_run = tmp_path / "run"
    copied_run.mkdir()
    content = json.loads((tiny_run / CONFIG_FILE).read_text())
    content["detector"]["name"] = str(tmp_path / "gone")
    content["detector_place"] = {"absolute": str(tmp_path / "gone"), "relative": "../gone"}
    (copied_run / CONFIG_FILE).write_text(json.dumps(content))
    (copied_run / WEIGHTS_FILE).write_bytes((tiny_run / WEIGHTS_FILE).read_bytes())
    for command in (["evaluate", copied_run, scenes_folder], ["predict", copied_run, scenes_folder / "val2017"]):
        more = ["--output", tmp_path / "out"] if command[0] == "predict" else []
        message = refused(*command, *more)
        for word in (str(copied_run), str(tmp_path / "gone"), "--detector"):
            assert word in message
    assert not (tmp_path / "out").exists()


def test_a_run_with_another_detector(refused, tiny_run, padding_folder, scenes_folder):
    message = refused("evaluate", tiny_run, scenes_folder, "--detector", padding_folder)
    assert "has other weights" in message


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_damaged_run(name, refused, tiny_run, scenes_folder, tmp_path):
    for path in (tiny_run / CONFIG_FILE, tiny_run / WEIGHTS_FILE):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    os.truncate(tmp_path / name, 100)
    assert str(tmp_path / name) in refused("evaluate", tmp_path, scenes_folder)


def test_what_is_neither_run_nor_detector(refused, scenes_folder, tmp_path):
    for place in (tmp_path, tmp_path / "nowhere", "some/typo"):
        message = refused("evaluate", place, scenes_folder)
        assert str(place) in message
        assert "no run folder" in message


# --- nowhere to write ---


def test_a_file_where_a_folder_should_be(refused, tiny_run, squashing_folder, scenes_folder, tmp_path):
    place = tmp_path / "file"
    place.write_text("mine")
    picture = next((scenes_folder / "val2017").iterdir())
    for arguments in (
        ["train", squashing_folder, scenes_folder, "--output", place, *TINY],
        ["train", squashing_folder, scenes_folder, "--output", place / "run", *TINY],
        ["predict", tiny_run, picture, "--output", place],
        ["evaluate", tiny_run, scenes_folder, "--json", place / "val.json"],
        ["evaluate", tiny_run, scenes_folder, "--results-file", place / "results.json"],
    ):
        assert str(place) in refused(*arguments)
    assert place.read_text() == "mine"


def test_a_folder_where_a_file_should_be(refused, tiny_run, scenes_folder, tmp_path):
    assert "is a folder" in refused("evaluate", tiny_run, scenes_folder, "--json", tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_no_space_and_no_permission(code, refused, tiny_run, squashing_folder, scenes_folder, tmp_path, monkeypatch):
    def fail(*_args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("mask_frozen_detr.machine.files.os.fsync", fail)
    picture = next((scenes_folder / "val2017").iterdir())
    for arguments, name in (
        (["train", squashing_folder, scenes_folder, "--output", tmp_path / "run", *TINY], "training.json"),
        (["predict", tiny_run, picture, "--output", tmp_path / "out"], picture.stem),
        (["evaluate", tiny_run, scenes_folder, "--json", tmp_path / "val.json"], "val.json"),
    ):
        message = refused(*arguments)
        assert name in message
        assert os.strerror(code) in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing half-written"


def test_an_error_of_the_system_elsewhere(refused, tiny_run, scenes_folder, monkeypatch):
    """Not every write is ours: TensorBoard's, for one."""

    def fail(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events.out")

    monkeypatch.setattr("mask_frozen_detr.evaluation.measure", fail)
    assert "events.out: No space left on device" in refused("evaluate", tiny_run, scenes_folder)


def test_complexity_replaces_its_own_figures_alone(refused, tmp_path):
    file = tmp_path / "figures.json"
    for content in ('{"mine": 1}', "[]", "text", '[{"table": 1}]'):
        file.write_text(content)
        assert "holds no figures" in refused("complexity", "--table", "1", "--json", file)
        assert file.read_text() == content
    file.unlink()
    for _ in range(2):
        assert main(["complexity", "--table", "1", "--json", str(file)]) == 0
    assert {row["table"] for row in json.loads(file.read_text())} == {1}


def test_escapes_of_names_never_reach_the_terminal(squashing_folder, scenes_folder, tmp_path, capfd):
    """Of files, categories and pictures, in what training says of its data."""
    data = tmp_path / "data"
    source = json.loads((scenes_folder / "annotations" / "instances_train2017.json").read_text())
    source["categories"].append({"id": 99, "name": "red\x1b[31m\x9bname\u202e"})
    source["images"].append({"id": 99, "file_name": "../\x9b31m\x1b]0;x\x07.png", "width": 9, "height": 9})
    (data / "annotations").mkdir(parents=True)
    (data / "train2017").symlink_to(scenes_folder / "train2017")
    (data / "annotations" / "instances_train2017.json").write_text(json.dumps(source))
    assert main(["train", str(squashing_folder), str(data), "--output", str(tmp_path / "run"), *TINY]) == 0
    shown = capfd.readouterr()
    assert "image file is missing" in shown.err
    assert not set("\x1b\x9b\x07\u202e") & set(shown.err + shown.out)
