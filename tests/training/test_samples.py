"""Training samples: reproducible whatever the process, in an order that covers all, with only what can be learned."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from narrow import pixels
from PIL import Image
from pycocotools import mask as coco_mask
from tiny_detectors import NAMES
from tiny_training import spoiled
from torch.utils.data import DataLoader

from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.coco import Annotation, CocoData, ImageRecord
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.detectors.preprocessing import ShortestEdge
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.results.paste import paste_probabilities
from mask_frozen_detr.results.rle import segmentation_to_rle
from mask_frozen_detr.training.box_masks import MASK_SIDE
from mask_frozen_detr.training.config import AugmentConfig
from mask_frozen_detr.training.samples import Sample, SampleOrder, TrainingData, collate, no_targets

COCO_549 = Path(__file__).parents[2].parent / "shared" / "data" / "coco-549"
PLAIN = AugmentConfig(flip=False, multi_scale=False, crop=False)


def training_data(detector, data: CocoData, augment: AugmentConfig = PLAIN, seed: int = 0) -> TrainingData:
    classes = classes_of(data, detector.info.class_names)
    return TrainingData(data, classes, detector.info.preprocessing, augment, seed)


def same(first: Sample, second: Sample) -> bool:
    pairs = (
        (first.image, second.image),
        *((getattr(first.targets, k), getattr(second.targets, k)) for k in ("boxes", "labels", "masks")),
    )
    return all(torch.equal(a, b) for a, b in pairs)


# --- reproducible ---


def test_a_sample_depends_on_seed_and_number_alone(squashing, scenes):
    augment = AugmentConfig(colour_jitter=0.3, copy_paste=0.7)
    data = training_data(squashing, scenes[0], augment)
    first = data[2, 17]
    data[1, 5]
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(data[2, 17], first)
    assert same(training_data(squashing, scenes[0], augment)[2, 17], first)
    assert not same(data[2, 18], first)
    assert not same(training_data(squashing, scenes[0], augment, seed=1)[2, 17], first)


def test_loader_processes_change_nothing(squashing, scenes):
    data = training_data(squashing, scenes[0], AugmentConfig(colour_jitter=0.3, copy_paste=0.7))
    drawn = []
    for workers in (0, 2):
        order = SampleOrder(len(data), 2, 4, 0)
        loader = DataLoader(data, batch_sampler=order, num_workers=workers, collate_fn=list)
        drawn.append([sample for batch in loader for sample in batch])
    assert len(drawn[0]) == 8
    assert all(same(a, b) for a, b in zip(*drawn, strict=True))


def test_samples_keep_their_numbers(squashing, scenes):
    """Whatever is drawn for them later follows from these, in every process."""
    data = training_data(squashing, scenes[0])
    assert collate([data[2, 17], data[0, 5]]).numbers == [17, 5]


# --- order ---


def numbers(**options) -> list[list[tuple[int, int]]]:
    return list(SampleOrder(**{"images": 7, "batch": 2, "steps": 14, "seed": 3} | options))


def test_every_epoch_covers_each_image_once():
    items = [item for batch in numbers() for item in batch]
    assert [number for _, number in items] == list(range(28))
    epochs = [[image for image, _ in items[start : start + 7]] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1, "every epoch has an order of its own"


def test_seeds_have_orders_of_their_own():
    assert numbers(seed=3) == numbers(seed=3) != numbers(seed=4)


@pytest.mark.parametrize("start", [0, 1, 5, 13, 14])
def test_a_later_start_goes_on_with_the_same(start):
    assert numbers(start=start) == numbers()[start:]
    assert len(SampleOrder(7, 2, 14, 3, start)) == 14 - start


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batch(world):
    whole = numbers(batch=6)
    shares = [numbers(batch=6, rank=rank, world=world) for rank in range(world)]
    for step, batch in enumerate(whole):
        found = [item for share in shares for item in share[step]]
        assert Counter(found) == Counter(batch)  # disjoint, and together the batch
        assert all(len(share[step]) == 6 // world for share in shares)


def test_a_batch_larger_than_the_data():
    (batch,) = numbers(images=3, batch=7, steps=1)
    assert (
        Counter(image for image, _ in batch) == {0: 3, 1: 2, 2: 2}
        or max(Counter(image for image, _ in batch).values()) == 3
    )
    assert sorted(image for image, _ in batch[:3]) == sorted(image for image, _ in batch[3:6]) == [0, 1, 2]


# --- targets ---


def test_crowds_and_unknown_classes_are_left_out(squashing, scenes):
    record = next(r for r in scenes[0].images if sum(a.category_id <= 3 for a in r.annotations) >= 2)
    known = [a for a in record.annotations if a.category_id <= 3]
    unknown = [a for a in record.annotations if a.category_id > 3]
    crowd = replace(known[0], iscrowd=True)
    changed = replace(record, annotations=(crowd, *known[1:], *unknown))
    data = training_data(squashing, replace(scenes[0], images=[changed]))
    targets = data[0, 0].targets
    assert len(targets.labels) == len(known) - 1
    assert targets.labels.tolist() == [a.category_id - 1 for a in known[1:]]
    expected = [
        [(x + w / 2) / record.width, (y + h / 2) / record.height, w / record.width, h / record.height]
        for x, y, w, h in (a.bbox for a in known[1:])
    ]
    torch.testing.assert_close(targets.boxes, torch.tensor(expected), rtol=0, atol=1e-5)
    assert targets.masks.shape == (len(known) - 1, MASK_SIDE, MASK_SIDE)
    assert targets.masks.dtype == torch.uint8
    assert set(targets.masks.unique().tolist()) == {0, 1}


def test_objects_without_a_mask_are_boxes_to_find(squashing, scenes):
    """Boxes alone, as annotation tools mix them in: truth for the detector, nothing for the mask network."""
    record = next(r for r in scenes[0].images if sum(a.category_id <= 3 for a in r.annotations) >= 2)
    known = [a for a in record.annotations if a.category_id <= 3]
    bare = tuple(replace(a, segmentation=None) for a in known)
    mixed = replace(record, annotations=(bare[0], *known[1:]))
    alone = replace(record, id=77, annotations=bare)
    data = training_data(squashing, replace(scenes[0], images=[alone, mixed]))
    assert [image.id for image in data.images] == [record.id], "no image of boxes alone"
    found, whole = data[0, 0].targets, training_data(squashing, replace(scenes[0], images=[record]))[0, 0].targets
    assert found.has_mask.tolist() == [False] + [True] * (len(known) - 1)
    assert torch.equal(found.boxes, whole.boxes)
    assert torch.equal(found.labels, whole.labels)
    assert not found.masks[0].any()
    assert torch.equal(found.masks[1:], whole.masks[1:])
    with pytest.raises(
        UserError, match=f"no image has an annotation to learn from .*{len(known)} annotations without a"
    ):
        training_data(squashing, replace(scenes[0], images=[alone]))


def test_images_without_anything_to_learn_are_left_out(squashing, scenes):
    images = list(scenes[0].images)
    images[0] = replace(images[0], annotations=())
    images[1] = replace(images[1], annotations=tuple(replace(a, iscrowd=True) for a in images[1].annotations))
    images[2] = replace(images[2], annotations=tuple(replace(a, category_id=4) for a in images[2].annotations))
    data = training_data(squashing, replace(scenes[0], images=images))
    kept = {record.id for record in data.images}
    assert not kept & {record.id for record in images[:3]}
    assert kept == {r.id for r in images[3:] if any(a.category_id <= 3 for a in r.annotations)}


def test_boxes_beyond_the_image_are_cut(squashing, scenes):
    record = scenes[0].images[0]
    annotation = replace(
        record.annotations[0],
        category_id=1,
        bbox=(-20.0, -10.0, 60.0, 50.0),
        segmentation=[[-20.0, -10.0, 40.0, -10.0, 40.0, 40.0, -20.0, 40.0]],
    )
    data = training_data(squashing, replace(scenes[0], images=[replace(record, annotations=(annotation,))]))
    targets = data[0, 0].targets
    expected = torch.tensor([[20 / record.width, 20 / record.height, 40 / record.width, 40 / record.height]])
    torch.testing.assert_close(targets.boxes, expected, rtol=0, atol=1e-5)
    assert targets.masks.float().mean() > 0.98


def test_objects_that_a_view_hardly_shows_are_left_out(squashing, scenes):
    """Thinner than a pixel, or without a cell of mask: boxes of nothing teach nothing."""
    record = scenes[0].images[0]
    thin = replace(record.annotations[0], category_id=1, bbox=(5.0, 5.0, 0.4, 30.0))
    elsewhere = replace(thin, bbox=(5.0, 5.0, 30.0, 30.0), segmentation=[[100.0, 100, 120, 100, 120, 120]])
    data = training_data(squashing, replace(scenes[0], images=[replace(record, annotations=(thin, elsewhere))]))
    assert not len(data[0, 0].targets.labels)


@pytest.mark.parametrize("fault", ["gone", "cut short", "of another size", "no image"])
def test_unusable_images_are_samples_without_targets(fault, squashing, scenes, tmp_path):
    record, other = [r for r in scenes[0].images if any(a.category_id <= 3 for a in r.annotations)][:2]
    bad = spoiled(record, fault, tmp_path / "bad.jpg")
    data = training_data(squashing, replace(scenes[0], images=[bad, other]))
    sample = data[0, 4]
    assert sample.problem
    assert sample.number == 4
    assert str(bad.path) in sample.problem
    assert not len(sample.targets.labels)
    batch = collate([sample, data[1, 1]])
    assert batch.problems == [sample.problem]
    assert len(pixels(batch)) == 2


class Failing(ShortestEdge):
    """A pre-processing that fails as libraries do on odd pictures."""

    def __init__(self, error: Exception):
        super().__init__(64, 96)
        self.error = error

    def __call__(self, image, resize=True):
        if image.height < 10:
            raise self.error
        return super().__call__(image, resize)


ERRORS = [
    ValueError("height and width must be > 0"),
    ZeroDivisionError("division by zero"),
    MemoryError(),
    IndexError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_fails_on_a_picture_is_one_line(error, scenes, tmp_path):
    """6000 × 2 pixels make pre-processings raise: training goes on without it."""
    path = tmp_path / "strip.png"
    Image.new("RGB", (6000, 2)).save(path)
    square = [[0.0, 0.0, 9.0, 0.0, 9.0, 2.0, 0.0, 2.0]]
    strip = ImageRecord(99, path, 6000, 2, (Annotation(1, 1, (0.0, 0.0, 9.0, 2.0), square, False, 18.0),))
    data = replace(scenes[0], images=[strip, *scenes[0].images])
    dataset = TrainingData(data, classes_of(data, list(NAMES.values())), Failing(error), PLAIN, 0)
    sample = dataset[0, 3]
    assert sample.problem is not None
    assert sample.problem.startswith(f"{path}: ")
    assert ("not enough memory" if isinstance(error, MemoryError) else type(error).__name__) in sample.problem
    assert "\n" not in sample.problem
    assert not len(sample.targets.labels)
    batch = collate([sample, dataset[1, 4]])
    assert batch.problems == [sample.problem]
    assert [len(target.labels) > 0 for target in batch.targets] == [False, True]


def test_what_pre_processing_leaves_too_thin_is_one_line(scenes, tmp_path):
    """A strip of 3000 × 3 pixels becomes 1000 × 1: no detector's patches fit into that."""
    path = tmp_path / "strip.png"
    Image.new("RGB", (3000, 3)).save(path)
    square = [[0.0, 0.0, 9.0, 0.0, 9.0, 3.0, 0.0, 3.0]]
    strip = ImageRecord(99, path, 3000, 3, (Annotation(1, 1, (0.0, 0.0, 9.0, 3.0), square, False, 27.0),))
    data = replace(scenes[0], images=[strip])
    classes = classes_of(data, list(NAMES.values()))
    sample = TrainingData(data, classes, ShortestEdge(), PLAIN, 0)[0, 0]
    assert sample.problem == (
        f"{path}: is 3000 × 3 pixels, of which pre-processing makes 1000 × 1; expected at least 16 a side"
    )
    stretched = TrainingData(data, classes, ShortestEdge(), replace(PLAIN, multi_scale=True), 0)[0, 0]
    assert stretched.problem is None
    assert min(pixels(stretched).shape[1:]) == 32


