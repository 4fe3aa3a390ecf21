"""Reads a checkpoint without running any code of it: an official `.pth`, or a folder that `convert` wrote.

Official files carry the training's `argparse.Namespace` under `args`: that class is allowed besides what torch's safe
mode allows anyway; a file that needs any other is refused with the class' name.
"""

import argparse
import json
import pickle
import pickletools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mask_frozen_detr.detectors.official.config import OfficialConfig, config_from_dict
from mask_frozen_detr.detectors.official.names import backbone_name
from mask_frozen_detr.errors import UserError, shorten

SETTINGS_FILE, TENSORS_FILE = "official_detector.json", "model.safetensors"
FORMAT = 1  # of the settings file
SUFFIXES = (".pth", ".pt", ".pkl", ".ckpt", ".bin")

# Libraries whose classes give away whose checkpoint a refused file is.
OTHERS = {
    "mmengine": "mmdet",
    "mmcv": "mmdet",
    "mmdet": "mmdet",
    "detectron2": "detrex",
    "omegaconf": "detrex",
}


@dataclass
class Checkpoint:
    """What a checkpoint file holds.

    tensors: by official name. args: the training's options, {} where the file has none. config, class_names: what a
    converted folder says of itself; None for an official file.
    """

    tensors: dict[str, Tensor]
    args: dict[str, Any] = field(default_factory=dict)
    config: OfficialConfig | None = None
    class_names: list[str] | None = None


def is_official_checkpoint(path: str | Path) -> bool:
    """A file, or a name that can only be one, or a folder that `convert` wrote: `load_official` speaks of it."""
    path = Path(path)
    return path.is_file() or path.suffix in SUFFIXES or (path / SETTINGS_FILE).is_file()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Raises UserError where the file is missing, truncated, not a checkpoint, or needs a class that is not allowed."""
    path = Path(path)
    if path.is_dir():
        return read_folder(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    content = read_file(path)
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path}: found a {type(content).__name__}, expected a dict with key 'model'")
    args = content.get("args")
    if "state_dict" in content and "model" not in content:
        raise UserError(
            f"checkpoint {path}: found key 'state_dict', as mmdet and lightning write it; expected key 'model'. "
            "These layouts are not supported: use the file that the detector's authors publish"
        )
    tensors = content.get("model", content)
    if not isinstance(tensors, dict) or not tensors or not all(torch.is_tensor(v) for v in tensors.values()):
        raise UserError(
            f"checkpoint {path}: found keys {shorten(content)}, expected key 'model' with a dict of tensors"
        )
    prefix = "module."  # DistributedDataParallel's
    if all(key.startswith(prefix) for key in tensors):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return Checkpoint(tensors, vars(args) if isinstance(args, argparse.Namespace) else {})


def read_file(path: Path) -> Any:
    """The file's content in safe mode, its tensors mapped rather than read where the format allows."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap" not in str(error):
                    raise
                return torch.load(path, map_location="cpu", weights_only=True)  # torch's format before 1.6
    except pickle.UnpicklingError as error:
        refused = refused_class(path, error)
        if refused is None:
            raise UserError(f"checkpoint {path}: not a torch checkpoint, or damaged") from error
        library = OTHERS.get(refused.split(".")[0])
        hint = f" It is in {library}'s layout, which is not supported." if library else ""
        raise UserError(
            f"checkpoint {path}: it needs the class {refused}, which could run code; only tensors, plain "
            f"values and argparse.Namespace are read.{hint}"
        ) from error
    except Exception as error:  # a damaged file makes torch's reader raise nearly anything
        raise UserError(f"checkpoint {path}: not a torch checkpoint, or truncated: {first_line(error)}") from error


def refused_class(path: Path, error: Exception) -> str | None:
    """The class that safe mode stopped at: from its message, or from a plain pickle's opcodes (nothing runs)."""
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return named[1]
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(path.read_bytes()):
            name = str(argument).replace(" ", ".") if opcode.name == "GLOBAL" else None
            if opcode.name == "STACK_GLOBAL":
                name = ".".join(strings[-2:])
            if name and not name.startswith(("torch.", "collections.", "argparse.")):
                return name
            if isinstance(argument, str):
                strings.append(argument)
    except ValueError:  # not a pickle
        return None
    return None


def read_folder(folder: Path) -> Checkpoint:
    """A folder that `convert` wrote. Raises UserError where a file of it is missing or damaged."""
    settings_file, weights_file = folder / SETTINGS_FILE, folder / TENSORS_FILE
    for file in (settings_file, weights_file):
        if not file.is_file():
            raise UserError(f"folder {folder}: {file.name} is missing; expected a folder that `convert` wrote")
    try:
        settings = json.loads(settings_file.read_text(encoding="utf-8"))
        version = settings["format"]
        known = (config_from_dict(settings["config"]), list(settings["class_names"])) if version == FORMAT else None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{settings_file}: not what `convert` writes: {first_line(error)}") from error
    if known is None:
        raise UserError(f"{settings_file}: found format {version}, expected {FORMAT}")
    try:
        tensors = load_file(weights_file)
    except SafetensorError as error:
        raise UserError(f"{weights_file}: damaged or truncated: {first_line(error)}") from error
    return Checkpoint(tensors, config=known[0], class_names=known[1])


def write_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: OfficialConfig,
    class_names: Sequence[str],
    source: str,
    half: bool = False,
) -> None:
    """What `read_folder` reads, into an existing folder. tensors: by official name. source: what they came from."""
    settings = {
        "format": FORMAT,
        "detector": f"{config.family}, {backbone_name(config.backbone)}",
        "source": source,
        "half": half,
        "config": config.as_dict(),
        "class_names": list(class_names),
    }
    save_file(dict(tensors), folder / TENSORS_FILE)
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1) + "\n")


def first_line(error: Exception) -> str:
    """Torch's messages go on for a page."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
