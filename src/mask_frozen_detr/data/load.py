"""`load_data` and `load_split`: data in whatever format, with every decision about the val split named."""

from dataclasses import dataclass
from pathlib import Path

from mask_frozen_detr.data.class_choice import choose_classes
from mask_frozen_detr.data.coco import ClassChoice, CocoData, HeldOut, Orientation
from mask_frozen_detr.data.config import Format
from mask_frozen_detr.data.formats.find import find_layout
from mask_frozen_detr.data.formats.layout import Layout
from mask_frozen_detr.data.holdout import hold_out, images_digest
from mask_frozen_detr.data.orientation import LOOKED_AT, ambiguous
from mask_frozen_detr.errors import UserError

ALL_CLASSES = ClassChoice()
NO_VAL = "no val split: nothing is measured; --val names one, --val-fraction 0.1 holds a tenth of the images out"


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
    val_fraction: float | None = None,
    choice: ClassChoice = ALL_CLASSES,
    run: HeldOut | None = None,
) -> CocoData:
    """A split ("train", "val", "test") of a data folder, or an annotation file given directly.

    images: where its pictures are, if not where the layout says. orientation: what tags in pictures mean for their
    annotations, see `orientation`. format: the one to take, None for the one that is there. val_fraction, choice: as
    `load_data` takes them. run: what a run held out for val; where this is the same data, its val split is that.
    Raises: UserError as `find_layout` and the format's reader do, and for a split that the folder lacks.
    """
    path, pictures = Path(data).expanduser(), _folder(images)
    layout = find_layout(path, format, (split,) if images else ())
    has_val = "val" in layout.splits and not layout.single
    if val_fraction is not None:
        _refuse_val(path, layout)
    elif run is None or has_val or split == "test":
        return choose_classes(_read(layout, path, split, pictures, orientation), choice)
    whole = choose_classes(_read(layout, path, "train", pictures, orientation), choice)
    if val_fraction is None and run is not None:
        if images_digest(whole) != run.of:
            return choose_classes(_read(layout, path, split, pictures, orientation), choice)
        val_fraction = run.fraction
    assert val_fraction is not None
    train, val = _hold_out(whole, val_fraction, orientation)
    return val if split == "val" else train


def load_data(
    data: str | Path,
    images: str | Path | None = None,
    val: str | Path | None = None,
    val_images: str | Path | None = None,
    no_val: bool = False,
    orientation: Orientation = "auto",
    format: Format | None = None,
    val_fraction: float | None = None,
    choice: ClassChoice = ALL_CLASSES,
) -> Data:
    """Data to train on, and its val split.

    data: a folder with splits, or the annotation file of the training data (of YOLO, its data.yaml).
    images: where its pictures are, if not where the layout says.
    val: the val data, a folder or an annotation file, if not in `data`. val_images: where its pictures are; by default
        where `images` says, where that was given.
    no_val: leave a val split out. orientation: what tags in pictures mean for their annotations, see `orientation`.
    format: the one to take, None for the one that is there.
    val_fraction: the share of the images that is held out for val, where there is no val split.
    choice: which classes to use, and under which names.

    Raises UserError for data that cannot be used; so too for a val split that is there and cannot be used, and for one
    that is the training data itself.
    """
    path = Path(data).expanduser()
    _check_one_of(no_val, val, val_fraction)
    pictures, val_pictures = _folder(images), _folder(val_images or images)
    apart = [split for split, folder in (("train", pictures), ("val", val_pictures)) if folder is not None]
    layout = find_layout(path, format, apart)
    if val_fraction is not None:
        _refuse_val(path, layout)
    train = choose_classes(_read(layout, path, "train", pictures, orientation), choice)
    if no_val:
        return Data(train, None, "no val split, as asked: nothing is measured while training")
    if val_fraction is not None:
        train, held_out = _hold_out(train, val_fraction, orientation)
        count = len(held_out.images)
        return Data(train, held_out, f"val: {count} of {count + len(train.images)} images, held out from training")
    measured = (
        _val_of(layout, path, val_pictures, orientation)
        if val is None
        else load_split(val, "val", val_images or images, orientation, format)
    )
    return Data(train, None, NO_VAL) if measured is None else _with_val(train, measured, choice)


def _val_of(layout: Layout, path: Path, images: Path | None, orientation: Orientation) -> CocoData | None:
    """The val split that the data has. Raises UserError where it cannot be used."""
    if "val" in layout.splits and not layout.single:
        return _read(layout, path, "val", images, orientation)
    if "val" in layout.lost:
        raise UserError(
            f"{path}: its val split cannot be used; {layout.lost['val']}; say with --val-images where its "
            "pictures are, with --val what else to measure on, or leave it out with --no-val"
        )
    return None


def _check_one_of(no_val: bool, val: str | Path | None, val_fraction: float | None) -> None:
    """Raises UserError where more than one of them says what becomes of the val split."""
    if no_val and (val is not None or val_fraction is not None):
        other = f"val {val}" if val is not None else f"val_fraction {val_fraction}"
        raise UserError(f"no_val: found it beside {other}, expected one of them")
    if val is not None and val_fraction is not None:
        raise UserError(f"val_fraction: found {val_fraction}, and val {val} beside it; expected one of them")


def _with_val(train: CocoData, val: CocoData, choice: ClassChoice) -> Data:
    """Both splits. Raises UserError where they are of one annotation file and share pictures."""
    shared = {record.path for record in val.images} & {record.path for record in train.images}
    if shared and val.annotation_file.resolve() == train.annotation_file.resolve():
        raise UserError(f"{val.annotation_file}: is the training data too; expected other pictures for val")
    return Data(train, choose_classes(val, choice, strict=False), "")


def _hold_out(whole: CocoData, fraction: float, orientation: Orientation) -> tuple[CocoData, CocoData]:
    """Train and val of `hold_out`; what was mended is noted with train, orientation tags with the split they are in."""
    train, val = hold_out(whole, fraction)
    _note_orientation(val, orientation)
    return train, val


def _note_orientation(data: CocoData, orientation: Orientation) -> None:
    """Adds a note where there are pictures whose tags nothing explains."""
    turned = len(ambiguous(data.images)) if orientation == "auto" else 0
    if turned:
        among = "" if len(data.images) <= LOOKED_AT else f" among the first {LOOKED_AT}"
        data.notes[
            f"picture{among} with an orientation tag that its size says nothing about, taken as stored; "
            "--orientation apply turns them"
        ] = turned


def _refuse_val(path: Path, layout: Layout) -> None:
    """Raises UserError where there is a val split already."""
    if "val" in layout.splits and not layout.single:
        raise UserError(
            f"val_fraction: found it, but {path} has a val split, {layout.splits['val'].place}; leave the option out"
        )


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
    data = layout.splits[split].read(images, orientation)
    _note_orientation(data, orientation)
    return data
