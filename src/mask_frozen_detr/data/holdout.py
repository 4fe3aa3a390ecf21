"""A val split from data that has none: by image, seeded, with every class in it as far as there are images of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mask_frozen_detr.data.coco import CocoData, HeldOut
from mask_frozen_detr.errors import UserError, check_number

SEED = 0  # the same images at every call, so that what is measured later was not trained on


def hold_out(data: CocoData, fraction: float) -> tuple[CocoData, CocoData]:
    """Train and val of all images of `data`, `fraction` of them for val.

    Classes are dealt out from the rarest on, each image to the side that lacks more of the class: iterative
    stratification (Sechidis, Tsoumakas and Vlahavas, 2011). What was skipped is counted with train.
    Raises UserError for a fraction that is not between 0 and 1, and for fewer than two images.
    """
    check_number("val_fraction", fraction, 0, 1, above=True, below=True)
    count = len(data.images)
    if count < 2:
        raise UserError(f"{data.annotation_file}: has {count} image, expected at least 2 to hold some out for val")
    chosen = _choose([{a.category_id for a in record.annotations} for record in data.images], fraction)
    parted = HeldOut(fraction, images_digest(data))
    train = [record for place, record in enumerate(data.images) if place not in chosen]
    val = [record for place, record in enumerate(data.images) if place in chosen]
    return (
        replace(data, images=train, held_out=parted),
        replace(data, images=val, skipped=[], notes={}, held_out=parted),
    )


def _choose(classes_of: Sequence[set[int]], fraction: float) -> set[int]:
    """The places of val's images, of all images whose classes are `classes_of`: at least one, and not all."""
    count = len(classes_of)
    room = min(max(round(fraction * count), 1), count - 1)
    share = room / count
    order = np.random.default_rng(SEED).permutation(count).tolist()
    images_of: dict[int, list[int]] = {}
    for place in order:
        for category in classes_of[place]:
            images_of.setdefault(category, []).append(place)
    lacking = {category: share * len(images) for category, images in images_of.items()}
    chosen: set[int] = set()
    dealt: set[int] = set()
    for category in sorted(images_of, key=lambda category: (len(images_of[category]), category)):
        for place in images_of[category]:
            if place not in dealt and len(chosen) < room and lacking[category] >= 0.5:
                chosen.add(place)
                for other in classes_of[place]:
                    lacking[other] -= 1
            dealt.add(place)
    bare = [place for place in reversed(order) if place not in dealt]
    rest = [place for place in order if place not in chosen and place in dealt]
    for place in [*bare, *rest][: room - len(chosen)]:  # first those without objects, then whatever fills the count
        chosen.add(place)
    return chosen


def images_digest(data: CocoData) -> str:
    """Tells data apart by the names of its pictures, wherever they lie."""
    return hashlib.sha256("\n".join(sorted(record.path.name for record in data.images)).encode()).hexdigest()
