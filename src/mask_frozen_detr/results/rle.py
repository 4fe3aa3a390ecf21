"""COCO's compressed run lengths, straight from a piece of a mask.

COCO counts runs of 0, 1, 0, … down the columns of the whole image; a piece's runs need only their starts moved.
Writing them takes numpy alone, for where nothing else is installed; pycocotools reads and draws.
Letters: H × W image, h × w a piece of it, N runs.
"""

from collections.abc import Sequence

import numpy as np

from mask_frozen_detr.results.paste import Crop


def crop_to_rle(crop: Crop, height: int, width: int) -> dict:
    """`crop` (bool values) within an H × W image → {"size": [H, W], "counts": str}.

    The same bytes as `pycocotools.mask.encode` of the full-resolution mask, which is never made.
    """
    counts = np.diff(_changes(crop, height, width), prepend=0, append=height * width)
    return {"size": [height, width], "counts": compress(counts)}


def compress(counts: np.ndarray) -> str:
    """(N,) run lengths → COCO's compressed `counts`, as `rleToString` of its C library writes them.

    From the fourth on, a run is written as its difference from the run two before; a number is written in groups of
    5 bits, lowest first, as characters from "0" on. A sixth bit says that more groups follow, and the last group's
    highest bit is the sign.
    """
    left = counts.astype(np.int64)
    left[3:] -= counts[1:-2]
    groups, kept = [], []
    unfinished = np.ones(len(left), bool)
    while unfinished.any():
        group = left & 31
        left >>= 5
        more = left != np.where(group & 16, -1, 0)
        groups.append(group + 32 * more + 48)
        kept.append(unfinished)
        unfinished = unfinished & more
    return np.stack(groups, 1)[np.stack(kept, 1)].astype(np.uint8).tobytes().decode("ascii")


def rle_to_mask(rle: dict) -> np.ndarray:
    """(H, W) bool of COCO run lengths, compressed (`counts` str or bytes) or not (`counts` a list)."""
    from pycocotools import mask as coco_mask

    return coco_mask.decode(_compressed(rle)).astype(bool)


def rle_to_crop(rle: dict) -> Crop:
    """The smallest piece that holds the mask of COCO run lengths."""
    return Crop.of_mask(rle_to_mask(rle))


def segmentation_to_rle(segmentation: Sequence[Sequence[float]] | dict, height: int, width: int) -> dict:
    """A COCO annotation's `segmentation`, polygons or run lengths, drawn as COCO does, as compressed run lengths.

    Raises ValueError for run lengths of another size than height × width.
    """
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"run lengths: found size {segmentation['size']}, expected {[height, width]}")
        return _compressed(segmentation)
    if not segmentation:
        return crop_to_rle(Crop(0, 0, np.zeros((0, 0), bool)), height, width)
    return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))


def _changes(crop: Crop, height: int, width: int) -> np.ndarray:
    """Where runs begin, in ascending order, as positions down the columns of the whole image.

    Pixels are compared with the one above row by row, in the order they lie in memory, and only the few changes
    are put in column order: some three times faster than turning the mask.
    """
    mask = crop.values
    h, w = mask.shape
    if not mask.size:
        return np.zeros(0, np.int64)
    change = np.empty((h + 1, w), np.bool_)
    np.not_equal(mask[1:], mask[:-1], out=change[1:-1])
    if h < height:  # a 0 above and below each column
        change[0], change[-1] = mask[0], mask[-1]
    else:  # above a column's first pixel comes the last one of the column to its left
        change[0, 0], change[0, 1:] = mask[0, 0], mask[0, 1:] != mask[-1, :-1]
        change[-1, :-1], change[-1, -1] = False, mask[-1, -1]
    row, column = np.divmod(np.flatnonzero(change), w)
    position = np.sort((crop.x + column) * height + crop.y + row)
    return position[position < height * width]  # COCO writes no empty last run


def _compressed(rle: dict) -> dict:
    from pycocotools import mask as coco_mask

    return coco_mask.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else rle
