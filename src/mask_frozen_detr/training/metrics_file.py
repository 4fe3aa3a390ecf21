"""metrics.jsonl when a run goes on: the lines up to its checkpoint stay, and no file of another is taken for it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.files import write_text_atomic
from mask_frozen_detr.machine.regular_files import read_regular


def digest_metrics(data: bytes) -> dict[str, Any]:
    """What a checkpoint knows of the metrics written before it."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def cut_metrics(path: Path, checkpoint: dict[str, Any]) -> None:
    """Only the lines up to the checkpoint stay: the others will be written again.

    Where there is no file none is made: a run may have been killed before its first line, and owns none then.
    Raises UserError where they are not the lines that the checkpoint was made after.
    """
    if not path.exists():
        return
    data, known = read_regular(path), checkpoint["metrics"]
    if known is None:  # of an older version
        write_text_atomic(path, _whole_lines(data.decode(errors="replace"), checkpoint["step"]))
        return
    kept = data[: known["bytes"]]
    if data and digest_metrics(kept) != known:
        raise UserError(
            f"{path}: is damaged: its first {known['bytes']} bytes are not what the run wrote; delete it to go on "
            "without its lines"
        )
    write_text_atomic(path, kept.decode())


def _whole_lines(text: str, step: int) -> str:
    kept = []
    for line in text.splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # cut short by the kill
    return "".join(kept)
