"""Frozen outputs on disk (not in the paper): a small data set's detector runs once a view, not once an epoch.

A view is an image as its detector sees it in evaluation, or that mirrored. Views that no epoch repeats cannot be
kept: with a cache random sizes, crops and pasted objects are off, and jitter is refused.

Each view is one file, made at its first use by a forward pass of that image alone, in fp32, and read back as it was
stored, also at that first use: so a run that is killed and resumed sees the same numbers. Files lie in a folder
named by all that decides them (detector, encoder layer, prompt, pre-processing), under the hash of the image's bytes.

Letters: B images, h × w unpadded and H × W padded input.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mask_frozen_detr.detectors.preprocessing import collate_images, mask_of_sizes
from mask_frozen_detr.detectors.transformers_detector import join
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.machine.files import sweep, write_json_atomic
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.training.config import AugmentConfig
from mask_frozen_detr.training.frozen_views import FrozenView, ViewStore, is_view_file
from mask_frozen_detr.training.samples import Batch, Sample, TrainingData, make_batch

FORMAT = 2  # of the files: another number, another folder
PROBES = 5  # images whose sizes the estimate is made from
PROBE_SIDE = 1000  # pixels of a probe's longer side, at most: the detector resizes it anyway
GB = 1e9
OLD = 3600.0  # seconds after which what a write left behind is nobody's any more
CACHE_FILE = "cache.json"


class FrozenCache:
    """Frozen outputs of a data set's views for one model.

    folder: may hold caches of several detectors. limit: GB (10⁹ bytes) that the views of the data set may take.
    Raises UserError for a limit that is none.
    """

    def __init__(self, folder: Path, model: MaskFrozenDetr, limit: float = 20.0):
        if not limit > 0:
            raise UserError(f"cache_limit: found {limit}, expected a positive number of GB")
        self.detector, self.limit = model.detector, limit
        self.stem, self.pixels = model.network.fusion.uses_stem, model.network.pixel_stem is not None
        if self.pixels:
            self.stem = False  # the learned one takes its place
        identity = self.detector.info.identity.as_dict()
        self.description = {
            "format": FORMAT,
            # all that decides what the detector gives, wherever it was loaded from
            "detector": {key: value for key, value in identity.items() if key not in ("name", "revision")},
            "type": str(next(self.detector.parameters()).dtype),
            "preprocessing": self.detector.info.preprocessing.describe(),
            "stem": self.stem,
            "pixels": self.pixels,
        }
        key = hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()[:16]
        self.store = ViewStore(Path(folder) / key)

    @staticmethod
    def augment(config: AugmentConfig) -> AugmentConfig:
        """What is left of `config`: the flip. Raises UserError where jitter is asked for, which is never a default."""
        for name in ("large_scale_jitter", "colour_jitter"):
            if getattr(config, name):
                raise UserError(
                    f"{name}: found {getattr(config, name)}, but with --cache no image may look different in every "
                    "epoch; leave out the one or the other"
                )
        return replace(config, multi_scale=False, crop=False, copy_paste=0.0)

    def open(self, dataset: TrainingData) -> str:
        """Let `dataset` read from here; returns what to tell the user, with the estimate.

        The detector must lie on its device already. Raises UserError, before anything is written, where the detector
        learns, where the views would take more than the limit or than the disk has, and where the folder cannot be
        made.
        """
        if dataset.augment != self.augment(dataset.augment):
            raise ValueError("expected a data set whose augmentation has gone through `FrozenCache.augment`")
        if any(parameter.requires_grad for parameter in self.detector.parameters()):
            raise UserError("cache: found a detector that is fine-tuned, whose outputs change; expected a frozen one")
        flips = (False, True) if dataset.augment.flip else (False,)
        views = len(dataset) * len(flips)
        each = self.bytes_a_view(dataset)
        total = each * views
        said = f"{views} views of {len(dataset)} images, at {each / 1e6:.1f} MB each, take about {total / GB:.2f} GB"
        if total > self.limit * GB:
            raise UserError(
                f"cache: {said}, more than the limit of {self.limit:g} GB; raise it with --cache-limit, or train "
                "without --cache"
            )
        names = {self.store.name(record, flip) for record in dataset.images for flip in flips}
        there = {path.stem for path in self.store.folder.glob("*.safetensors")}
        missing = each * len(names - there - {None})
        free = shutil.disk_usage(_existing(self.store.folder)).free
        if missing > free:
            raise UserError(
                f"cache: {said}, {missing / GB:.2f} GB of them still to be written, but {self.store.folder} has "
                f"{free / GB:.2f} GB left; make room, or train without --cache"
            )
        write_json_atomic(self.store.folder / CACHE_FILE, self.description)
        sweep(self.store.folder, lambda name: name == CACHE_FILE or is_view_file(name), OLD)
        dataset.store = self.store
        return (
            f"cache: {said} in {self.store.folder} ({len(names & there)} are there); random sizes, crops and pasted "
            "objects are off"
        )

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """The batch of these samples, with detections (B, …) on the detector's device in the place of pixels.

        Views that the store lacks are made and written. Raises UserError where they cannot be written.
        """
        device = next(self.detector.parameters()).device
        views = [self._view(sample, device) for sample in samples]
        alone = [view.unpack(device) for view in views]
        detections = join(alone)
        if self.pixels:
            detections.pixels, _ = collate_images([one.pixels[0] for one in alone if one.pixels is not None])
        return make_batch(samples, detections, mask_of_sizes([view.size for view in views]))

    def _view(self, sample: Sample, device: torch.device) -> FrozenView:
        """The view of a sample; where it came with its pixels, it is made and kept."""
        if isinstance(sample.image, FrozenView):
            return sample.image
        if sample.view is None:  # the image could not be used: nothing to keep
            return self._run(sample.image, device)
        view = self.store.read(sample.view)  # it may have been made since the loader looked
        if view is None:
            view = self._run(sample.image, device)
            self.store.write(sample.view, view)
        return view

    def _run(self, image: Tensor, device: torch.device) -> FrozenView:
        """One forward pass of (3, h, w), in the detector's own type whatever the training's."""
        height, width = image.shape[1:]
        with torch.autocast(device.type, enabled=False):
            detections = self.detector(send(image[None], device), torch.ones(1, height, width, dtype=torch.long))
        return FrozenView.pack(detections, (height, width), self.stem, self.pixels)

    def bytes_a_view(self, dataset: TrainingData) -> float:
        """The mean of a few, from upright to wide: of blank images, as the content does not matter.

        Images that the pre-processing refuses take no room: training leaves them out.
        """
        device = next(self.detector.parameters()).device
        records = sorted(dataset.images, key=lambda record: record.width / record.height)
        count = min(PROBES, len(records))
        sizes = []
        for number in range(count):
            record = records[int((number + 0.5) / count * len(records))]
            shrink = min(1.0, PROBE_SIDE / max(record.width, record.height))
            width, height = (max(1, round(side * shrink)) for side in (record.width, record.height))
            try:
                image = dataset.preprocessing(Image.new("RGB", (width, height)))
            except Exception:  # whatever a library makes of a picture of one row
                continue
            sizes.append(self._run(image, device).nbytes)
        return sum(sizes) / max(1, len(sizes))


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("."))
