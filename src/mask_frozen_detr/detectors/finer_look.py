"""A second, finer look at a picture: what the detector sees, and the same at twice the size (not in the paper).

Real-time detectors squash pictures to 320 to 640 pixels a side, which boxes bear better than masks do. The frozen
backbone, which knows what it sees at any size, is shown the picture once more as large as this, and its maps are added
to the mask network's: boxes, scores and classes come from the first look alone.

Both looks travel as one tensor, so that all that carries, crops, pads and batches pictures need not know: the finer one
with the four pixels of each of the detector's as channels.
Letters: B images, h × w pixels of the detector's look.
"""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mask_frozen_detr.data.preparation import FINER
from mask_frozen_detr.detectors.preprocessing import Preprocessing


class FinerLook(Preprocessing):
    """A detector's pre-processing, and the same at FINER times its size.

    look: of a detector that squashes pictures to one size; it must have an `enlarged`.
    """

    resizes_freely = False

    def __init__(self, look: Preprocessing):
        self.look, self._finer = look, look.enlarged(FINER)

    @property
    def channels(self) -> int:
        return self.look.channels * (1 + FINER**2)

    def __call__(self, image: Image.Image, resize: bool = True) -> Tensor:
        """RGB image → (15, h, w): three channels of the detector's look, twelve of the finer one."""
        return pack_finer(self.look(image), self._finer(image))

    def mirror(self, pixels: Tensor) -> Tensor:
        """(…, 15, h, w) → the same of the pictures in the mirror: within a cell, too, left and right change."""
        look, finer = unpack_finer(pixels)
        return pack_finer(look.flip(-1), finer.flip(-1))

    def probe_size(self) -> tuple[int, int]:
        return self.look.probe_size()

    def describe(self) -> dict:
        return {**self.look.describe(), "finer_look": FINER}


def pack_finer(look: Tensor, finer: Tensor) -> Tensor:
    """The detector's look (…, 3, h, w) and the finer one (…, 3, 2 · h, 2 · w) → (…, 15, h, w)."""
    return torch.cat([look, F.pixel_unshuffle(finer, FINER)], -3)


def unpack_finer(packed: Tensor) -> tuple[Tensor, Tensor]:
    """(…, 15, h, w) → the detector's look (…, 3, h, w) and the finer one (…, 3, 2 · h, 2 · w)."""
    return packed[..., :3, :, :], F.pixel_shuffle(packed[..., 3:, :, :], FINER)
