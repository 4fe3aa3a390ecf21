"""A folder in transformers' format, checked before transformers sees it: nothing in it may run, ask or fetch.

transformers is given the parsed configuration and the tensors, never the folder's weights: pickles, adapters, other
files that a configuration names and shards outside the folder are no way in.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mask_frozen_detr.detectors.official.checkpoint import read_file
from mask_frozen_detr.errors import UserError, printable, reason, shorten
from mask_frozen_detr.machine.json_files import read_json_object, walk

CONFIG = "config.json"
PROCESSOR, NESTED_PROCESSOR = "preprocessor_config.json", "processor_config.json"
SETTINGS = (
    CONFIG,
    PROCESSOR,
    NESTED_PROCESSOR,
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)
FETCHED = (*SETTINGS, "tokenizer.json", "vocab.txt", "added_tokens.json", "adapter_config.json")
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"

# Keys that make transformers run, fetch or compute something else than its own plain model.
FORBIDDEN = {
    "auto_map": "it names code to run, which is never done",
    "custom_pipelines": "it names code to run, which is never done",
    "custom_generate": "it names code to run, which is never done",
    "quantization_config": "quantized weights are not supported",
    "transformers_weights": "it names another file of weights",
    "configuration_files": "it names other files to read",
    "use_kernels": "it asks for kernels to be fetched and run",
    "kernel_config": "it asks for kernels to be fetched and run",
    "fusion_config": "it changes the model's modules",
    "distributed_config": "it spreads the model over machines",
    "gguf_file": "it names another file of weights",
}
ATTENTION = ("attn_implementation", "_attn_implementation", "experts_implementation")
ATTENTIONS = (None, "eager", "sdpa")
DTYPES = (None, "float32", "float16", "bfloat16", "float64")
CLASS_TABLES = ("id2label", "label2id")  # whose keys are data
LARGEST_SIDE = 16_384  # pixels that a pre-processing may ask for


@dataclass(frozen=True)
class DetectorFolder:
    """Checked settings, and where the weights are.

    commit: of the hub's repository, where the folder is a copy of one. name: as the user gave it.
    """

    name: str
    path: Path
    commit: str | None
    config: dict[str, Any]

    def read_weights(self) -> dict[str, Tensor]:
        """Every tensor of the checkpoint by its name there. Raises UserError where a file is missing or damaged."""
        tensors: dict[str, Tensor] = {}
        for file in weight_files(self.path):
            try:
                content = load_file(file) if file.suffix == ".safetensors" else read_file(file)
            except (SafetensorError, OSError) as error:
                raise UserError(f"{file}: the weights cannot be read: {reason(error)}") from error
            if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
                raise UserError(f"{file}: found something else than tensors by name, expected a detector's weights")
            tensors |= content
        return tensors


def open_folder(name: str, revision: str | None = None) -> DetectorFolder:
    """A local folder, or the few files of a hub repository that are read, all of one commit.

    Raises UserError where there is none, and for settings that are damaged or would run, ask or fetch something.
    """
    path, commit = (Path(name), None) if Path(name).is_dir() else _fetch(name, revision)
    if not (path / CONFIG).is_file():
        raise UserError(f"{name}: the folder has no readable {CONFIG}, expected a detector in transformers' format")
    if (path / "adapter_config.json").exists():
        raise UserError(
            f"{path / 'adapter_config.json'}: found an adapter, which is not supported; expected whole weights: merge "
            "the adapter into its model and save that"
        )
    for file in SETTINGS:
        if (path / file).exists():
            _check_settings(path / file, read_json_object(path / file))
    return DetectorFolder(name, path, commit, read_json_object(path / CONFIG))


def weight_files(path: Path) -> list[Path]:
    """safetensors before pickles, one file before shards, as transformers chooses. Raises UserError."""
    for single in (SAFE, PICKLED):
        if (path / single).is_file():
            return [path / single]
        index = path / f"{single}.index.json"
        if not index.is_file():
            continue
        table = read_json_object(index).get("weight_map")
        if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
            raise UserError(f"{index}: found no 'weight_map' of names to files")
        files = sorted(set(table.values()))
        suffix = Path(single).suffix
        for file in files:
            if file != Path(file).name or "\\" in file or Path(file).suffix != suffix:
                raise UserError(f"{index}: found the shard {file!r}, expected a {suffix} file beside the index")
            if not (path / file).is_file():
                raise UserError(f"{path / file}: is missing; {index.name} names it as one of {len(files)} shards")
        return [path / file for file in files]
    raise UserError(f"{path}: found no weights, expected {SAFE} (or {PICKLED})")


def check_numbers(path: Path, config: Mapping[str, Any], tensors: int, values: int) -> None:
    """Raises UserError for numbers that weights of so many tensors and values cannot go with.

    What a configuration asks for is built before it is compared with the weights: its numbers are bounded first.
    """
    for keys, value in walk(config):
        if not isinstance(value, int | float) or isinstance(value, bool) or set(keys) & set(CLASS_TABLES):
            continue
        key = next((key for key in reversed(keys) if not key.isdecimal()), "")
        repeats = re.search(r"layers?$|depths?$|blocks?$|stages?$", key) is not None
        limit = tensors if repeats else max(values, 100_000)
        if abs(value) > limit:
            found = f"{value:.6g}" if abs(value) < 1e300 else "a number of over 300 digits"  # no float, perhaps
            raise UserError(
                f"{path}: {printable('.'.join(keys))}: found {found}, more than the weights hold "
                f"({tensors:,} tensors of {values:,} values)"
            )


def check_class_names(path: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError unless the classes have numbers, and names that are text."""
    table = config.get("id2label")
    if table is None:
        return
    if not isinstance(table, dict) or not table:
        raise UserError(f"{path}: id2label: found {type(table).__name__}, expected class names by class index")
    for key, value in table.items():
        if not re.fullmatch(r"\d{1,6}", key) or not isinstance(value, str):
            raise UserError(f"{path}: id2label: found {key!r}: {value!r}, expected a number and a name")


