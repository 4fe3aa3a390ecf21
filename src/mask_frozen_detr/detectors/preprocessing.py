"""A detector's own pre-processing: a PIL image in, a normalised tensor out, padded only when batched.

Training draws its own sizes where the detector takes any size (`resizes_freely`): then `resize=False` keeps the
image as the augmentation left it. Detectors of one fixed size always squash.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocessing(ABC):
    """Turns an RGB image into the tensor its detector was trained on."""

    resizes_freely: bool  # True: any size will do, so training may draw its own

    @property
    def channels(self) -> int:
        """Channels of what it makes of a picture."""
        return 3

    def enlarged(self, times: int) -> "Preprocessing":
        """The same at so many times the size, of one that squashes pictures to one. Raises ValueError for others."""
        raise ValueError(f"{type(self).__name__} has no one size that pictures are squashed to")

    @property
    def edges(self) -> tuple[int, int]:
        """The shorter side that images are resized to and the most that the longer one may have then.

        Training that draws its own sizes scales them with these. DETR's are 800 and 1333.
        """
        return 800, 1333

    @abstractmethod
    def __call__(self, image: Image.Image, resize: bool = True) -> Tensor:
        """RGB image → (3, h, w) float tensor, without padding."""

    def mirror(self, pixels: Tensor) -> Tensor:
        """(…, C, h, w) as it makes them of pictures → as it would make them of the pictures in the mirror."""
        return pixels.flip(-1)

    @abstractmethod
    def probe_size(self) -> tuple[int, int]:
        """A small (H, W) the detector accepts, to read its shapes from."""

    @abstractmethod
    def describe(self) -> dict:
        """What decides the output, as JSON: part of the run's record and of cache keys."""


class ShortestEdge(Preprocessing):
    """DETR's evaluation pre-processing: shorter side to `shortest`, longer at most `longest`, ImageNet statistics.

    If max/min · shortest > longest, the shorter side becomes round(longest · min / max); the longer side is
    truncated to an integer. PIL bilinear.
    """

    resizes_freely = True

    def __init__(
        self,
        shortest: int = 800,
        longest: int = 1333,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ):
        self.shortest, self.longest, self.mean, self.std = shortest, longest, mean, std

    @property
    def edges(self) -> tuple[int, int]:
        return self.shortest, self.longest

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the resized image."""
        short, long = min(height, width), max(height, width)
        side = self.shortest
        if long / short * side > self.longest:
            side = round(self.longest * short / long)
        if width < height:
            return int(side * height / width), side
        return side, int(side * width / height)

    def __call__(self, image: Image.Image, resize: bool = True) -> Tensor:
        if resize:
            height, width = self.size(image.height, image.width)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std

    def probe_size(self) -> tuple[int, int]:
        return 256, 256

    def describe(self) -> dict:
        return {"kind": "shortest-edge", **vars(self)}


def collate_images(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(C, h, w) each → (B, C, H, W) zero-padded at the right and bottom, and the (B, H, W) mask, 1 = image."""
    pixel_mask = mask_of_sizes([(image.shape[1], image.shape[2]) for image in images])
    pixel_values = images[0].new_zeros(len(images), images[0].shape[0], *pixel_mask.shape[1:])
    for b, image in enumerate(images):
        pixel_values[b, :, : image.shape[1], : image.shape[2]] = image
    return pixel_values, pixel_mask


def mask_of_sizes(sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(h, w) of each image → (B, H, W) of their padded batch, 1 = image."""
    pixel_mask = torch.zeros(len(sizes), *(max(size[side] for size in sizes) for side in (0, 1)), dtype=torch.long)
    for b, (height, width) in enumerate(sizes):
        pixel_mask[b, :height, :width] = 1
    return pixel_mask
