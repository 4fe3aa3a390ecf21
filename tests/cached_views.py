"""A cache of frozen outputs over given data, and what lies in it."""

from pathlib import Path

import torch

from mask_frozen_detr import MaskFrozenDetr
from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.detectors.base import Detections
from mask_frozen_detr.training.cache import FrozenCache
from mask_frozen_detr.training.config import AugmentConfig
from mask_frozen_detr.training.samples import Batch, TrainingData

PLAIN = AugmentConfig(flip=False, multi_scale=False, crop=False)
FLIPS = AugmentConfig(multi_scale=False, crop=False)


def training_data(model: MaskFrozenDetr, data, augment: AugmentConfig = PLAIN) -> TrainingData:
    info = model.detector.info
    return TrainingData(data, classes_of(data, info.class_names), info.preprocessing, augment, 0)


def opened(
    folder: Path, model: MaskFrozenDetr, data, augment: AugmentConfig = PLAIN
) -> tuple[FrozenCache, TrainingData]:
    cache, dataset = FrozenCache(folder, model), training_data(model, data, augment)
    cache.open(dataset)
    return cache, dataset


def files_of(cache: FrozenCache) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.store.folder.glob("*.safetensors")}


def tensors(found: Detections) -> list[torch.Tensor]:
    parts = [found.queries, found.logits, found.boxes, *found.features, found.stem, found.pixels]
    return [part for part in parts if part is not None]


def check_equal(first: Batch, second: Batch) -> None:
    assert isinstance(first.images, Detections)
    assert isinstance(second.images, Detections)
    pairs = list(zip(tensors(first.images), tensors(second.images), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(first.pixel_mask, second.pixel_mask)
    for a, b in zip(first.targets, second.targets, strict=True):
        assert all(torch.equal(getattr(a, key), getattr(b, key)) for key in ("boxes", "labels", "masks"))
