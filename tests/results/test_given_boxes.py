"""Masks in given boxes: which query is asked, the box as the frame, the order kept, and clear errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.detectors import Detections, FrozenDetector
from mask_frozen_detr.detectors.base import ScoreRule
from mask_frozen_detr.results.box_inputs import UNKNOWN
from mask_frozen_detr.results.given_boxes import CLASS_WEIGHT, choose_queries

SIGMOID = ScoreRule("sigmoid")
BOXES = [[20.0, 30.0, 70.0, 90.0], [0.0, 0.0, 160.0, 120.0], [90.5, 10.25, 120.0, 60.0]]


def detections_of(boxes: Tensor, logits: Tensor) -> Detections:
    return Detections(torch.zeros(*boxes.shape[:2], 8), logits, boxes, [], None)


# --- which query ---


@pytest.mark.parametrize("rule", [SIGMOID, ScoreRule("softmax")])
def test_the_query_that_overlaps_most_and_is_sure_of_the_class(rule: ScoreRule):
    generator = torch.Generator().manual_seed(3)
    found = torch.rand(2, 30, 4, generator=generator) * 0.4 + 0.3
    logits = 3 * torch.randn(2, 30, 5, generator=generator)
    boxes = torch.rand(12, 4, generator=generator) * 0.4 + 0.3
    labels = torch.tensor([0, 1, 2, UNKNOWN] * 3)
    images = torch.tensor([0] * 5 + [1] * 7)
    chosen = choose_queries(detections_of(found, logits), rule, images, boxes, labels)
    for number, (image, box, label) in enumerate(zip(images, boxes, labels, strict=True)):
        overlap = box_iou(box_convert(found[image], "cxcywh", "xyxy"), box_convert(box[None], "cxcywh", "xyxy"))[:, 0]
        known = logits[image].sigmoid() if rule is SIGMOID else logits[image].softmax(-1)[:, :4]
        sure = known.max(1).values if label == UNKNOWN else known[:, label]
        assert chosen[number] == (overlap + CLASS_WEIGHT * sure).argmax()


def test_one_query_serves_several_boxes_and_the_class_decides_among_equals():
    place = torch.tensor([0.5, 0.5, 0.2, 0.2])
    found = torch.stack([place, place, torch.tensor([0.1, 0.1, 0.1, 0.1])])[None]
    logits = torch.tensor([[[4.0, -4.0], [-4.0, 3.0], [6.0, 6.0]]])
    boxes = place + torch.tensor([[0.0], [0.0], [0.01], [0.0]])
    labels = torch.tensor([0, 1, 1, UNKNOWN])
    assert choose_queries(detections_of(found, logits), SIGMOID, torch.zeros(4).long(), boxes, labels).tolist() == [
        0,
        1,
        1,
        0,
    ]
    none = torch.zeros(0).long()
    assert len(choose_queries(detections_of(found, logits), SIGMOID, none, torch.zeros(0, 4))) == 0


def test_a_box_that_the_detector_left_inside_out_is_not_chosen():
    found = torch.tensor([[[0.5, 0.5, -0.2, -0.2], [0.5, 0.5, 0.9, 0.9]]])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    assert choose_queries(detections_of(found, torch.zeros(1, 2, 1)), SIGMOID, torch.zeros(1).long(), boxes) == 1


# --- masks ---


def test_the_detectors_own_boxes_give_its_own_masks(model: MaskFrozenDetr, photo: Path):
    found = model.predict(photo, 0.0, max_detections=6)
    again = model.predict(photo, boxes=found.boxes, labels=found.labels)
    assert again.labels.tolist() == found.labels.tolist()
    assert again.names == found.names
    assert np.allclose(again.class_scores, found.class_scores, atol=1e-5)
    assert np.allclose(again.class_scores * again.scores, found.scores, atol=1e-4)
    for first, second in zip(found.masks, again.masks, strict=True):
        assert (first & second).sum() >= 0.99 * (first | second).sum()
    assert found.masks.any()


def test_given_boxes_keep_their_order_and_hold_their_masks(model: MaskFrozenDetr, photo: Path):
    masks = model.predict(photo, boxes=BOXES, probabilities=True)
    assert np.array_equal(masks.boxes, np.array(BOXES, np.float32))
    backwards = model.predict(photo, boxes=BOXES[::-1])
    assert np.array_equal(backwards.masks[::-1], masks.masks)
    for (x1, y1, x2, y2), mask, probability in zip(BOXES, masks.masks, masks.probabilities, strict=True):
        rows, columns = np.nonzero(probability)
        assert columns.min() + 0.5 >= x1
        assert columns.max() + 0.5 < x2
        assert rows.min() + 0.5 >= y1
        assert rows.max() + 0.5 < y2
        assert np.array_equal(mask, probability > 0.5)
    assert ((masks.scores >= 0) & (masks.scores <= 1)).all()


def test_without_mask_scoring_the_mean_probability_is_the_score(squashing: FrozenDetector, photo: Path):
    model = MaskFrozenDetr.training_free(squashing)
    masks = model.predict(photo, boxes=BOXES, probabilities=True)
    for score, probability in zip(masks.scores, masks.probabilities, strict=True):
        inside = probability[probability > 0.5]
        assert score == pytest.approx(inside.mean() if len(inside) else 0, abs=1e-5)


def test_masks_over_the_whole_image_are_cut_to_the_box(squashing: FrozenDetector, photo: Path):
    masks = MaskFrozenDetr.training_free(squashing, roi_align=False).predict(photo, boxes=BOXES).masks
    outside = masks[0].copy()
    outside[30:90, 20:70] = False
    assert not outside.any()


def test_a_box_beyond_the_border_is_cut(model: MaskFrozenDetr, photo: Path):
    width, height = Image.open(photo).size
    reaching = model.predict(photo, boxes=[[-50, -20, 40, 30], [width - 30, 5, width + 90, height + 1]])
    assert reaching.boxes.tolist() == [[0, 0, 40, 30], [width - 30, 5, width, height]]


def test_the_classes_of_given_boxes(model: MaskFrozenDetr, photo: Path):
    masks = model.predict(photo, boxes=[BOXES[0]] * 4, labels=["Ring", "unicorn", None, 2])
    best = model.predict(photo, boxes=[BOXES[0]]).labels[0]
    assert masks.labels.tolist() == [1, UNKNOWN, best, 2]
    assert masks.names == ["Ring", "unicorn", model.class_names[best], "star"]
    assert masks.masks[1].any()


def test_several_images_and_none_at_all(model: MaskFrozenDetr, photo: Path):
    first, second = model.predict([photo, photo], boxes=[BOXES[:1], []], labels=[["disc"], None])
    assert (len(first), len(second)) == (1, 0)
    with pytest.raises(UserError, match="found 1 lists of boxes and 1 of labels for 2 images"):
        model.predict([photo, photo], boxes=[BOXES])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([1, 2, 3, 4], r"found shape \(4,\).*a single box as \[box\]"),
        ([[1, 2, 3]], r"found shape \(1, 3\)"),
        ([[1, 2, 3, 4], [1, 2]], "no array of numbers"),
        ("boxes", "no array of numbers"),
        ([[0, 0, 5, 5], [1, 2, float("nan"), 4]], r"boxes\[1\]: found 1, 2, nan, 4, expected four finite"),
        ([[1, 2, float("inf"), 4]], "expected four finite"),
        ([[50, 10, 20, 30]], "expected x1 < x2 and y1 < y2; boxes are corners"),
        ([[5, 5, 5, 9]], "expected x1 < x2"),
        ([[-9, -9, -1, -1]], r"outside the image of \d+ × \d+ pixels"),
        ([[9000, 0, 9010, 10]], "outside the image"),
    ],
)
def test_boxes_that_make_no_sense(boxes: Any, message: str, model: MaskFrozenDetr, photo: Path):
    with pytest.raises(UserError, match=message):
        model.predict(photo, boxes=boxes)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0], "found 1 for 3 boxes"),
        ("ring", "found str"),
        ([0, 1, 3], r"labels\[2\]: found 3, expected a class index from 0 to 2"),
        ([0, -1, 1], "found -1"),
        ([0, True, 1], "found True"),
        ([0.5, 1, 1], r"found 0\.5"),
    ],
)
def test_labels_that_make_no_sense(labels: Any, message: str, model: MaskFrozenDetr, photo: Path):
    with pytest.raises(UserError, match=message):
        model.predict(photo, boxes=BOXES, labels=labels)


def test_labels_without_boxes(model: MaskFrozenDetr, photo: Path):
    with pytest.raises(UserError, match="labels: found without boxes"):
        model.predict(photo, labels=[1])
