"""`load_data` and `load_split`: data in whatever format, with every decision about the val split named."""

from dataclasses import dataclass
from pathlib import Path

from mask_frozen_detr.data.coco import CocoData, Orientation
from mask_frozen_detr.data.formats.find import Format, find_layout
from mask_frozen_detr.data.formats.layout import Layout
from mask_frozen_detr.data.orientation import LOOKED_AT, ambiguous
from mask_frozen_detr.errors import UserError


@dataclass
class Data:
    """train and val splits; val is None where there is none, or where it was left out. note: what was decided."""

    train: CocoData
    val: CocoData | None
    note: str

    def summary(self) -> str:
        """What was read, what is broken in it, and what was decided."""
        lines = [f"train: {self.train.summary()}"]
        if self.val is not None:
            lines.append(f"val: {self.val.summary()}")
        return "\n".join([*lines, *([self.note] if self.note else [])])


def load_split(
    data: str | Path,
    split: str,
    images: str | Path | None = None,
    orientation: Orientation = "auto",
    format: Format | None = None,
) -> CocoData:
    """A split ("train", "val", "test") of a data folder, or an annotation file given directly.

    images: where its pictures are, if not where the layout says. orientation: what tags in pictures mean for their
    annotations, see `orientation`. format: the one to take, None for the one that is there.
    Raises: UserError as `find_layout` and the format's reader do, and for a split that the folder lacks.
    """
    path, pictures = Path(data).expanduser(), _folder(images)
    return _read(find_layout(path, format, (split,) if images else ()), path, split, pictures, orientation)


def load_data(
    data: str | Path,
    images: str | Path | None = None,
    val: str | Path | None = None,
    val_images: str | Path | None = None,
    no_val: bool = False,
    orientation: Orientation = "auto",
    format: Format | None = None,
) -> Data:
    """Data to train on, and its val split.

    data: a folder with splits, or the annotation file of the training data (of YOLO, its data.yaml).
    images: where its pictures are, if not where the layout says.
    val: the val data, a folder or an annotation file, if not in `data`. val_images: where its pictures are; by default
        where `images` says, where that was given.
    no_val: leave a val split out. orientation: what tags in pictures mean for their annotations, see `orientation`.
    format: the one to take, None for the one that is there.

    Raises UserError for data that cannot be used; so too for a val split that is there and cannot be used, and for one
    that is the training data itself.
    """
    path = Path(data).expanduser()
    pictures, val_pictures = _folder(images), _folder(val_images or images)
    apart = [split for split, folder in (("train", pictures), ("val", val_pictures)) if folder is not None]
    layout = find_layout(path, format, apart)
    train = _read(layout, path, "train", pictures, orientation)
    found, note = None, ""
    if no_val:
        if val is not None:
            raise UserError(f"val: found {val}, and no_val beside it; expected one of them")
        note = "no val split, as asked: nothing is measured while training"
    elif val is not None:
        found = load_split(val, "val", val_images or images, orientation, format)
    elif not layout.single:
        if "val" in layout.splits:
            found = _read(layout, path, "val", val_pictures, orientation)
        elif "val" in layout.lost:
            raise UserError(
                f"{path}: its val split cannot be used; {layout.lost['val']}; say with --val-images where its "
                "pictures are, with --val what else to measure on, or leave it out with --no-val"
            )
    if found is None and not note:
        note = "no val split: nothing is measured; --val names one"
    if found is not None and found.annotation_file.resolve() == train.annotation_file.resolve():
        raise UserError(f"{found.annotation_file}: is the training data too; expected other pictures for val")
    for split in (train, found):
        if split is not None and orientation == "auto":
            turned = len(ambiguous(split.images))
            if turned:
                among = "" if len(split.images) <= LOOKED_AT else f" among the first {LOOKED_AT}"
                split.notes[
                    f"picture{among} with an orientation tag that its size says nothing about, taken as stored; "
                    "--orientation apply turns them"
                ] = turned
    return Data(train, found, note)


def _folder(images: str | Path | None) -> Path | None:
    if images is None:
        return None
    folder = Path(images).expanduser()
    if not folder.is_dir():
        raise UserError(f"images: found {images}, expected a folder with pictures")
    return folder


def _read(layout: Layout, path: Path, split: str, images: Path | None, orientation: Orientation) -> CocoData:
    if split not in layout.splits:
        found = ", ".join(f"{name} ({one.place})" for name, one in layout.splits.items()) or "no split at all"
        lost = "".join(f"; {why}" for why in layout.lost.values())
        raise UserError(f"{path}: no split '{split}'; found: {found}{lost}")
    return layout.splits[split].read(images, orientation)
