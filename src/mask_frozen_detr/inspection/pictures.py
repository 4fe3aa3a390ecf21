"""Pictures of the data with its masks drawn: as they lie, and as training will see them after augmentation."""

import numpy as np
from PIL import Image

from mask_frozen_detr.data.coco import CocoData, ImageRecord
from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.errors import UserError, reason
from mask_frozen_detr.results.drawing import draw_named, draw_truth
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.training.augment import draw_view, jitter_colour
from mask_frozen_detr.training.box_masks import MASK_SIDE, box_mask
from mask_frozen_detr.training.config import AugmentConfig

SIDE = 640  # pixels of a picture on the page


def choose(data: CocoData, count: int) -> list[ImageRecord]:
    """Some images with objects, spread over the data, the same at every call."""
    having = [record for record in data.images if record.annotations] or data.images
    places = np.linspace(0, len(having) - 1, min(count, len(having))).round().astype(int)
    return [having[place] for place in places]


def draw_pair(
    record: ImageRecord,
    data: CocoData,
    augment: AugmentConfig,
    edges: tuple[int, int] | None,
    rng: np.random.Generator,
) -> tuple[Image.Image, Image.Image]:
    """The picture with its masks, and a random view of it with the masks that training gets.

    edges: as `draw_view` takes it. Raises UserError where the picture cannot be read.
    """
    image = open_picture(record, record.orientation)
    return draw_truth(image, record, data.categories), _draw_view(image, record, data, augment, edges, rng)


def _draw_view(
    source: Image.Image,
    record: ImageRecord,
    data: CocoData,
    augment: AugmentConfig,
    edges: tuple[int, int] | None,
    rng: np.random.Generator,
) -> Image.Image:
    view = draw_view(record.width, record.height, augment, edges, rng)
    image = view.image(source)
    if augment.colour_jitter:
        image = jitter_colour(image, augment.colour_jitter, rng)
    boxes, crops, names = [], [], []
    for a in record.annotations:
        x, y, w, h = a.bbox
        visible = view.clip((x, y, x + w, y + h))
        if a.iscrowd or visible is None:
            continue
        x0, y0, x1, y1 = view.map_box(visible)
        box = [round(x0), round(y0), max(round(x1), round(x0) + 1), max(round(y1), round(y0) + 1)]
        mask = np.zeros((0, 0), bool)
        if a.segmentation is not None:
            cells = box_mask(a.segmentation, visible, MASK_SIDE, (record.width, record.height))
            cells = cells[:, ::-1] if view.flip else cells
            grown = Image.fromarray(np.ascontiguousarray(cells) * 255).resize((box[2] - box[0], box[3] - box[1]))
            mask = np.asarray(grown)[: image.height - box[1], : image.width - box[0]] > 127
        boxes.append(box)
        crops.append(Crop(box[0], box[1], mask))
        names.append(data.categories[a.category_id])
    ones = np.ones(len(boxes), np.float32)
    seen = Instances(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=ones,
        class_scores=ones,
        labels=np.zeros(len(boxes), np.int64),
        names=names,
        crops=crops,
        height=image.height,
        width=image.width,
    )
    return draw_named(image, seen)


def draw_pairs(
    data: CocoData, count: int, augment: AugmentConfig, edges: tuple[int, int] | None
) -> tuple[list[tuple[str, Image.Image, Image.Image]], list[str]]:
    """Name and pictures of some images, of `SIDE` at most; beside them, which images could not be drawn, and why."""
    drawn, problems = [], []
    rng = np.random.default_rng(0)
    for record in choose(data, count):
        try:
            plain, seen = draw_pair(record, data, augment, edges, rng)
            for one in (plain, seen):  # at once, or memory would hold all of them as large as they are
                one.thumbnail((SIDE, SIDE))
            drawn.append((record.path.name, plain, seen))
        except Exception as error:  # one bad picture is one line
            text = reason(error)
            problems.append(text if isinstance(error, UserError) else f"{record.path}: {text}")
    return drawn, problems
