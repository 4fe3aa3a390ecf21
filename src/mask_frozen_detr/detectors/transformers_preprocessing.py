"""The image processors of transformers as pre-processing."""

import copy
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
        squashes = None not in (size.get("height"), size.get("width"))
        self._side = (int(size["height"]), int(size["width"])) if squashes else None
        self.resizes_freely = any_size and not squashes

    @property
    def edges(self) -> tuple[int, int]:
        size = dict(self.processor.size)
        if size.get("shortest_edge"):
            shortest = int(size["shortest_edge"])
            return shortest, int(size.get("longest_edge") or round(shortest * 1333 / 800))
        if size.get("max_height") and size.get("max_width"):  # as large as fits
            return int(min(size["max_height"], size["max_width"])), int(max(size["max_height"], size["max_width"]))
        return super().edges

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

    def enlarged(self, times: int) -> "TransformersPreprocessing":
        """The same at so many times the size. Raises ValueError where there is no one size."""
        if self._side is None:
            raise ValueError("there is no one size that pictures are squashed to")
        processor = copy.deepcopy(self.processor)
        height, width = (times * side for side in self._side)
        processor.size = {"height": height, "width": width}
        return TransformersPreprocessing(processor, any_size=False)

    def describe(self) -> dict:
        return {key: value for key, value in self.processor.to_dict().items() if not key.startswith("_")}
