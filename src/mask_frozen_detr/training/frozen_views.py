"""What the frozen detector makes of one view of an image, and the files that keep it (see `cache`).

Letters: Q queries, h × w unpadded input.
"""

import json
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.detectors.base import Detections
from mask_frozen_detr.machine.checksums import hash_if_file
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.machine.files import write_bytes_atomic
from mask_frozen_detr.machine.regular_files import check_regular

NEEDED = {"queries", "logits", "boxes", "level0"}


@dataclass(frozen=True)
class FrozenView:
    """What the detector makes of one view, as it is stored.

    tensors: by name, on the host: `queries`, `logits`, `level0` …, on request `stem` with `stage0` … and
    `pixels`, in bfloat16; `boxes` (1, Q, 4) in float32, since bfloat16 would move them by more than a pixel. size:
    (h, w) of the detector's input.
    """

    tensors: dict[str, Tensor]
    size: tuple[int, int]

    @classmethod
    def pack(cls, detections: Detections, size: tuple[int, int], stem: bool, pixels: bool) -> "FrozenView":
        """Detections of one image (B = 1); C₁ and the input are kept on request."""
        parts = {"queries": detections.queries, "logits": detections.logits}
        parts |= {f"level{number}": level for number, level in enumerate(detections.features)}
        if stem and detections.stem is not None:
            parts["stem"] = detections.stem
            parts |= {f"stage{number}": stage for number, stage in enumerate(detections.stages)}
        if pixels and detections.pixels is not None:
            parts["pixels"] = detections.pixels
        # Contiguous whatever the detector's memory format: as they are read back.
        tensors = {name: part.to("cpu", torch.bfloat16).contiguous() for name, part in parts.items()}
        return cls({**tensors, "boxes": detections.boxes.to("cpu", torch.float32).contiguous()}, size)

    def unpack(self, device: torch.device) -> Detections:
        """The detections on `device`, in float32."""
        parts = {name: send(tensor, device).float() for name, tensor in self.tensors.items()}
        levels, stages = (sum(name.startswith(kind) for name in parts) for kind in ("level", "stage"))
        return Detections(
            queries=parts["queries"],
            logits=parts["logits"],
            boxes=parts["boxes"],
            features=[parts[f"level{number}"] for number in range(levels)],
            stem=parts.get("stem"),
            pixels=parts.get("pixels"),
            stages=[parts[f"stage{number}"] for number in range(stages)],
        )

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


class ViewStore:
    """The files of one detector and pre-processing. Loader processes read them; they need nothing else of a cache."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._hashes: dict[Path, str | None] = {}

    def name(self, record: ImageRecord, flip: bool) -> str | None:
        """What a view is called: its image's content and size, and whether it is mirrored.

        None where the image's file cannot be read.
        """
        if record.path not in self._hashes:
            self._hashes[record.path] = hash_view(record.path)
        content = self._hashes[record.path]
        # The size that the annotations were made for: if that changes, the image is looked at again.
        return content and f"{content}-{record.width}x{record.height}{'-flipped' if flip else ''}"

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def read(self, name: str) -> FrozenView | None:
        """None for what is not there, or damaged: it will be made, anew if need be, with a warning."""
        path = self.path(name)
        try:
            check_regular(path)
            with safe_open(path, "pt") as file:
                described = json.loads((file.metadata() or {})["view"])
                tensors = {part: file.get_tensor(part) for part in file.keys()}  # noqa: SIM118  no dictionary
            if described["checksum"] != _checksum(tensors):
                raise ValueError("its content is not what was written")
            if not tensors.keys() >= NEEDED:
                raise ValueError(f"holds {', '.join(sorted(tensors)) or 'nothing'}")
            height, width = described["size"]
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path}: is damaged ({error}) and will be made anew", stacklevel=2)
            return None
        return FrozenView(tensors, (height, width))

    def write(self, name: str, view: FrozenView) -> None:
        """Raises UserError where the disk is full or writing is not permitted."""
        described = json.dumps({"size": view.size, "checksum": _checksum(view.tensors)})
        write_bytes_atomic(self.path(name), save(view.tensors, {"view": described}))


def is_view_file(name: str) -> bool:
    """Whether a file of this name is one that a `ViewStore` writes."""
    return re.fullmatch(r"[0-9a-f]{32}-\d+x\d+(-flipped)?\.safetensors", name) is not None


def hash_view(path: Path) -> str | None:
    """A hash of a picture. None for what is no file that can be read: reading it as an image will say why."""
    found = hash_if_file(path)
    return found and found[:32]


def _checksum(tensors: dict[str, Tensor]) -> int:
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode(), value)
        value = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, value)
    return value
