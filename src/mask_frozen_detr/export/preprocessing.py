"""A detector's pre-processing as a record that runs without torch; which record it is, pictures tell."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from mask_frozen_detr.data.preparation import Fit, Preparation
from mask_frozen_detr.detectors.finer_look import FinerLook
from mask_frozen_detr.detectors.preprocessing import Preprocessing
from mask_frozen_detr.errors import UserError, reason

SHAPES = ((97, 150), (160, 90), (64, 640), (700, 501))  # height, width: both ways up, long, larger than it becomes
LEVELS = 1.5  # of 255: two libraries round a resized pixel differently by one


def portable(preprocessing: Preprocessing, name: str) -> Preparation:
    """The record that prepares pictures as `preprocessing` does.

    Raises UserError that names the detector, where none does.
    """
    if isinstance(preprocessing, FinerLook):
        return replace(portable(preprocessing.look, name), finer_look=True)
    try:
        candidates = list(_candidates(preprocessing.describe()))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{name}: its pre-processing cannot be exported: {reason(error)}") from error
    pictures = [_picture(height, width) for height, width in SHAPES]
    wanted = [preprocessing(picture).numpy() for picture in pictures]
    for candidate in candidates:
        found = (candidate(picture) for picture in pictures)
        if all(_alike(ours, theirs, candidate) for ours, theirs in zip(found, wanted, strict=True)):
            return candidate
    raise UserError(
        f"{name}: its pre-processing cannot be exported: it makes other pictures of {len(SHAPES)} samples than any "
        "resizing, scaling and normalisation of its settings"
    )


def _candidates(settings: dict[str, Any]) -> Iterator[Preparation]:
    if settings.get("kind") == "shortest-edge":
        size = (int(settings["shortest"]), int(settings["longest"]))
        yield Preparation("edges rounded", size, 2, True, 1 / 255, tuple(settings["mean"]), tuple(settings["std"]))
        return
    if not settings.get("do_resize", True):
        raise ValueError("it does not resize")
    sides_of = {key: int(value) for key, value in dict(settings["size"]).items() if value is not None}
    kinds: list[tuple[Fit, tuple[int, int]]]
    if "height" in sides_of:
        kinds = [("squash", (sides_of["height"], sides_of["width"]))]
    elif "shortest_edge" in sides_of:
        longest = sides_of.get("longest_edge", 1_000_000)
        kinds = [
            ("edges", (sides_of["shortest_edge"], longest)),
            ("edges rounded", (sides_of["shortest_edge"], longest)),
        ]
    else:
        raise ValueError(f"found a size of {sorted(sides_of)}, expected height and width, or shortest_edge")
    scale = float(settings["rescale_factor"]) if settings.get("do_rescale") else 1.0
    mean, std = [0.0] * 3, [1.0] * 3
    if settings.get("do_normalize"):
        mean, std = ([float(value) for value in settings[key]] for key in ("image_mean", "image_std"))
    for fit, sides in kinds:
        for antialias in (True, False):
            yield Preparation(fit, sides, int(settings["resample"]), antialias, scale, tuple(mean), tuple(std))


def _picture(height: int, width: int) -> Image.Image:
    """Coarse noise: what a filter makes of it tells the filter, and rounding stays small."""
    coarse = np.random.default_rng(height).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _alike(ours: np.ndarray, theirs: np.ndarray, preparation: Preparation) -> bool:
    if ours.shape != theirs.shape:
        return False
    step = preparation.scale / np.array(preparation.std)[:, None, None]
    return bool((np.abs(ours - theirs) <= LEVELS * step).all())
