"""Exports beside predictions.json, each in a folder of its own within the output."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mask_frozen_detr.errors import check_choice
from mask_frozen_detr.results.exports import geojson, label_studio, labelme, masks, panoptic, yolo
from mask_frozen_detr.results.exports.found import Files, Picture
from mask_frozen_detr.results.own_folder import OwnFolder

Writer = Callable[[Sequence[Picture], Mapping[int, str], Path], Files]
COCO = "coco"  # predictions.json itself, which is always written
WRITERS: dict[str, Writer] = {
    "yolo": yolo.files,
    "labelme": labelme.files,
    "label-studio": label_studio.files,
    "masks": masks.files,
    "panoptic": panoptic.files,
    "geojson": geojson.files,
}


def check_exports(output: Path, formats: Iterable[str]) -> list[str]:
    """The formats to write beside COCO, each once.

    Raises UserError for an unknown one, and where its folder holds what predict did not write or what was edited since.
    """
    wanted = list(dict.fromkeys(formats))
    for name in wanted:
        check_choice("format", name, [COCO, *WRITERS])
    wanted = [name for name in wanted if name != COCO]
    for name in wanted:
        OwnFolder(output / name).check()
    return wanted


def write_exports(
    output: Path, formats: Iterable[str], pictures: Sequence[Picture], names: Mapping[int, str]
) -> list[Path]:
    """Write each of `check_exports` anew; returns the folders. names: class number to name, of all classes.

    Raises UserError as `OwnFolder` does.
    """
    folders = []
    for name in formats:
        folder = output / name
        OwnFolder(folder).write(WRITERS[name](pictures, names, folder))
        folders.append(folder)
    return folders
