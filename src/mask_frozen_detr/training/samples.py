"""Training samples: a random view of an image, the detector's own pre-processing, ground truth as small masks.

Every sample is drawn from (seed, sample number) alone. So the order of workers and processes does not matter, and a
resumed run goes on with the very samples it would have had.

Letters: B images, H × W padded input, T objects of an image, S side of the ground-truth masks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mask_frozen_detr.data.classes import ClassMap
from mask_frozen_detr.data.coco import CocoData, ImageRecord
from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.data.validation import Annotation
from mask_frozen_detr.detectors.base import Detections
from mask_frozen_detr.detectors.preprocessing import Preprocessing, collate_images
from mask_frozen_detr.errors import UserError, reason
from mask_frozen_detr.training.augment import View, draw_view, jitter_colour
from mask_frozen_detr.training.box_masks import MASK_SIDE, box_mask
from mask_frozen_detr.training.config import AugmentConfig
from mask_frozen_detr.training.copy_paste import choose_objects, paste_objects
from mask_frozen_detr.training.frozen_views import FrozenView, ViewStore
from mask_frozen_detr.training.matching import Targets
from mask_frozen_detr.training.pseudo_masks.soft_cut import Box, inside_image
from mask_frozen_detr.training.pseudo_masks.store import PseudoMasks

SMALLEST_SIDE = 1.0  # pixels of the view: thinner remains of objects that it cuts are dropped
BESIDE_TRUTH = 0.5  # what a pseudo-mask counts where other objects have a true one
SMALLEST_INPUT = 16  # pixels a side: the largest patches that detectors begin with


@dataclass
class Sample:
    """One view of an image, and what there is to find in it.

    image: (3, h, w) pre-processed, unpadded; or what the frozen detector makes of it, where a cache holds that.
    number: the sample's, for all that is drawn later. path: of the image. problem: why the image could
    not be used, if so; then `image` is blank. view: what a cache calls this view, where there is one.
    """

    image: Tensor | FrozenView
    targets: Targets
    number: int = 0
    path: Path | None = None
    problem: str | None = None
    view: str | None = None


@dataclass
class Batch:
    """Samples side by side.

    images: (B, 3, H, W) pre-processed and zero-padded; or what the frozen detector finds in them, where that is known.
    pixel_mask: (B, H, W), 1 = image. targets and numbers: of each sample. paths: of their images. problems: of those
    that had one.
    """

    images: Tensor | Detections
    pixel_mask: Tensor
    targets: list[Targets]
    numbers: list[int]
    paths: list[Path]
    problems: list[str]


class TrainingData(Dataset[Sample]):
    """COCO-format images with masks, indexed by (image number, sample number).

    pseudo_masks: of objects whose mask is not taken from the annotations; they must be there when a sample is asked
    for. Frozen outputs of views are read from `store`, once a cache has set one, and their images are not.
    Raises UserError where no image has anything to learn from, and for large-scale jitter with a detector that
    resizes every image: the jitter's scale and padding would be lost on it.
    """

    def __init__(
        self,
        data: CocoData,
        classes: ClassMap,
        preprocessing: Preprocessing,
        augment: AugmentConfig,
        seed: int,
        pseudo_masks: PseudoMasks | None = None,
    ):
        self.classes, self.preprocessing, self.augment, self.seed = classes, preprocessing, augment, seed
        self.pseudo_masks = pseudo_masks
        self.store: ViewStore | None = None
        if augment.large_scale_jitter and not preprocessing.resizes_freely:
            raise UserError(
                "large_scale_jitter: found True, but the detector's pre-processing resizes every image itself, "
                "whatever scale was drawn; leave it out, or take a detector that takes images of any size"
            )
        self.images = [
            record
            for record in data.images
            if any(
                not a.iscrowd
                and (a.segmentation is not None or self._is_drawn(a))
                and a.category_id in classes.index_of
                for a in record.annotations
            )
        ]
        if not self.images:
            bare = sum(a.segmentation is None for record in data.images for a in record.annotations)
            raise UserError(
                f"{data.annotation_file}: no image has an annotation to learn from "
                f"({len(data.images)} images, {bare} annotations without a mask, {len(data.skipped)} broken ones)"
                + ("; --masks-from boxes learns from the boxes alone" if bare and pseudo_masks is None else "")
            )
        mixed = any(
            annotation.segmentation is not None and not annotation.iscrowd and not self._is_drawn(annotation)
            for record in self.images
            for annotation in record.annotations
        )
        self._trust = BESIDE_TRUTH if mixed else 1.0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        index, number = item
        record = self.images[index]
        try:
            return self._sample(record, number)
        except UserError as error:
            problem = str(error)
        except Exception as error:  # whatever one picture brings about in Pillow, numpy or a pre-processing
            problem = f"{record.path}: cannot be made ready for the detector ({reason(error)})"
        return Sample(
            torch.zeros(self.preprocessing.channels, *self.preprocessing.probe_size()),
            no_targets(),
            number,
            record.path,
            problem,
        )

    def _sample(self, record: ImageRecord, number: int) -> Sample:
        rng = np.random.default_rng([self.seed, number])
        edges = self.preprocessing.edges if self.preprocessing.resizes_freely else None
        view = draw_view(record.width, record.height, self.augment, edges, rng)
        source = None
        if self.augment.copy_paste and rng.random() < self.augment.copy_paste:
            record, source = self._with_pasted(record, open_picture(record, record.orientation), rng)
        targets, name = self._targets(record, view), None
        if self.store is not None:
            name = self.store.name(record, view.flip)
            frozen = self.store.read(name) if name is not None else None
            if frozen is not None:
                return Sample(frozen, targets, number, record.path, view=name)
        image = view.image(open_picture(record, record.orientation) if source is None else source)
        if self.augment.colour_jitter:
            image = jitter_colour(image, self.augment.colour_jitter, rng)
        pixels = self.preprocessing(image, resize=not self.augment.sets_size)
        if min(pixels.shape[1:]) < SMALLEST_INPUT:
            raise UserError(
                f"{record.path}: is {record.width} × {record.height} pixels, of which pre-processing makes "
                f"{pixels.shape[2]} × {pixels.shape[1]}; expected at least {SMALLEST_INPUT} a side"
            )
        return Sample(pixels, targets, number, record.path, view=name)

    def _with_pasted(
        self, record: ImageRecord, image: Image.Image, rng: np.random.Generator
    ) -> tuple[ImageRecord, Image.Image]:
        """An image, and what is in it, with objects of another one; an image that cannot be read lends none."""
        donor = self.images[int(rng.integers(len(self.images)))]
        objects = [] if donor is record else choose_objects(donor, self.classes.index_of, rng)
        if not objects:
            return record, image
        try:
            source = open_picture(donor, donor.orientation)
        except UserError:  # told of when its own turn comes
            return record, image
        return paste_objects(record, image, donor, source, objects, self.augment.flip, rng)

    def whole(self, record: ImageRecord, flip: bool) -> Sample:
        """All of an image as the detector sees it in evaluation, or that mirrored, with nothing to find.

        Raises UserError where it cannot be read.
        """
        size = (record.width, record.height)
        name = None if self.store is None else self.store.name(record, flip)
        frozen = self.store.read(name) if self.store is not None and name is not None else None
        if frozen is not None:
            return Sample(frozen, no_targets(), path=record.path, view=name)
        view = View((0.0, 0.0, float(size[0]), float(size[1])), size, flip)
        image = view.image(open_picture(record, record.orientation))
        return Sample(self.preprocessing(image), no_targets(), path=record.path, view=name)

    def _is_drawn(self, annotation: Annotation) -> bool:
        return self.pseudo_masks is not None and self.pseudo_masks.draws(annotation)

    def _targets(self, record: ImageRecord, view: View) -> Targets:
        boxes, labels, masks, has_mask, weights = [], [], [], [], []
        drawn = iter([] if self.pseudo_masks is None else self.pseudo_masks.read(record))
        W, H = view.size
        for annotation in record.annotations:
            pseudo = next(drawn) if self._is_drawn(annotation) else None  # every one is taken, used or not
            label = self.classes.index_of.get(annotation.category_id)
            if label is None or annotation.iscrowd:
                continue
            x, y, w, h = annotation.bbox
            visible = view.clip((x, y, x + w, y + h))
            if visible is None:
                continue
            x0, y0, x1, y1 = view.map_box(visible)
            if min(x1 - x0, y1 - y0) < SMALLEST_SIDE:
                continue
            weight = 1.0
            if pseudo is not None:
                whole = inside_image((x, y, x + w, y + h), record.width, record.height)
                mask = part_of(pseudo, whole, visible).astype(np.float16) / 255
                weight = self._trust * float(np.abs(2 * mask.astype(np.float32) - 1).mean())
            elif annotation.segmentation is None:
                mask = np.zeros((MASK_SIDE, MASK_SIDE), dtype=np.uint8)
            else:
                mask = box_mask(annotation.segmentation, visible, MASK_SIDE, (record.width, record.height))
                if not mask.any():
                    continue
            boxes.append(((x0 + x1) / 2 / W, (y0 + y1) / 2 / H, (x1 - x0) / W, (y1 - y0) / H))
            labels.append(label)
            masks.append(mask[:, ::-1] if view.flip else mask)
            has_mask.append(pseudo is not None or annotation.segmentation is not None)
            weights.append(weight)
        if not boxes:
            return no_targets()
        return Targets(
            torch.tensor(boxes, dtype=torch.float32),
            torch.tensor(labels, dtype=torch.int64),
            torch.from_numpy(np.ascontiguousarray(np.stack(masks))),
            torch.tensor(has_mask),
            torch.tensor(weights, dtype=torch.float32),
        )


def part_of(mask: np.ndarray, box: Box, visible: Box) -> np.ndarray:
    """What of an (S, S) mask over `box` is over `visible`, a box within it, on as many cells: the nearest ones."""
    rows, columns = (
        (low + (np.arange(len(mask)) + 0.5) * (high - low) / len(mask) - start) / (end - start) * len(mask)
        for low, high, start, end in (
            (visible[1], visible[3], box[1], box[3]),
            (visible[0], visible[2], box[0], box[2]),
        )
    )
    last = len(mask) - 1
    return mask[np.ix_(rows.astype(int).clip(0, last), columns.astype(int).clip(0, last))]


def no_targets() -> Targets:
    return Targets(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, MASK_SIDE, MASK_SIDE, dtype=torch.uint8),
        torch.zeros(0, dtype=torch.bool),
        torch.zeros(0),
    )


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples that came with their pixels as one zero-padded batch."""
    return make_batch(
        samples, *collate_images([sample.image for sample in samples if isinstance(sample.image, Tensor)])
    )


def make_batch(samples: Sequence[Sample], images: Tensor | Detections, pixel_mask: Tensor) -> Batch:
    """The batch of samples whose images, or what the detector finds in them, are side by side already."""
    return Batch(
        images,
        pixel_mask,
        [sample.targets for sample in samples],
        [sample.number for sample in samples],
        [sample.path for sample in samples if sample.path is not None],
        [sample.problem for sample in samples if sample.problem],
    )


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
