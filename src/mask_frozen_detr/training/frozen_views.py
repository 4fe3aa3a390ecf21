"""What the frozen detector makes of one view of an image, and the files that keep it (see `cache`).

Letters: Q queries, N numbers of a view, h × w unpadded input.
"""

import hashlib
import json
import math
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.detectors.base import Detections
from mask_frozen_detr.machine.files import write_bytes_atomic


@dataclass(frozen=True)
class FrozenView:
    """What the detector makes of one view, as it is stored.

    values: (N,) bfloat16, the tensors of `layout`, name and shape each, one behind the other. boxes: (1, Q, 4)
    float32, since bfloat16 would move them by more than a pixel. size: (h, w) of the detector's input.
    """

    values: Tensor
    boxes: Tensor
    layout: list[tuple[str, list[int]]]
    size: tuple[int, int]

    @classmethod
    def pack(cls, found: Detections, size: tuple[int, int], stem: bool, pixels: bool) -> "FrozenView":
        """Of `found` for one image (B = 1); C₁ and the input are kept on request."""
        parts = {"queries": found.queries, "logits": found.logits}
        parts |= {f"level{number}": level for number, level in enumerate(found.features)}
        if stem and found.stem is not None:
            parts["stem"] = found.stem
        if pixels and found.pixels is not None:
            parts["pixels"] = found.pixels
        values = torch.cat([part.flatten().to(torch.bfloat16) for part in parts.values()]).cpu()
        return cls(values, found.boxes.float().cpu(), [(name, list(part.shape)) for name, part in parts.items()], size)

    def unpack(self, device: torch.device) -> Detections:
        """On `device`, in float32."""
        values = self.values.to(device, non_blocking=True).float()
        pieces = values.split([math.prod(shape) for _, shape in self.layout])
        parts = {name: piece.view(shape) for (name, shape), piece in zip(self.layout, pieces, strict=True)}
        return Detections(
            queries=parts["queries"],
            logits=parts["logits"],
            boxes=self.boxes.to(device, non_blocking=True),
            features=[part for name, part in parts.items() if name.startswith("level")],
            stem=parts.get("stem"),
            pixels=parts.get("pixels"),
        )

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.boxes.nbytes


class ViewStore:
    """The files of one detector and pre-processing. Loader processes read them; they need nothing else of a cache."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._hashes: dict[Path, str | None] = {}

    def name(self, record: ImageRecord, flip: bool) -> str | None:
        """Of a view: its image's content and size, and whether it is mirrored. None where the file cannot be read."""
        if record.path not in self._hashes:
            try:
                self._hashes[record.path] = hashlib.sha256(record.path.read_bytes()).hexdigest()[:32]
            except OSError:
                self._hashes[record.path] = None  # reading it as an image will say why
        content = self._hashes[record.path]
        # The size that the annotations were made for: if that changes, the image is looked at again.
        return content and f"{content}-{record.width}x{record.height}{'-flipped' if flip else ''}"

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def read(self, name: str) -> FrozenView | None:
        """None for what is not there, or damaged: it will be made, anew if need be, with a warning."""
        path = self.path(name)
        try:
            with safe_open(path, "pt") as file:
                described: dict[str, Any] = json.loads(file.metadata()["view"])
                values, boxes = file.get_tensor("values"), file.get_tensor("boxes")
            if _checksum(values, boxes) != described["checksum"]:
                raise ValueError("its content is not what was written")
            layout = [(str(part), list(shape)) for part, shape in described["layout"]]
            height, width = described["size"]
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path}: is damaged ({error}) and will be made anew", stacklevel=2)
            return None
        return FrozenView(values, boxes, layout, (height, width))

    def write(self, name: str, view: FrozenView) -> None:
        """Raises UserError where the disk is full or writing is not permitted."""
        described = {"layout": view.layout, "size": view.size, "checksum": _checksum(view.values, view.boxes)}
        data = save({"values": view.values, "boxes": view.boxes}, {"view": json.dumps(described)})
        write_bytes_atomic(self.path(name), data)


def _checksum(*tensors: Tensor) -> int:
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, value)
    return value
