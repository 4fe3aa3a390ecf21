"""`load_data`: the training data and what it is tried on, with every decision about the val split named."""

from dataclasses import dataclass
from pathlib import Path

from mask_frozen_detr.data.coco import CocoData, Orientation, load_split
from mask_frozen_detr.data.orientation import LOOKED_AT, ambiguous
from mask_frozen_detr.data.splits import describe_incomplete, search_splits
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


def load_data(
    data: str | Path,
    images: str | Path | None = None,
    val: str | Path | None = None,
    val_images: str | Path | None = None,
    no_val: bool = False,
    orientation: Orientation = "auto",
) -> Data:
    """COCO-format data to train on, and its val split.

    data: a folder with splits, or the annotation file of the training data.
    images: where its pictures are, if not where the layout says.
    val: the val data, a folder or an annotation file, if not in `data`. val_images: where its pictures are; by default
        where `images` says, where that was given.
    no_val: leave a val split out. orientation: what tags in pictures mean for their annotations, see `orientation`.

    Raises UserError for data that cannot be used; so too for a val split that is there and cannot be used, and for one
    that is the training data itself.
    """
    path = Path(data).expanduser()
    train = load_split(path, "train", images, orientation)
    found, note = None, ""
    if no_val:
        if val is not None:
            raise UserError(f"val: found {val}, and no_val beside it; expected one of them")
        note = "no val split, as asked: nothing is measured while training"
    elif val is not None:
        found = load_split(val, "val", val_images or images, orientation)
    elif path.is_dir():
        splits, incomplete = search_splits(path, ("train", "val") if val_images or images else ("train",))
        lost = {file: places for file, places in incomplete.items() if _is_val(file)}
        if "val" in splits:
            found = load_split(path, "val", val_images or images, orientation)
        elif lost:
            raise UserError(
                f"{path}: its val split cannot be used{describe_incomplete(lost)}; say with --val-images where its "
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


def _is_val(file: str) -> bool:
    return "val" in Path(file).stem.lower()
