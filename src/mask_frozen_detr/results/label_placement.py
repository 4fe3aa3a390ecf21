"""Where the labels of a picture go, so that they hide neither each other nor small objects.

Letters: N labels, C candidates for a label's place.
"""

import numpy as np

LABEL_OVERLAP = 12.0  # price of a label that lies wholly on others
BOX_COVERAGE = 1.0  # price of each box wholly hidden
DISTANCE = 0.12  # price a label's height of distance from the box
STEPS_AWAY = 6  # how many heights a label may move away where it is crowded


def place_labels(sizes: np.ndarray, boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Choose a place for each label in turn, the first ones having the best choice.

    sizes: (N, 2) width and height of the labels. boxes: (N, 4) x1, y1, x2, y2 of what they name. width, height: of
    the picture. All in pixels. Returns (N, 4): x1, y1, x2, y2 of the labels, within the picture where it has room.
    """
    placed = np.zeros((0, 4))
    for size, box in zip(sizes, boxes, strict=True):
        candidates = _candidates(size, box, width, height)
        price = (
            LABEL_OVERLAP * _overlap(candidates, placed).sum(1) / size.prod()
            + BOX_COVERAGE * (_overlap(candidates, boxes) / _area(boxes)).sum(1)
            + DISTANCE * _gap(candidates, box) / size[1]
        )
        placed = np.concatenate([placed, candidates[price.argmin()][None]])
    return placed


def _candidates(size: np.ndarray, box: np.ndarray, width: int, height: int) -> np.ndarray:
    """(C, 4) corners of labels, the customary ones first: above, then within, below, beside and further off the box."""
    (w, h), (x1, y1, x2, y2) = size, box
    away = np.arange(STEPS_AWAY) * h
    tops = np.concatenate([[y1 - h, y1, y2, y2 - h], y1 - h - away[1:], y2 + away[1:]])
    lefts = np.array([x1, x2 - w, (x1 + x2 - w) / 2, x2, x1 - w, x2 + w / 2, x1 - w * 3 / 2])
    top, left = (grid.ravel() for grid in np.meshgrid(tops, lefts, indexing="ij"))
    left = left.clip(0, max(width - w, 0))
    top = top.clip(0, max(height - h, 0))
    return np.stack([left, top, left + w, top + h], axis=1)


def _overlap(candidates: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(C, 4), (N, 4) → (C, N) pixels in common."""
    low = np.maximum(candidates[:, None, :2], others[None, :, :2])
    high = np.minimum(candidates[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(0).prod(-1)


def _gap(candidates: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(C, 4) → (C,) pixels between label and box, 0 where they touch."""
    apart = np.maximum(candidates[:, :2] - box[2:], box[:2] - candidates[:, 2:]).clip(0)
    return np.hypot(apart[:, 0], apart[:, 1])


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(1).prod(-1)
