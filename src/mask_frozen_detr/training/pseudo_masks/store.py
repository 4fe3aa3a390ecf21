"""Where pseudo-masks are kept, and which objects have them: one file an image, under all that decides its content.

A file is named by the hash of the picture and of the boxes in it: whatever changes gets masks of its own, and a run
that was killed finds those that are drawn already.

Letters: T objects of an image with a pseudo-mask, S cells a side.
"""

import hashlib
import io
from array import array
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.data.validation import Annotation
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.files import write_bytes_atomic
from mask_frozen_detr.training.box_masks import MASK_SIDE
from mask_frozen_detr.training.config import MasksFrom
from mask_frozen_detr.training.frozen_views import hash_view
from mask_frozen_detr.training.pseudo_masks.evidence import Evidence

FORMAT = 1  # of the files and of how the first masks are drawn: another number, other files
FOLDER = "pseudo-masks"


class PseudoMasks:
    """The pseudo-masks of a run.

    masks_from: which objects have one. first: the folder of those that are drawn from pixels and boxes, which several
    runs may share. redrawn: the folder of those that the network draws, a folder in it a round. round: whose masks are
    read; 1 at first. evidence: of the detector, which the first masks follow; None: pixels and boxes alone.
    """

    def __init__(self, masks_from: MasksFrom, first: Path, redrawn: Path, evidence: Evidence | None = None):
        self.masks_from, self.first, self.redrawn, self.round = masks_from, first, redrawn, 1
        self.evidence = evidence
        self._hashes: dict[Path, str | None] = {}

    def draws(self, annotation: Annotation) -> bool:
        """Whether an object's mask is a pseudo-mask."""
        return draws(self.masks_from, annotation)

    def objects(self, record: ImageRecord) -> list[Annotation]:
        """T of them, in the order of their masks."""
        return [annotation for annotation in record.annotations if self.draws(annotation)]

    def path(self, record: ImageRecord) -> Path:
        """The file of an image, in this round. Raises UserError where the picture cannot be read."""
        return self._path(record, self.round)

    def _path(self, record: ImageRecord, number: int) -> Path:
        if record.path not in self._hashes:
            self._hashes[record.path] = hash_view(record.path)
        content = self._hashes[record.path]
        if content is None:
            raise UserError(f"{record.path}: cannot be read")
        key = hashlib.sha256(f"{FORMAT} {content} {record.width} {record.height} {record.orientation}".encode())
        for annotation in self.objects(record):
            key.update(array("d", annotation.bbox))
            if self.evidence is not None:
                key.update(f"{self.evidence.name} {self.evidence.label(annotation)}".encode())
        folder = self.first if number == 1 else self.redrawn / f"round-{number}"
        return folder / f"{key.hexdigest()[:32]}.npz"

    def has(self, record: ImageRecord) -> bool:
        """Whether the image's masks are drawn, in this round. Raises UserError as `path` does."""
        return not self.objects(record) or self.path(record).is_file()

    def read(self, record: ImageRecord) -> np.ndarray:
        """(T, S, S) uint8, 255 where a cell is surely the object's, each over the part of its box within the image.

        Raises UserError where they are not there, or are damaged.
        """
        count = len(self.objects(record))
        if not count:
            return np.zeros((0, MASK_SIDE, MASK_SIDE), np.uint8)
        path = self.path(record)
        masks = self._stored(path, record, "masks")
        if masks.shape != (count, MASK_SIDE, MASK_SIDE) or masks.dtype != np.uint8:
            raise UserError(f"{path}: holds {masks.dtype} {masks.shape}, expected {count} masks; remove the file")
        return masks

    def read_evidence(self, record: ImageRecord) -> Sequence[np.ndarray | None]:
        """(T, V, V) of the detector, as the first masks followed it; None of each where they follow none.

        Raises UserError as `read` does.
        """
        count = len(self.objects(record))
        if self.evidence is None or not count:
            return [None] * count
        path = self._path(record, 1)
        told = self._stored(path, record, "evidence")
        if told.ndim != 3 or len(told) != count or told.dtype != np.float16:
            raise UserError(f"{path}: holds {told.dtype} {told.shape}, expected evidence of {count} objects; remove it")
        return list(told)

    def _stored(self, path: Path, record: ImageRecord, name: str) -> np.ndarray:
        try:
            with np.load(path, allow_pickle=False) as file:
                return file[name]
        except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
            raise UserError(
                f"{path}: the pseudo-masks of {record.path.name} are gone or damaged ({type(error).__name__}); remove "
                "the file, and --resume draws them again"
            ) from error

    def write(self, record: ImageRecord, masks: np.ndarray, evidence: np.ndarray | None = None) -> None:
        """What `read` and `read_evidence` give. Raises UserError where it cannot be written."""
        buffer = io.BytesIO()
        if evidence is None:
            np.savez_compressed(buffer, masks=masks)
        else:
            np.savez_compressed(buffer, masks=masks, evidence=evidence.astype(np.float16))
        write_bytes_atomic(self.path(record), buffer.getvalue())


def draws(masks_from: MasksFrom, annotation: Annotation) -> bool:
    """Whether an object's mask is a pseudo-mask; a crowd has none, and counts for nothing."""
    wanted = masks_from == "boxes" or (masks_from == "boxes-where-missing" and annotation.segmentation is None)
    return wanted and not annotation.iscrowd


def count_masks(masks_from: MasksFrom, records: Sequence[ImageRecord]) -> tuple[int, int, int]:
    """Objects that learn from a true mask, from a pseudo-mask, and true masks that are not looked at."""
    objects = [a for record in records for a in record.annotations if not a.iscrowd]
    drawn = sum(draws(masks_from, annotation) for annotation in objects)
    true = sum(annotation.segmentation is not None for annotation in objects)
    unseen = true if masks_from == "boxes" else 0
    return true - unseen, drawn, unseen
