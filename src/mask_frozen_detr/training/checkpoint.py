"""checkpoint.pt: the state of a run's loop, with a digest of all that is in it."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.files import save_torch_atomic
from mask_frozen_detr.machine.regular_files import check_regular

CHECKPOINT_FILE = "checkpoint.pt"
OLD_KEYS = {"step", "seconds", "learned", "optimizer", "averaged", "scaler", "problems", "totals", "config"}
KEYS = {*OLD_KEYS, "metrics", "digest"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Raises UserError where it cannot be written; an older one then stays."""
    save_torch_atomic(path, {**state, "digest": _digest(state)})


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, read in torch's safe mode: no code runs.

    Those of older versions have no digest: what is read of them is taken. Raises UserError where the file is damaged
    or no checkpoint of ours.
    """
    check_regular(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file brings about
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: the checkpoint cannot be read ({first}); delete it to start the run anew") from error
    if isinstance(state, dict) and state.keys() == OLD_KEYS:
        return {**state, "metrics": None}
    if not isinstance(state, dict) or state.keys() != KEYS:
        raise UserError(f"{path}: is no checkpoint of a run; delete it to start the run anew")
    found = _digest({key: value for key, value in state.items() if key != "digest"})
    if found != state.pop("digest"):
        raise UserError(
            f"{path}: the checkpoint is damaged: its content is not what was written; delete it to start the run anew"
        )
    return state


def _digest(state: dict[str, Any]) -> str:
    hasher = hashlib.sha256()

    def feed(value: Any) -> None:
        if isinstance(value, Tensor):
            hasher.update(f"{value.dtype}{tuple(value.shape)}".encode())
            hasher.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, dict):
            feed([part for pair in value.items() for part in pair])
        elif isinstance(value, list | tuple):
            hasher.update(f"[{len(value)}".encode())
            for part in value:
                feed(part)
        else:
            hasher.update(f"{type(value).__name__}{value!r};".encode())

    feed(state)
    return hasher.hexdigest()
