"""More looks at given boxes: small ones from near, in pixels of the whole picture, and trust by the mirror."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mask_frozen_detr.results.careful_boxes import segment_carefully, surroundings
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.paste import Crop

WIDTH, HEIGHT = 300, 200
BOXES = np.array([[20, 30, 60, 50], [5, 10, 250, 190], [270, 150, 300, 200]], np.float32)


def picture() -> Image.Image:
    """Red shapes on black: half of the first box, a triangle in the second, all of the third."""
    image = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    draw.rectangle((20, 30, 39, 49), fill="red")
    draw.polygon([(70, 180), (240, 180), (240, 60)], fill="red")
    draw.rectangle((270, 150, 299, 199), fill="red")
    return image


class Redness:
    """A look that finds what is red in a box, and remembers the pictures it saw. blind: in the mirror."""

    def __init__(self, blind: bool = False):
        self.blind = blind
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, image: Image.Image, boxes: np.ndarray, labels: Sequence[int]) -> Instances:
        mirror = bool(self.sizes) and image.size == self.sizes[0]
        self.sizes.append(image.size)
        red = np.asarray(image)[:, :, 0] > 128
        crops = []
        for x1, y1, x2, y2 in boxes.round().astype(int).tolist():
            found = red[y1:y2, x1:x2].copy()
            if self.blind and mirror:
                found[: len(found) // 2] = False
            crops.append(Crop(x1, y1, found))
        count = len(boxes)
        return Instances(
            boxes=boxes,
            scores=np.full(count, 0.8, np.float32),
            class_scores=np.full(count, 0.5, np.float32),
            labels=np.array(labels, np.int64),
            names=[str(label) for label in labels],
            crops=crops,
            height=image.height,
            width=image.width,
            probability_crops=[Crop(crop.x, crop.y, crop.values.astype(np.float32)) for crop in crops],
        )


def test_small_boxes_are_seen_from_near_and_lie_where_they_were():
    look, image = Redness(), picture()
    found = segment_carefully(look, image, BOXES, [4, 5, 6])
    assert look.sizes[:2] == [(WIDTH, HEIGHT)] * 2
    assert len(look.sizes) == 4  # the second box is large
    assert all(size < (WIDTH, HEIGHT) for size in look.sizes[2:])
    red = np.asarray(image)[:, :, 0] > 128
    for (x1, y1, x2, y2), mask, probability in zip(
        BOXES.astype(int).tolist(), found.masks, found.probabilities, strict=True
    ):
        inside = np.zeros_like(red)
        inside[y1:y2, x1:x2] = red[y1:y2, x1:x2]
        assert np.array_equal(mask, inside)
        assert np.array_equal(probability > 0.5, inside)
    assert np.array_equal(found.boxes, BOXES)
    assert found.labels.tolist() == [4, 5, 6]
    assert found.scores == pytest.approx([0.8] * 3)  # the mirror agrees


def test_what_the_mirror_does_not_see_scores_less():
    found = segment_carefully(Redness(blind=True), picture(), BOXES[:1], [0])
    assert found.scores == pytest.approx([0.8 * 0.5**0.5])
    assert found.masks.sum() == 20 * 20


def test_no_boxes():
    look = Redness()
    assert len(segment_carefully(look, picture(), BOXES[:0], [])) == 0
    assert len(look.sizes) == 1


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((100, 80, 140, 100), (80, 50, 161, 131)),
        ((0, 0, 40, 20), (0, 0, 81, 81)),
        ((270, 190, 300, 200), (236, 136, 300, 200)),
        ((10, 10, 12, 11), (0, 0, 65, 65)),
    ],
)
def test_surroundings_stay_within_the_picture(box: tuple[int, ...], expected: tuple[int, ...]):
    assert surroundings(np.array(box, np.float32), WIDTH, HEIGHT) == expected
