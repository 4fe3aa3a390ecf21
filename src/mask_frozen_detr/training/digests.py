"""Digests of what a run learns from: whether it is still the same is asked when the run goes on."""

import hashlib
from array import array
from collections.abc import Sequence

from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.regular_files import read_regular
from mask_frozen_detr.training.samples import TrainingData

CHEAP = 256 * 2**20  # bytes of all pictures, up to which these are read


def digest_data(dataset: TrainingData) -> dict[str, str]:
    """Digests of the annotations, images in their order with all that is known of them, and of the pictures.

    Where all pictures are small enough to be read at once (256 MiB), their bytes count, else their sizes in bytes:
    then a picture that was replaced by another of the very same size is not noticed.
    """
    sizes = [_size(record) for record in dataset.images]
    if sum(sizes) > CHEAP:
        return {"annotations": _annotations(dataset), "picture sizes": _hex(array("q", sizes).tobytes())}
    return {"annotations": _annotations(dataset), "pictures": _pictures(dataset.images)}


def _annotations(dataset: TrainingData) -> str:
    """Names without folders: data may lie elsewhere when a run goes on. Floats, however numbers were written."""
    hasher = hashlib.sha256()
    for record in dataset.images:
        hasher.update(f"{record.path.name}|{record.width}|{record.height}|{len(record.annotations)}\n".encode())
        for annotation in record.annotations:
            label = dataset.classes.index_of.get(annotation.category_id)
            hasher.update(f"{label}|{annotation.iscrowd}|".encode())
            hasher.update(array("d", annotation.bbox))
            segmentation = annotation.segmentation
            if isinstance(segmentation, list):
                for polygon in segmentation:
                    hasher.update(f"{len(polygon)}:".encode())
                    hasher.update(array("d", polygon))
            else:
                hasher.update(repr(segmentation).encode())
    return hasher.hexdigest()


def _pictures(images: Sequence[ImageRecord]) -> str:
    hasher = hashlib.sha256()
    for record in images:
        try:
            content = read_regular(record.path)
        except (OSError, UserError):
            content = b"cannot be read"
        hasher.update(hashlib.sha256(content).digest())
    return hasher.hexdigest()


def _size(record: ImageRecord) -> int:
    try:
        return record.path.stat().st_size
    except OSError:
        return -1


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
