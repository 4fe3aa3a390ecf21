"""Label maps: pictures whose pixels say which object they belong to, as run lengths an object."""

import contextlib
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.images import check_regular, open_header
from mask_frozen_detr.errors import UserError, reason


def read_labels(path: Path) -> np.ndarray:
    """The pixels of a label map as stored: (H, W) of one number, or (H, W, 3) of a colour.

    Raises UserError where the file is missing or no picture.
    """
    try:
        check_regular(path)
        with contextlib.closing(open_header(path, path)) as image:
            if image.mode in ("P", "L", "I", "I;16", "1"):
                return np.asarray(image)
            return np.asarray(image.convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file brings about
        raise UserError(f"{path}: cannot be read as a label map ({reason(error)})") from None


def colour_numbers(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 → (H, W): red + 256 · green + 65536 · blue, as COCO numbers panoptic segments."""
    return pixels.astype(np.int64) @ np.array([1, 256, 65536])


def run_lengths(labels: np.ndarray) -> dict[int, dict]:
    """(H, W) whole numbers → number to COCO's compressed run lengths of the pixels that have it, all in one pass."""
    height, width = labels.shape
    flat = labels.T.reshape(-1)  # COCO counts down the columns
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.concatenate([starts[1:], [flat.size]])
    numbers = flat[starts]
    order = np.argsort(numbers, kind="stable")
    found = {}
    for group in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        edges = np.stack([starts[group], ends[group]], 1).reshape(-1)
        counts = np.diff(edges, prepend=0, append=flat.size)
        counts = counts if counts[-1] else counts[:-1]
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
        found[int(numbers[group[0]])] = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    return found
