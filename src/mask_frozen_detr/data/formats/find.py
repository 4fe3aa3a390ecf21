"""Which format a folder or file is in, found by itself or insisted on."""

from collections.abc import Collection
from pathlib import Path
from typing import get_args

from mask_frozen_detr.data.config import Format
from mask_frozen_detr.data.formats import coco, cvat, label_studio, labelme, panoptic, via, voc, yolo
from mask_frozen_detr.data.formats.layout import Layout
from mask_frozen_detr.errors import UserError, check_choice

READERS = {
    "coco": coco,
    "yolo": yolo,
    "labelme": labelme,
    "voc": voc,
    "panoptic": panoptic,
    "via": via,
    "label-studio": label_studio,
    "cvat": cvat,
}
OFTEN_TOGETHER = {"coco", "panoptic"}  # COCO itself ships both of the same pictures; then its instances are meant


def find_layout(path: Path, wanted: Format | None = None, elsewhere: Collection[str] = ()) -> Layout:
    """The splits of the data at `path`.

    wanted: the format to take, None for the one that is there. elsewhere: splits whose pictures are named apart.
    Raises UserError where nothing is there, nothing of that format, or data of several formats.
    """
    if wanted is not None:
        check_choice("format", wanted, get_args(Format))
    if not path.exists():
        raise UserError(f"{path}: there is no such folder or file; expected data with annotations")
    tried = READERS if wanted is None else {wanted: READERS[wanted]}
    found = {name: layout for name, reader in tried.items() if (layout := reader.find(path, elsewhere)) is not None}
    if set(found) == OFTEN_TOGETHER and path.is_dir():
        del found["panoptic"]
    elif "coco" in found and any(_places(found[name]) & _places(found["coco"]) for name in found if name != "coco"):
        del found["coco"]  # every json might be COCO's; what else it looks like is more to the point
    if len(found) > 1:
        several = " and ".join(
            f"{READERS[name].FORMAT} ({next((str(split.place) for split in layout.splits.values()), path)})"
            for name, layout in found.items()
        )
        raise UserError(f"{path}: holds data of several formats, {several}; say with --format which one is meant")
    if not found:
        looked = "".join(f"\n  {reader.FORMAT}: {line}" for reader in tried.values() for line in reader.EXPECTED)
        raise UserError(f"{path}: no data of a known format found; looked for one of (train, val, valid, test){looked}")
    return next(iter(found.values()))


def _places(layout: Layout) -> set[Path]:
    return {split.place for split in layout.splits.values()}
