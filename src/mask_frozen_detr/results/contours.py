"""A binary mask as a COCO annotation writes it: polygons where it has no hole, else compressed run lengths.

Contours follow the cracks between pixels, so the polygons' corners are pixel corners and nothing is lost.
Letters: H, W image, N points.
"""

import numpy as np

from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.results.rle import crop_to_rle


def trace_contours(mask: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(H, W) bool mask → an outer contour a 4-connected part, and the contours of holes, the other way round.

    Each is (N, 2) pixel corners x, y.
    """
    padded = np.pad(mask.astype(bool), 1)
    inside = padded[1:-1, 1:-1]
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}  # corner → where its cracks lead, the mask on the right
    for neighbour, start, end in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above: left to right
        (padded[1:-1, 2:], (1, 0), (1, 1)),  # right: downwards
        (padded[2:, 1:-1], (1, 1), (0, 1)),  # below: right to left
        (padded[1:-1, :-2], (0, 1), (0, 0)),  # left: upwards
    ):
        for y, x in zip(*(axis.tolist() for axis in np.nonzero(inside & ~neighbour)), strict=True):
            after.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))

    outer: list[np.ndarray] = []
    holes: list[np.ndarray] = []
    while after:
        corner = first = next(iter(after))
        step = (0, 0)
        points: list[tuple[int, int]] = []
        area = 0  # twice the signed area: positive clockwise on screen, hence around the mask
        while True:
            ways = after[corner]
            # where two parts touch at a corner, the right turn keeps them apart
            right = (corner[0] - step[1], corner[1] + step[0])
            following = right if right in ways else ways[0]
            ways.remove(following)
            if not ways:
                del after[corner]
            turned = (following[0] - corner[0], following[1] - corner[1])
            if turned != step:
                points.append(corner)
            area += corner[0] * following[1] - following[0] * corner[1]
            corner, step = following, turned
            if corner == first:
                break
        (outer if area > 0 else holes).append(np.array(points))
    return outer, holes


def encode_mask(mask: np.ndarray) -> list[list[float]] | dict:
    """(H, W) bool mask → COCO's `segmentation`: [[x, y, …], …] without a hole, else {"size", "counts"}."""
    contours, holes = trace_contours(mask)
    if not holes:
        return [contour.astype(float).ravel().tolist() for contour in contours]
    return crop_to_rle(Crop(0, 0, mask.astype(bool)), *mask.shape)
