"""Folders that would run, ask, fetch or take memory: an error that names the file, and nothing else happens."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mask_frozen_detr import UserError, load_detector

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(squashing_folder, tmp_path) -> Path:
    return shutil.copytree(squashing_folder, tmp_path / "detector")


def change(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def refuse(folder: Path, words: str, file: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        load_detector(folder).shapes  # noqa: B018
    assert str(folder / file) in str(error.value)
    assert "\x1b" not in str(error.value)


CODE: dict[str, tuple[str, dict[str, Any], str]] = {
    "an image processor's": (PROCESSOR, {"auto_map": {"AutoImageProcessor": "evil.Evil"}}, "auto_map: it names code"),
    "a model's": (CONFIG, {"auto_map": {"AutoConfig": "evil.Evil"}}, "auto_map: it names code to run"),
    "a hub's": (CONFIG, {"auto_map": {"AutoModel": "them/evil--evil.Evil"}}, "auto_map: it names code to run"),
    "nested": (CONFIG, {"backbone_config": {"auto_map": {"AutoConfig": "evil.E"}}}, r"backbone_config\.auto_map"),
    "a tokenizer's": ("tokenizer_config.json", {"auto_map": ["evil.Evil", None]}, "auto_map: it names code to run"),
    "a processor's": ("processor_config.json", {"auto_map": {"AutoProcessor": "evil.E"}}, "auto_map: it names code"),
    "a video processor's": ("video_preprocessor_config.json", {"auto_map": {"A": "evil.E"}}, "auto_map"),
    "a pipeline's": (CONFIG, {"custom_pipelines": {"x": {"impl": "evil.E"}}}, "custom_pipelines: it names code"),
    "kernels for attention": (CONFIG, {"attn_implementation": "them/evil"}, "found 'them/evil', expected 'eager'"),
    "kernels": (CONFIG, {"use_kernels": True}, "use_kernels: it asks for kernels"),
    "quantization": (CONFIG, {"quantization_config": {"quant_method": "bnb"}}, "quantized weights are not supported"),
    "other weights": (CONFIG, {"transformers_weights": "adapter_model.bin"}, "it names another file of weights"),
    "other settings": (CONFIG, {"configuration_files": ["config.5.0.0.json"]}, "it names other files to read"),
    "a type that is no type": (CONFIG, {"dtype": "load"}, "dtype: found 'load', expected one of float32"),
    "a backbone on the hub": (CONFIG, {"backbone": "them/evil", "backbone_config": None}, "plain name"),
    "a backbone of timm's hub": (
        CONFIG,
        {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf_hub:them/evil"}},
        "plain name",
    ),
    "a class that is no processor": (PROCESSOR, {"image_processor_type": "BertModel"}, "an image processor of transf"),
}


@pytest.mark.parametrize("case", CODE)
def test_nothing_runs_and_nothing_asks(case, folder, monkeypatch):
    file, changes, words = CODE[case]
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    change(folder / file, **changes)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    refuse(folder, words, file)
    assert not (folder / "ran").exists()


class Evil:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickled_weights_run_no_code(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(str(folder / "ran"))))
    refuse(folder, "needs the class", "pytorch_model.bin")
    torch.save({"weight": Evil(str(folder / "ran"))}, folder / "pytorch_model.bin")
    refuse(folder, "needs the class", "pytorch_model.bin")
    assert not (folder / "ran").exists()


def test_pickled_weights_that_are_only_tensors_load(folder, squashing):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert load_detector(folder).info.identity.weights == squashing.info.identity.weights


def test_an_adapter_is_told(folder):
    change(folder / "adapter_config.json", base_model_name_or_path="them/evil")
    refuse(folder, "found an adapter, which is not supported", "adapter_config.json")


DAMAGE = {
    "deep": (CONFIG, lambda path: path.write_text("[" * 100_000), "nested too deep|no JSON"),
    "no JSON": (CONFIG, lambda path: path.write_text("{"), "no JSON"),
    "a list": (CONFIG, lambda path: path.write_text("[]"), "found a JSON list, expected an object"),
    "bytes": (CONFIG, lambda path: path.write_bytes(b"\xff\xfe\x00"), "is damaged"),
    "huge": (
        CONFIG,
        lambda path: path.write_bytes(b" " * 16_000_001),
        "found more than 16,000,000 bytes, expected at most",
    ),
    "a mean of objects": (
        PROCESSOR,
        lambda path: change(path, do_normalize=True, image_mean=[0.5, 0.5, {"value": 0.5}], image_std=[1, 1, 1]),
        "no picture can be prepared by it",
    ),
    "sides of which one is no whole number": (
        PROCESSOR,
        lambda path: change(path, size={"height": 64, "width": 64.0}),
        "no picture can be prepared by it",
    ),
    "one side alone": (
        PROCESSOR,
        lambda path: change(path, size={"height": 64, "width": None}),
        "no picture can be prepared by it",
    ),
    "a standard deviation of 0": (
        PROCESSOR,
        lambda path: change(path, do_normalize=True, image_mean=[0.5, 0.5, 0.5], image_std=[1, -0.0, 1]),
        "no image_std of 0",
    ),
    "NaN": (CONFIG, lambda path: path.write_text('{"dropout": NaN}'), "found NaN, expected a finite number"),
    "a class that is a number": (CONFIG, lambda path: change(path, id2label={"0": 7}), "id2label: found '0': 7"),
    "a class of an absurd number": (CONFIG, lambda path: change(path, id2label={"9" * 30: "x"}), "id2label"),
    "surrogates": (CONFIG, lambda path: change(path, id2label={"0": "\ud800"}), "text that is no Unicode"),
    "classes that are a list": (CONFIG, lambda path: change(path, id2label=["x"]), "id2label: found list"),
    "a wide decoder": (CONFIG, lambda path: change(path, decoder_ffn_dim=10**9), "more than the weights hold"),
    "wide and deep": (CONFIG, lambda path: change(path, d_model=90_000, decoder_ffn_dim=90_000), "weights"),
    "a number beyond all floats": (
        CONFIG,
        lambda path: change(path, decoder_ffn_dim=10**400),
        "decoder_ffn_dim: found a number of over 300 digits",
    ),
    "a class more than there are weights for": (
        CONFIG,
        lambda path: change(path, id2label={str(number): f"class {number}" for number in range(4)}),
        r"of shape \(4.*, but the weights beside it have \(3",
    ),
    "many layers": (CONFIG, lambda path: change(path, decoder_layers=10**6), "decoder_layers: found 1e.06, more than"),
    "a number too long": (CONFIG, lambda path: path.write_text('{"d_model": 1' + "0" * 5000 + "}"), "no JSON"),
    "a huge picture": (PROCESSOR, lambda path: change(path, size={"height": 10**6, "width": 4}), "expected 0 to 16384"),
    "a negative picture": (
        PROCESSOR,
        lambda path: change(path, size={"height": -4, "width": 4}),
        "expected 0 to 16384",
    ),
    "cut short": (WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:-100]), "weights cannot be read"),
    "empty": (WEIGHTS, lambda path: path.write_bytes(b""), "weights cannot be read"),
    "a header of terabytes": (WEIGHTS, lambda path: path.write_bytes(b"\xff" * 64), "weights cannot be read"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folders(case, folder):
    file, spoil, words = DAMAGE[case]
    spoil(folder / file)
    refuse(folder, words, file)


WRONG: dict[str, dict[str, Any]] = {
    "a width that is text": {"d_model": "wide"},
    "no width": {"d_model": None},
    "a negative width": {"d_model": -8},
    "heads that do not divide": {"decoder_attention_heads": 7},
    "more queries than places": {"num_queries": 90_000},
    "a backbone of another kind": {"backbone_config": {"model_type": "bert"}},
    "a backbone without settings": {"backbone_config": 3},
    "another number of classes": {"id2label": {"0": "one"}},
    "an activation that is none": {"decoder_activation_function": "\x1b[31mevil"},
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_go_with_no_weights(case, folder):
    change(folder / CONFIG, **WRONG[case])
    refuse(folder, ".", "")


def shards(folder: Path, **weight_map: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    half = len(tensors) // 2
    for number, names in enumerate((list(tensors)[:half], list(tensors)[half:]), start=1):
        save_file({name: tensors[name] for name in names}, folder / f"model-0000{number}-of-00002.safetensors")
        weight_map = {name: f"model-0000{number}-of-00002.safetensors" for name in names} | weight_map
    change(folder / INDEX, weight_map=weight_map)


def test_shards_load(folder, squashing):
    shards(folder)
    assert load_detector(folder).info.identity.weights == squashing.info.identity.weights


@pytest.mark.parametrize(
    "shard", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "evil.bin", "..\\x.safetensors"]
)
def test_shards_outside_the_folder(shard, folder):
    shards(folder, x=shard)
    refuse(folder, "expected a .safetensors file beside the index", INDEX)


def test_a_shard_that_is_missing(folder):
    shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refuse(folder, "is missing; model.safetensors.index.json names it", "model-00002-of-00002.safetensors")


def test_an_index_of_nothing(folder):
    (folder / WEIGHTS).unlink()
    change(folder / INDEX, weight_map=[])
    refuse(folder, "found no 'weight_map'", INDEX)


def test_no_weights_at_all(folder):
    (folder / WEIGHTS).unlink()
    refuse(folder, "found no weights, expected model.safetensors", "")