def local_backbone(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with its backbone spelled out: one that is named alone makes transformers ask the hub for it.

    Raises UserError for a backbone that names a repository or a file.
    """
    for keys, value in walk(config):
        if keys[-1:] == ("backbone",) and isinstance(value, str) and not re.fullmatch(r"[\w.\-]+", value):
            raise UserError(
                f"{path}: {printable('.'.join(keys))}: found {value!r}, expected a model of timm by its plain name"
            )
    named, arguments = config.get("backbone"), config.get("backbone_kwargs")
    if config.get("backbone_config") is None and isinstance(named, str):
        if arguments and isinstance(arguments, dict):
            spelled = {**arguments, "model_type": "timm_backbone", "backbone": named}
            return {**config, "backbone": None, "backbone_kwargs": None, "backbone_config": spelled}
        if not config.get("use_timm_backbone", True):
            raise UserError(f"{path}: backbone: found {named!r} alone, expected its settings as backbone_config")
    return config


def _fetch(name: str, revision: str | None) -> tuple[Path, str | None]:
    """The files of a hub repository, or those of it that an earlier call has fetched. Raises UserError."""
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*FETCHED, "model*.safetensors*"]))
        if not any((folder / file).is_file() for file in (SAFE, f"{SAFE}.index.json")):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*FETCHED, "pytorch_model*.bin*"]))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise UserError(
            f"{name}: no such folder or hub model, expected a detector in transformers' format ({reason(error)})"
        ) from error
    return folder, folder.name if folder.parent.name == "snapshots" else revision


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    for keys, value in walk(settings):
        if not keys or set(keys[:-1]) & set(CLASS_TABLES):
            continue
        place, key = f"{path}: {printable('.'.join(keys))}", keys[-1]
        if (key in FORBIDDEN or key.startswith("custom_")) and value:
            why = FORBIDDEN.get(key, FORBIDDEN["auto_map"])
            raise UserError(f"{place}: {why}; expected a detector of transformers itself, without this key")
        if key in ATTENTION:
            for one in value.values() if isinstance(value, dict) else [value]:
                if one not in ATTENTIONS:
                    raise UserError(f"{place}: found {one!r}, expected 'eager' or 'sdpa': no kernel is fetched")
        if key in ("dtype", "torch_dtype") and value not in DTYPES:
            raise UserError(f"{place}: found {value!r}, expected one of {shorten(filter(None, DTYPES))}")
        if key == "image_processor_type" and not re.fullmatch(
            r"\w+(ImageProcessor(Fast|Pil)?|FeatureExtractor)", str(value)
        ):
            raise UserError(f"{place}: found {value!r}, expected an image processor of transformers")
        is_side = path.name in (PROCESSOR, NESTED_PROCESSOR) and keys[-2:-1] and keys[-2].endswith("size")
        if is_side and value is not None and not (isinstance(value, int | float) and 0 <= value <= LARGEST_SIDE):
            raise UserError(f"{place}: found {value!r}, expected 0 to {LARGEST_SIDE} pixels")
