"""The image processors of transformers as pre-processing."""

from typing import Any

from PIL import Image
from torch import Tensor

from mask_frozen_detr.detectors.preprocessing import Preprocessing


class TransformersPreprocessing(Preprocessing):
    """A detector's own image processor.

    any_size: the detector takes images as they are; else training, too, resizes them as the processor does.
    """

    def __init__(self, processor: Any, any_size: bool = True):
        self.processor = processor
        size = dict(processor.size)
        squashes = size.get("height") is not None
        self._side = (int(size["height"]), int(size["width"])) if squashes else None
        self.resizes_freely = any_size and not squashes

    def __call__(self, image: Image.Image, resize: bool = True) -> Tensor:
        keep = {} if resize or not self.resizes_freely else {"do_resize": False}
        return self.processor(images=image, return_tensors="pt", **keep)["pixel_values"][0]

    def probe_size(self) -> tuple[int, int]:
        if self._side is not None:
            return self._side
        if self.resizes_freely:
            return 256, 256
        height, width = self(Image.new("RGB", (64, 64))).shape[1:]
        return height, width

    def describe(self) -> dict:
        return {key: value for key, value in self.processor.to_dict().items() if not key.startswith("_")}
