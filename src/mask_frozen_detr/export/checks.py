"""What is looked at before an export starts: packages, the folder, the model, and the size of its input."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mask_frozen_detr.data.images import find_images
from mask_frozen_detr.data.preparation import Preparation
from mask_frozen_detr.errors import UserError, printable, reason
from mask_frozen_detr.machine.config import ExportPrecision
from mask_frozen_detr.machine.json_files import read_json_object
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.runtime.description import DESCRIPTION_FILE, MADE_BY

LARGEST_FILE = 1_900_000_000  # bytes of weights: a file of ONNX holds 2 GB
LARGEST_SIDE = 4096  # of a graph's input, in pixels
CALIBRATION = 100  # pictures that ranges of 8 bits are taken from, at most


def check_packages() -> None:
    """Raises UserError where a package that export needs is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"export: the package {name} is missing ({reason(error)}); pip install 'mask-frozen-detr[onnx]'"
            ) from error


def check_target(folder: Path) -> None:
    """Raises UserError where an export would replace anything but an earlier one."""
    if not folder.exists():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise UserError(f"{folder}: is no folder, expected a new one, or one that holds an earlier export")
    names = {path.name for path in folder.iterdir()}
    if not names:
        return
    ours: set[str] = set()
    if DESCRIPTION_FILE in names:
        saved = read_json_object(folder / DESCRIPTION_FILE)
        if saved.get("made_by") == MADE_BY and isinstance(saved.get("checksums"), dict):
            ours = {DESCRIPTION_FILE, *saved["checksums"]}
    if foreign := sorted(names - ours):
        raise UserError(f"{folder}: holds {printable(foreign[0])}, which no export wrote; name another --output")


def check_exportable(model: MaskFrozenDetr) -> None:
    """Raises UserError, with the reason, where a model cannot be exported."""
    info, config = model.detector.info, model.network.config
    why = None
    if not config.roi_align:
        why = "its masks are made without RoIAlign and cover the whole picture (Table 1), not a box each"
    elif config.image_encoder == "swin":
        why = "the shifted windows of its image encoder cannot be traced"
    elif info.identity.prompt is not None:
        why = "its classes come from a prompt, whose tokens are read by Python code"
    elif model.detector.info.preprocessing.resizes_freely and not model.detector.knows_padding:
        why = "it takes pictures of any size, and knows no padding that would make them one"
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    if why is None and weights > LARGEST_FILE:
        why = f"its weights take {weights / 1e9:.1f} GB, and one file of ONNX holds 2 GB"
    if why is not None:
        raise UserError(f"{info.identity.name}: cannot be exported: {why}")


def with_canvas(preparation: Preparation, size: Sequence[int] | None, name: str) -> Preparation:
    """The pre-processing of a graph: for a detector of any size with the height and width that pictures are padded to.

    size: these two; None takes the detector's shorter and longer side, for pictures that lie. Raises UserError for a
    size that is none, or of which the detector is not.
    """
    if preparation.fit == "squash":
        if size is not None and tuple(size) != preparation.size:
            height, width = preparation.size
            raise UserError(
                f"size: found {printable(str(size))}, but {name} takes {height} {width} alone; leave it out"
            )
        return preparation
    height, width = preparation.size if size is None else size
    if not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in (height, width)):
        raise UserError(
            f"size: found {height} {width}, expected the height and width that pictures are padded to, each from 1 to "
            f"{LARGEST_SIDE}"
        )
    return replace(preparation, canvas=(height, width))


def calibration_pictures(precision: ExportPrecision, inputs: Sequence[str | Path]) -> list[Path]:
    """The pictures that 8 bits are calibrated on, evenly from all that were named; none for other precisions.

    Raises UserError where there are none for 8 bits, or some for what needs none.
    """
    if precision != "int8":
        if inputs:
            raise UserError(
                f"calibrate: found {printable(str(inputs[0]))} with precision {precision}; int8 alone needs it"
            )
        return []
    if not inputs:
        raise UserError("calibrate: found nothing, expected a folder of your pictures: int8 takes its ranges from them")
    found = find_images(inputs)
    return found[:: -(-len(found) // CALIBRATION)]
