"""What one look at a picture says of given boxes, before it is pasted: `BoxAnswers`.

Letters: M boxes, r side of a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mask_frozen_detr.results.assemble import MASK_THRESHOLD
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.paste import mask_confidence, paste_probabilities


@dataclass(frozen=True, eq=False)
class BoxAnswers:
    """What the networks say of M boxes.

    boxes: (M, 4), and frames (M, 4), where masks lie, as x1, y1, x2, y2 in the image's pixels. labels and class_scores:
    (M,). masks: (M, r, r) probabilities over the frames. quality: (M,) predicted IoUs, None of a network that predicts
    none. trust: (M,) in [0, 1], what scores are multiplied by: how well several looks agree, 1 of a single one.
    """

    boxes: np.ndarray
    labels: np.ndarray
    class_scores: np.ndarray
    masks: np.ndarray
    frames: np.ndarray
    quality: np.ndarray | None
    trust: np.ndarray

    def part(self, start: int, end: int) -> "BoxAnswers":
        """The answers to the boxes from `start` up to `end`."""
        where = slice(start, end)
        return BoxAnswers(
            self.boxes[where],
            self.labels[where],
            self.class_scores[where],
            self.masks[where],
            self.frames[where],
            None if self.quality is None else self.quality[where],
            self.trust[where],
        )

    def instances(self, size: tuple[int, int], names: Sequence[str], keep_probabilities: bool) -> Instances:
        """The instances of one image of `size` (height, width), masks cut to their boxes.

        names: of the classes. Raises FloatingPointError where scores are not numbers.
        """
        crops, confidence, probabilities = [], [], []
        for mask, frame, box in zip(self.masks, self.frames, self.boxes.tolist(), strict=True):
            pasted = paste_probabilities(mask, frame, *size).within(*box)  # one at a time: all of them are large
            crops.append(pasted.above(MASK_THRESHOLD))
            if self.quality is None:
                confidence.append(mask_confidence(pasted, MASK_THRESHOLD))
            if keep_probabilities:
                probabilities.append(pasted)
        quality = np.array(confidence, dtype=np.float32) if self.quality is None else self.quality
        instances = Instances(
            boxes=self.boxes,
            scores=(quality * self.trust).astype(np.float32),
            class_scores=self.class_scores,
            labels=self.labels,
            names=[names[label] or str(label) for label in self.labels],
            crops=crops,
            height=size[0],
            width=size[1],
            probability_crops=probabilities if keep_probabilities else None,
        )
        if np.isnan(instances.scores).any() or np.isnan(instances.class_scores).any():
            raise FloatingPointError("the masks' or the classes' scores are not numbers (NaN)")
        return instances
