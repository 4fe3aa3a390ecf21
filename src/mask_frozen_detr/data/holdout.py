"""A val split from data that has none: by image, seeded, with every class in it as far as there are images of it."""

import hashlib
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
    wanted = min(max(round(fraction * count), 1), count - 1)
    share = wanted / count
    order = np.random.default_rng(SEED).permutation(count).tolist()
    classes_of = [{a.category_id for a in record.annotations} for record in data.images]
    waiting: dict[int, list[int]] = {}  # class to its images, those that are dealt out among them
    for place in order:
        for category in classes_of[place]:
            waiting.setdefault(category, []).append(place)
    lacking = {category: share * len(places) for category, places in waiting.items()}
    dealt: dict[int, bool] = {}  # image to whether it is val's
    room = wanted
    for category in sorted(waiting, key=lambda category: (len(waiting[category]), category)):
        for place in waiting[category]:
            if place in dealt:
                continue
            to_val = room > 0 and lacking[category] >= 0.5
            dealt[place] = to_val
            if to_val:
                room -= 1
                for other in classes_of[place]:
                    lacking[other] -= 1
    for place in reversed(order):  # first those without objects, then whatever fills the count
        if room > 0 and place not in dealt:
            dealt[place] = True
            room -= 1
    for place in order:
        if room > 0 and not dealt.get(place, False):
            dealt[place] = True
            room -= 1
    parted = HeldOut(fraction, images_digest(data))
    train = [record for place, record in enumerate(data.images) if not dealt.get(place, False)]
    val = [record for place, record in enumerate(data.images) if dealt.get(place, False)]
    return (
        replace(data, images=train, held_out=parted),
        replace(data, images=val, skipped=[], notes={}, held_out=parted),
    )


def images_digest(data: CocoData) -> str:
    """Tells data apart by the names of its pictures, wherever they lie."""
    return hashlib.sha256("\n".join(sorted(record.path.name for record in data.images)).encode()).hexdigest()
