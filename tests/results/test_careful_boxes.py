"""More looks at given boxes: from near, and in the mirror, which also tells how far they are to be trusted."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mask_frozen_detr.results.box_answers import BoxAnswers
from mask_frozen_detr.results.careful_boxes import look_carefully, surroundings

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
    """A look that finds what is red in a box, 8 × 8, and remembers the pictures it saw.

    blind: it misses the upper half of a box in these of its looks.
    """

    def __init__(self, blind: Sequence[int] = ()):
        self.blind = blind
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, image: Image.Image, boxes: np.ndarray, labels: Sequence[int]) -> BoxAnswers:
        masks = []
        for box in boxes.tolist():
            piece = image.resize((8, 8), Image.Resampling.NEAREST, (box[0], box[1], box[2], box[3]))
            masks.append(np.asarray(piece)[:, :, 0] > 128)
            if len(self.sizes) in self.blind:
                masks[-1] = masks[-1] & (np.arange(8) >= 4)[:, None]
        self.sizes.append(image.size)
        count = len(boxes)
        return BoxAnswers(
            boxes=boxes,
            labels=np.array(labels, np.int64),
            class_scores=np.full(count, 0.5, np.float32),
            masks=np.stack(masks).astype(np.float32),
            frames=boxes,
            quality=np.full(count, 1 - 0.1 * len(self.sizes), np.float32),
            trust=np.ones(count, np.float32),
        )


def test_all_but_large_boxes_are_seen_from_near_and_every_one_in_the_mirror():
    look, image = Redness(), picture()
    found = look_carefully(look, image, BOXES, [4, 5, 6])
    assert look.sizes[:2] == [(WIDTH, HEIGHT)] * 2
    # The second box is large; the others are seen three times as wide as they are, and twice.
    assert look.sizes[2:] == [(121, 121), (81, 81), (150, 150), (100, 100)]
    assert np.array_equal(found.masks > 0.5, Redness()(image, BOXES, [4, 5, 6]).masks > 0.5)
    assert np.array_equal(found.boxes, BOXES)
    assert found.labels.tolist() == [4, 5, 6]
    assert found.trust == pytest.approx([1] * 3)
    assert found.quality == pytest.approx([0.65, 0.85, 0.45])  # of the pair that made the mask
    instances = found.instances((HEIGHT, WIDTH), [str(label) for label in range(7)], False)
    half = np.zeros((HEIGHT, WIDTH), bool)
    half[30:50, 20:40] = True
    assert np.array_equal(instances.masks[0], half)
    assert instances.scores == pytest.approx([0.65, 0.85, 0.45])


@pytest.mark.parametrize(
    ("blind", "trust"),
    [((1,), 0.5**0.25), ((3,), 0.5**0.25), ((1, 2), 0.5**0.5), ((0, 1), 1.0)],
)
def test_what_two_looks_do_not_agree_on_is_trusted_less(blind: tuple[int, ...], trust: float):
    """Looks 0 and 1 are at the whole picture, 2 and 3 from near, the latter of each in the mirror."""
    found = look_carefully(Redness(blind), picture(), BOXES[:1], [0])
    assert found.trust == pytest.approx([trust])


def test_a_large_box_is_the_mean_of_two_looks():
    found = look_carefully(Redness(blind=(1,)), picture(), BOXES[1:2], [0])
    whole = Redness()(picture(), BOXES[1:2], [0]).masks
    assert np.array_equal(found.masks[0, 4:], whole[0, 4:])
    assert np.array_equal(found.masks[0, :4], whole[0, :4] / 2)


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
    assert surroundings(np.array(box, np.float32), WIDTH, HEIGHT, 2.0) == expected
