"""What one visitor sees: a picture, what was found in it, the masks of boxes that were drawn. No web in here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mask_frozen_detr.data.inputs import to_picture
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.results.drawing import draw_instances
from mask_frozen_detr.results.instances import Instances

LEAST_SCORE = 0.05  # what scores less is not even kept for the threshold to bring back
LONGEST_SIDE = 2000  # pixels: larger pictures are made smaller, or the page takes long to load
SMALLEST_BOX = 2  # pixels of a side: less is a slip of the finger
MARK = (255, 80, 0)

Corner = tuple[float, float]


@dataclass(frozen=True)
class Visit:
    """A visitor's picture and what was found in it.

    found: all of at least `LEAST_SCORE`. drawn: masks of boxes, in the order in which they were drawn. corner: the
    first of a box whose second has not been given yet.
    """

    picture: Image.Image
    name: str
    found: Instances
    drawn: list[Instances] = field(default_factory=list)
    corner: Corner | None = None

    def chosen(self, threshold: float, classes: Sequence[str]) -> Instances:
        """What is shown: drawn boxes first, then what scores enough and is of the classes, if any is named."""
        keep = self.found.scores >= threshold
        if classes:
            keep &= np.isin(np.array(self.found.names, dtype=object), list(classes))
        return Instances.joined([*self.drawn, self.found[keep]])

    def draw(self, instances: Instances) -> Image.Image:
        """The picture with what was chosen, and the corner that waits for its opposite."""
        shown = draw_instances(self.picture, instances)
        if self.corner is not None:
            x, y = self.corner
            reach = max(self.picture.size) // 60 + 3
            pen = ImageDraw.Draw(shown)
            for line in ((x - reach, y, x + reach, y), (x, y - reach, x, y + reach)):
                pen.line(line, fill=MARK, width=max(2, reach // 5))
        return shown


def look_at(model: MaskFrozenDetr, path: str | Path, name: str = "picture") -> Visit:
    """Raises UserError for a file that is no picture."""
    picture = to_picture(path)
    if max(picture.size) > LONGEST_SIDE:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return Visit(picture, name, model.predict(picture, LEAST_SCORE))


def click(model: MaskFrozenDetr, visit: Visit, at: Corner) -> Visit:
    """The first click is a corner of a box, the second the one opposite: then the box has its mask."""
    if visit.corner is None:
        return replace(visit, corner=at)
    (x1, x2), (y1, y2) = (sorted(pair) for pair in zip(visit.corner, at, strict=True))
    x1, y1 = max(x1, 0.0), max(y1, 0.0)
    x2, y2 = min(x2, visit.picture.width), min(y2, visit.picture.height)
    if x2 - x1 < SMALLEST_BOX or y2 - y1 < SMALLEST_BOX:
        return replace(visit, corner=None)
    mask = model.predict(visit.picture, boxes=[[x1, y1, x2, y2]])
    return replace(visit, corner=None, drawn=[*visit.drawn, mask])
