"""Pictures of val that every evaluation of a run draws anew: what is true beside what is found."""

import contextlib
import random

from PIL import Image

from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.evaluation import Measured
from mask_frozen_detr.results.drawing import draw_instances, draw_truth, draw_wall
from mask_frozen_detr.results.instances import Instances

PICTURES = 6
SCORE = 0.3  # of what is drawn, at least


def draw_val_pictures(measured: Measured, seed: int) -> Image.Image | None:
    """A wall of a few images with objects, the same at each evaluation of a run; None where none can be drawn."""
    records = sorted((record for record in measured.images if record.annotations), key=lambda record: record.id)
    if not records:
        return None
    chosen = random.Random(seed).sample(records, min(PICTURES, len(records)))
    pairs = []
    for record in chosen:
        with contextlib.suppress(Exception):  # one picture that cannot be drawn costs no other, and no figure
            pairs.append(_pair(record, measured))
    return draw_wall(pairs, ["truth", "masks"]) if pairs else None


def _pair(record: ImageRecord, measured: Measured) -> tuple[Image.Image, Image.Image]:
    image = open_picture(record, record.orientation)
    entries = [one for one in measured.entries if one["image_id"] == record.id and one["score"] >= SCORE]
    masks = Instances.from_coco(entries, measured.categories, record.height, record.width)
    return draw_truth(image, record, measured.categories), draw_instances(image, masks)
