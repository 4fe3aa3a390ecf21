"""What the pictures are called that `predict` draws, and which of them may be written."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from mask_frozen_detr.errors import UserError, printable
from mask_frozen_detr.results.prediction_files import PredictionFiles, is_own_picture

MAPS = ".probabilities"  # what stands between a picture's name and the suffix, where maps are drawn
LONGEST_NAME = 200  # bytes, of the 255 that file systems allow


def name_pictures(paths: Sequence[Path], files: PredictionFiles) -> dict[Path, str]:
    """What the pictures drawn of each are called: neither overlays nor maps may meet, whatever the file system.

    Stems, made unique where two folders hold pictures of one name; an earlier call's names stay.
    """
    names = {path: one.name for path, one in files.pictures.items()}
    taken = {_folded(f"{name}{kind}") for name in names.values() for kind in ("", MAPS)}
    for path in paths:
        if path in names:
            continue
        stem = "".join(c if c.isprintable() else "_" for c in path.stem)
        stem = stem.encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore")
        name, count = stem, 1
        while taken & (made := {_folded(name), _folded(name + MAPS)}):
            count += 1
            name = f"{stem}-{count}"
        taken |= made
        names[path] = name
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def check_targets(targets: Sequence[Path], paths: set[Path]) -> None:
    """Raises UserError where a picture would be replaced that `predict` did not draw."""
    inputs_at = {os.path.realpath(path) for path in paths}
    for target in targets:
        if not os.path.lexists(target):
            continue
        if os.path.realpath(target) in inputs_at:
            raise UserError(
                f"{printable(str(target))}: is one of the pictures to predict and would be overwritten; name another "
                "--output"
            )
        if target.is_symlink() or not is_own_picture(target):
            raise UserError(
                f"{printable(str(target))}: is there already and was not drawn by predict, so it stays as it is; name "
                "another --output, or move it"
            )