def test_collate_pads_right_and_bottom():
    images = [torch.full((3, 4, 9), 1.0), torch.full((3, 6, 5), 2.0)]
    batch = collate([Sample(image, no_targets()) for image in images])
    assert pixels(batch).shape == (2, 3, 6, 9)
    assert batch.pixel_mask.tolist() == [
        [[1] * 9] * 4 + [[0] * 9] * 2,
        [[1] * 5 + [0] * 4] * 6,
    ]
    for b, image in enumerate(images):
        assert torch.equal(pixels(batch)[b] != 0, batch.pixel_mask[b].bool().expand(3, -1, -1))
        assert pixels(batch)[b].sum() == image.sum()
    assert batch.problems == []


# --- real photographs ---


@pytest.mark.skipif(not COCO_549.exists(), reason="coco-549 is not beside the repository")
def test_ground_truth_of_real_photographs():
    """Crops pasted back over their boxes are the full-resolution masks."""
    data = load_split(COCO_549, "val")
    classes = classes_of(data, list(data.categories.values()))
    samples = TrainingData(data, classes, ShortestEdge(200, 400), AugmentConfig(multi_scale=False, crop=False), 0)
    checked = 0
    for index in range(4):
        record = samples.images[index]
        sample = samples[index, 0]  # number 0 for all: one flip or none
        objects = [a for a in record.annotations if not a.iscrowd]
        if len(objects) != len(sample.targets.labels):
            continue
        flipped = np.random.default_rng([0, 0]).random() < 0.5
        for annotation, box, crop in zip(objects, sample.targets.boxes, sample.targets.masks, strict=True):
            if annotation.area < 1000:
                continue
            size = torch.tensor([record.width, record.height, record.width, record.height])
            cx, cy, w, h = (box * size).tolist()
            frame = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
            found = paste_probabilities(crop.numpy().astype(np.float32), frame, record.height, record.width)
            mask = found.above().full(record.height, record.width)
            assert annotation.segmentation is not None
            truth = coco_mask.decode(segmentation_to_rle(annotation.segmentation, record.height, record.width)) > 0
            truth = truth[:, ::-1] if flipped else truth
            assert (mask & truth).sum() / (mask | truth).sum() > 0.9
            checked += 1
    assert checked >= 3
