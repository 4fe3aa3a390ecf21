"""Synthetic images for all contestants alike: seeded noise with objects in the shape of superellipses.

Letters: T objects, H × W image, S side of a mask crop, Q queries, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.sizes import Sizes

SMALLEST, LARGEST = 0.04, 0.7  # object sides as shares of the image's, log-uniform: much like COCO's
CLASSES = 80


@dataclass(frozen=True)
class Picture:
    """image (3, H, W) in [0, 1]; boxes (T, 4) cx, cy, w, h in [0, 1]; exponents (T,) of the outlines; labels (T,)."""

    image: Tensor
    boxes: Tensor
    exponents: Tensor
    labels: Tensor

    @property
    def corners(self) -> Tensor:
        """(T, 4): x0, y0, x1, y1 in pixels."""
        height, width = self.image.shape[1:]
        centre, half = self.boxes[:, :2], self.boxes[:, 2:] / 2
        return torch.cat([centre - half, centre + half], 1) * torch.tensor([width, height] * 2)

    @property
    def masks(self) -> Tensor:
        """(T, H, W) uint8."""
        height, width = self.image.shape[1:]
        y = ((torch.arange(height) + 0.5) / height - self.boxes[:, 1:2]) / self.boxes[:, 3:] * 2  # (T, H)
        x = ((torch.arange(width) + 0.5) / width - self.boxes[:, :1]) / self.boxes[:, 2:3] * 2
        return _inside(x, y, self.exponents)

    def box_masks(self, side: int) -> Tensor:
        """(T, S, S) uint8, each over its own box."""
        positions = ((torch.arange(side) + 0.5) / side * 2 - 1).expand(len(self.boxes), side)
        return _inside(positions, positions, self.exponents)


def _inside(x: Tensor, y: Tensor, exponents: Tensor) -> Tensor:
    p = exponents[:, None]
    return (x.abs().pow(p)[:, None, :] + y.abs().pow(p)[:, :, None] <= 1).to(torch.uint8)


def draw_boxes(count: int, generator: torch.Generator) -> Tensor:
    """(count, 4) cx, cy, w, h in [0, 1], within the image."""
    ratio = torch.rand(count, 2, generator=generator)
    sides = SMALLEST * (LARGEST / SMALLEST) ** ratio
    centres = sides / 2 + (1 - sides) * torch.rand(count, 2, generator=generator)
    return torch.cat([centres, sides], 1)


def draw_pictures(sizes: Sizes, count: int, seed: int = 0) -> list[Picture]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Picture(
            image=torch.rand(3, *sizes.image, generator=generator),
            boxes=draw_boxes(sizes.objects, generator),
            exponents=1 + 3 * torch.rand(sizes.objects, generator=generator),
            labels=torch.randint(1, CLASSES, (sizes.objects,), generator=generator),
        )
        for _ in range(count)
    ]


def draw_detections(pictures: list[Picture], queries: int, classes: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """What a trained detector might find: boxes (B, Q, 4) and logits (B, Q, K).

    The first T queries of an image lie by its objects, the others anywhere.
    """
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.stack([draw_boxes(queries, generator) for _ in pictures])
    logits = torch.randn(len(pictures), queries, classes, generator=generator) - 4
    for b, picture in enumerate(pictures):
        objects = len(picture.boxes)
        shift = 0.03 * torch.randn(objects, 2, generator=generator) * picture.boxes[:, 2:]
        boxes[b, :objects] = torch.cat([picture.boxes[:, :2] + shift, picture.boxes[:, 2:]], 1)
        logits[b, torch.arange(objects), picture.labels] = 2.0
    return boxes, logits
