"""Copy-paste (Ghiasi et al., 2021; not in the paper): objects of one training image laid over another.

They are cut out along their masks and made larger or smaller by one factor, each at a place of its own. What they hide
of the image's own objects is taken from these, and who is hidden nearly whole is no object any more. A small mask
network that sees few images learns these by heart; composites never repeat.

Letters: H × W image, h × w a piece of it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.data.validation import Annotation
from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.results.rle import rle_to_mask, segmentation_to_rle

TAKEN = 0.5  # of the other image's objects
MOST = 10  # objects of one image
SCALES = (0.5, 1.5)  # times that at which both images are of one size
SMALLEST_SIDE = 8  # pixels of a box: smaller objects are not cut out
SMALLEST_AREA = 16  # pixels of an object that is left
VISIBLE = 0.1  # of an object: where less is left it is none

Colours = np.ndarray  # (H, W, 3) uint8
Mask = np.ndarray  # (H, W) bool


@dataclass(frozen=True)
class Piece:
    """An object that is cut out, at the size at which it is laid down.

    pixels: (h, w, 3) uint8. cover: (h, w) in [0, 1], how much of a pixel is the object's.
    """

    pixels: Colours
    cover: np.ndarray


def choose_objects(donor: ImageRecord, categories: Collection[int], rng: np.random.Generator) -> list[Annotation]:
    """Some objects of these categories that somebody drew a mask of."""
    fit = [
        one
        for one in donor.annotations
        if not one.iscrowd
        and one.segmentation is not None
        and one.category_id in categories
        and min(one.bbox[2:]) > SMALLEST_SIDE
    ]
    return [one for one in fit if rng.random() < TAKEN][:MOST]


def paste_objects(
    record: ImageRecord,
    image: Image.Image,
    donor: ImageRecord,
    source: Image.Image,
    objects: Sequence[Annotation],
    flip: bool,
    rng: np.random.Generator,
) -> tuple[ImageRecord, Image.Image]:
    """`image` with objects of `source` over it, and `record` with them, and without what they hide.

    image, source: RGB, of the sizes of `record` and `donor`. objects: of the donor, with masks. flip: whether they may
    be mirrored left to right. What does not fit into the image is left out; with nothing left all stays as it is.
    """
    scale = float(np.exp(rng.uniform(*np.log(SCALES)))) * min(record.width / donor.width, record.height / donor.height)
    mirrored = flip and rng.random() < 0.5
    canvas, colours = np.array(image), np.asarray(source)
    hidden = np.zeros((record.height, record.width), bool)
    laid: list[tuple[Annotation, Mask]] = []
    for one in objects:
        piece = _cut_out(one, donor, colours, scale, mirrored)
        if piece is None or piece.cover.shape[1] >= record.width or piece.cover.shape[0] >= record.height:
            continue
        mask = _lay_down(piece, canvas, rng)
        laid = [(below, shown & ~mask) for below, shown in laid]
        laid.append((one, mask))
        hidden |= mask
    if not laid:
        return record, image
    own = [_without(one, hidden) for one in record.annotations]
    new = [_with_mask(one, mask) for one, mask in laid if mask.sum() >= SMALLEST_AREA]
    return replace(record, annotations=[one for one in own if one is not None] + new), Image.fromarray(canvas)


def _cut_out(one: Annotation, donor: ImageRecord, source: Colours, scale: float, mirrored: bool) -> Piece | None:
    """None for an object of which no pixel is drawn."""
    crop = Crop.of_mask(_mask(one, donor.height, donor.width))
    h, w = crop.values.shape
    if not h:
        return None
    size = max(SMALLEST_SIDE // 2, round(w * scale)), max(SMALLEST_SIDE // 2, round(h * scale))
    pixels, cover = (
        np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BILINEAR))
        for part in (source[crop.y : crop.y + h, crop.x : crop.x + w], crop.values.astype(np.uint8) * 255)
    )
    if mirrored:
        pixels, cover = pixels[:, ::-1], cover[:, ::-1]
    return Piece(pixels, cover / 255.0)


def _lay_down(piece: Piece, canvas: Colours, rng: np.random.Generator) -> Mask:
    """Draw a piece somewhere into (H, W, 3) `canvas`, mixed at its edges. Returns which pixels are its own."""
    H, W = canvas.shape[:2]
    h, w = piece.cover.shape
    x, y = int(rng.integers(0, W - w + 1)), int(rng.integers(0, H - h + 1))
    place = slice(y, y + h), slice(x, x + w)
    share = piece.cover[..., None]
    canvas[place] = (share * piece.pixels + (1 - share) * canvas[place] + 0.5).astype(np.uint8)
    mask = np.zeros((H, W), bool)
    mask[place] = piece.cover >= 0.5
    return mask


def _without(one: Annotation, hidden: Mask) -> Annotation | None:
    """An object without its hidden pixels; None where next to nothing is left. Crowds and bare boxes stay."""
    x, y, w, h = one.bbox
    near = hidden[max(0, int(y)) : max(0, int(y + h) + 1), max(0, int(x)) : max(0, int(x + w) + 1)]
    if one.iscrowd or one.segmentation is None or not near.any():
        return one
    mask = _mask(one, *hidden.shape)
    left = mask & ~hidden
    return _with_mask(one, left) if left.sum() >= max(SMALLEST_AREA, VISIBLE * mask.sum()) else None


def _mask(one: Annotation, height: int, width: int) -> Mask:
    assert one.segmentation is not None
    return rle_to_mask(segmentation_to_rle(one.segmentation, height, width))


def _with_mask(one: Annotation, mask: Mask) -> Annotation:
    """The annotation with another mask, and the box and the area of that."""
    crop = Crop.of_mask(mask)
    h, w = crop.values.shape
    return replace(
        one,
        bbox=(float(crop.x), float(crop.y), float(w), float(h)),
        segmentation=coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))),
        area=float(mask.sum()),
    )
