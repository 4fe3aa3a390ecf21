"""Training samples: a random view of an image, the detector's own pre-processing, ground truth as small crops.

Every sample is drawn from (seed, sample number) alone. So the order of workers and processes does not matter, and a
resumed run goes on with the very samples it would have had.

Letters: T objects of an image, S side of the ground-truth crops.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mask_frozen_detr.data.classes import ClassMap
from mask_frozen_detr.data.coco import CocoData, ImageRecord, check_size
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.detectors.base import Detections
from mask_frozen_detr.detectors.preprocessing import Preprocessing, collate_images
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.training.augment import AugmentConfig, draw_view, jitter_colour
from mask_frozen_detr.training.crops import mask_crop
from mask_frozen_detr.training.frozen_views import FrozenView, ViewStore
from mask_frozen_detr.training.matching import Targets

CROP_SIDE = 112
SMALLEST_SIDE = 1.0  # pixels of the view: thinner remains of cropped objects are dropped


@dataclass
class Sample:
    """image: (3, h, w) pre-processed, unpadded. problem: why the image could not be used, if so.

    number: the sample's, for all that is drawn later. view: name of the view in a cache of frozen outputs, if there is
    one. frozen: what the cache has of it; then the image was not read and is (3, 0, 0).
    """

    image: Tensor
    targets: Targets
    problem: str | None = None
    number: int = 0
    view: str | None = None
    frozen: FrozenView | None = None


@dataclass
class Batch:
    """pixel_values (B, 3, H, W), pixel_mask (B, H, W), targets of each image, problems met on the way, sample numbers.

    detections: what the frozen detector finds, where it need not run any more; pixel_values are (B, 3, 0, 0) then.
    """

    pixel_values: Tensor
    pixel_mask: Tensor
    targets: list[Targets]
    problems: list[str]
    numbers: list[int]
    detections: Detections | None = None


class TrainingData(Dataset[Sample]):
    """COCO-format images with masks, indexed by (image number, sample number).

    store: frozen outputs of views (see `cache`). Images whose outputs it holds are not read.
    """

    def __init__(
        self,
        data: CocoData,
        classes: ClassMap,
        preprocessing: Preprocessing,
        augment: AugmentConfig,
        seed: int,
        store: ViewStore | None = None,
    ):
        self.classes, self.preprocessing, self.augment, self.seed = classes, preprocessing, augment, seed
        self.store = store
        self.images = [
            record
            for record in data.images
            if any(not a.iscrowd and a.category_id in classes.index_of for a in record.annotations)
        ]
        if not self.images:
            raise UserError(
                f"{data.annotation_file}: no image has an annotation to learn from "
                f"({len(data.images)} images, {len(data.skipped)} broken annotations)"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        index, number = item
        record = self.images[index]
        rng = np.random.default_rng([self.seed, number])
        view = draw_view(record.width, record.height, self.augment, self.preprocessing.resizes_freely, rng)
        name = None
        if self.store is not None:
            name = self.store.name(record, view.flip)
            frozen = self.store.read(name) if name is not None else None
            if frozen is not None:
                return Sample(torch.zeros(3, 0, 0), self._targets(record, view), None, number, name, frozen)
        try:
            source = read_image(record.path, apply_exif=False)
            check_size(record, source)
        except UserError as error:
            return Sample(torch.zeros(3, *self.preprocessing.probe_size()), no_targets(), str(error), number)
        image = view.image(source)
        if self.augment.colour_jitter:
            image = jitter_colour(image, self.augment.colour_jitter, rng)
        pixels = self.preprocessing(image, resize=not self.augment.sets_size)
        return Sample(pixels, self._targets(record, view), None, number, name)

    def _targets(self, record: ImageRecord, view) -> Targets:
        boxes, labels, crops = [], [], []
        W, H = view.canvas
        for annotation in record.annotations:
            label = self.classes.index_of.get(annotation.category_id)
            if label is None or annotation.iscrowd:
                continue
            x, y, w, h = annotation.bbox
            frame = view.clip((x, y, x + w, y + h))
            if frame is None:
                continue
            x0, y0, x1, y1 = view.place(frame)
            if min(x1 - x0, y1 - y0) < SMALLEST_SIDE:
                continue
            crop = mask_crop(annotation.segmentation, frame, CROP_SIDE, (record.width, record.height))
            if not crop.any():
                continue
            boxes.append(((x0 + x1) / 2 / W, (y0 + y1) / 2 / H, (x1 - x0) / W, (y1 - y0) / H))
            labels.append(label)
            crops.append(crop[:, ::-1] if view.flip else crop)
        if not boxes:
            return no_targets()
        return Targets(
            torch.tensor(boxes, dtype=torch.float32),
            torch.tensor(labels, dtype=torch.int64),
            torch.from_numpy(np.ascontiguousarray(np.stack(crops), dtype=np.uint8)),
        )


def no_targets() -> Targets:
    return Targets(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, CROP_SIDE, CROP_SIDE, dtype=torch.uint8),
    )


def collate(samples: list[Sample]) -> Batch:
    """Samples to one zero-padded batch."""
    return make_batch(samples, *collate_images([sample.image for sample in samples]))


def make_batch(
    samples: Sequence[Sample], pixel_values: Tensor, pixel_mask: Tensor, detections: Detections | None = None
) -> Batch:
    """Samples whose images, or what was found in them, are batched already."""
    problems = [sample.problem for sample in samples if sample.problem]
    targets, numbers = [sample.targets for sample in samples], [sample.number for sample in samples]
    return Batch(pixel_values, pixel_mask, targets, problems, numbers, detections)


class SampleOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (image number, sample number), every epoch in an order of its own, for one of `world` processes.

    Sample numbers count all samples of all processes: step s of a global batch of b takes numbers s·b … s·b + b − 1,
    and process `rank` takes its share of them. `start` is the first step to take.
    """

    def __init__(self, images: int, batch: int, steps: int, seed: int, start: int = 0, rank: int = 0, world: int = 1):
        self.images, self.batch, self.steps, self.seed = images, batch, steps, seed
        self.start, self.rank, self.world = start, rank, world

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.zeros(0, dtype=np.int64)
        share = self.batch // self.world
        for step in range(self.start, self.steps):
            items = []
            first = step * self.batch + self.rank * share
            for number in range(first, first + share):
                if number // self.images != epoch:
                    epoch = number // self.images
                    order = np.random.default_rng([self.seed, 1 << 32, epoch]).permutation(self.images)
                items.append((int(order[number % self.images]), number))
            yield items
