"""Which detector this is: hashes over its weights and over all else that decides its outputs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

SCHEME = 2  # of the hashes that are made now


@dataclass(frozen=True)
class Identity:
    """Two detectors are the same when `weights` and `settings` agree, and so do layer and prompt."""

    name: str  # hub id, folder or checkpoint file, as the user gave it
    revision: str | None  # commit of the hub's repository, where there is one
    weights: str  # `hash_tensors` of the checkpoint
    family: str  # model type, as in the detector's configuration
    encoder_layer: int | None = None  # whose maps are handed out; None where there is no choice
    prompt: str | None = None  # the classes of a detector that takes text: "cat. dog."
    settings: str | None = None  # `hash_settings` of its configuration and of how it is read; None: not known
    scheme: int = 1  # 1: `weights` is `hash_weights` of the model, as versions before this field made it

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the names, shapes and values of a checkpoint's tensors, as the checkpoint names them.

    The modules of transformers have other names in other versions; the files stay. Floating-point values are hashed
    in float32, in which every detector computes whatever its file holds.
    """
    return _hash({name: value.float() if value.is_floating_point() else value for name, value in tensors.items()})


def hash_weights(model: nn.Module) -> str:
    """sha256 over the names, shapes, types and bytes of every parameter and buffer of a model."""
    return _hash(model.state_dict())


def hash_settings(*settings: Any) -> str:
    """sha256 over what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
