"""Losses on sampled points and the IoU that mask scoring learns, against full-resolution masks and literal formulas."""

import math

import pytest
import torch

from mask_frozen_detr.training.config import LossConfig
from mask_frozen_detr.training.losses import dice_loss, mask_iou, mask_losses
from mask_frozen_detr.training.points import read_logits, read_truth, sample_points


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the mask's IoU ---


def test_iou_counts_the_whole_truth_painted_cell_by_cell():
    """Frame and box share a grid of 4-pixel cells, so that a painted canvas gives the exact figure."""
    logits = torch.randn(2, 8, 8, generator=generator())
    crops = (torch.rand(2, 8, 8, generator=generator(1)) > 0.5).to(torch.uint8)
    frames = torch.tensor([[0.0, 4.0, 32.0, 36.0], [8.0, 8.0, 40.0, 40.0]])
    boxes = torch.tensor([[8.0, 12.0, 40.0, 44.0], [8.0, 8.0, 40.0, 40.0]])
    iou = mask_iou(logits, crops, boxes, frames)
    for m in range(2):
        mask, truth = torch.zeros(12, 12, dtype=torch.bool), torch.zeros(12, 12, dtype=torch.bool)
        x, y = (frames[m, :2] / 4).long().tolist()
        mask[y : y + 8, x : x + 8] = logits[m] > 0
        x, y = (boxes[m, :2] / 4).long().tolist()
        truth[y : y + 8, x : x + 8] = crops[m] > 0
        expected = (mask & truth).sum() / (mask | truth).sum()
        assert 0 < expected < 0.6
        assert iou[m].item() == pytest.approx(expected.item(), abs=1e-5)


def test_iou_at_its_ends():
    box = torch.tensor([[10.0, 10.0, 42.0, 42.0]])
    far = box + 100
    crop = torch.ones(1, 16, 16, dtype=torch.uint8)
    full, empty = torch.full((1, 16, 16), 5.0), torch.full((1, 16, 16), -5.0)
    assert mask_iou(full, crop, box, box).item() == pytest.approx(1)
    assert mask_iou(full, crop, box, far).item() == 0
    assert mask_iou(empty, crop, box, box).item() == 0
    assert mask_iou(empty, crop * 0, box, box).item() == 0  # nothing predicted, nothing there: no division by 0
    assert mask_iou(full, crop, box, torch.tensor([[10.0, 10.0, 42.0, 26.0]])).item() == pytest.approx(0.5, abs=0.02)


# --- losses ---


def literal_losses(logits, truth):
    """Mean binary cross-entropy and dice loss of one mask's points, number by number."""
    probabilities = [1 / (1 + math.exp(-z)) for z in logits]
    bce = -sum(t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in zip(probabilities, truth, strict=True))
    overlap = sum(p * t for p, t in zip(probabilities, truth, strict=True))
    return bce / len(logits), 1 - (2 * overlap + 1) / (sum(probabilities) + sum(truth) + 1)


def draw(M: int = 3, K: int = 5):
    """Masks over their own boxes: `mask_losses`' tensors up to the labels."""
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [4.0, 6.0, 20.0, 14.0], [1.0, 1.0, 9.0, 17.0]])[:M]
    return {
        "logits": torch.randn(M, 8, 8, generator=generator(5)).requires_grad_(),
        "iou": torch.rand(M, K, generator=generator(6)).requires_grad_(),
        "frames": boxes,
        "masks": (torch.rand(M, 8, 8, generator=generator(7)) > 0.4).to(torch.uint8),
        "boxes": boxes,
        "labels": torch.tensor([4, 0, 2])[:M],
    }


def test_losses_on_all_points_are_the_literal_ones():
    parts = draw()
    config = LossConfig(bce_weight=2, dice_weight=3, iou_weight=4)
    losses = mask_losses(**parts, config=config)
    pairs = [
        literal_losses(parts["logits"][m].flatten().tolist(), parts["masks"][m].flatten().tolist()) for m in range(3)
    ]
    assert losses["bce"].item() == pytest.approx(2 * sum(bce for bce, _ in pairs), abs=1e-4)
    assert losses["dice"].item() == pytest.approx(3 * sum(dice for _, dice in pairs), abs=1e-4)
    true = mask_iou(parts["logits"], parts["masks"], parts["boxes"], parts["frames"])
    assert losses["matched_iou"].item() == pytest.approx(true.sum().item())
    squares = [(parts["iou"][m, label].item() - true[m].item()) ** 2 for m, label in enumerate([4, 0, 2])]
    assert losses["iou"].item() == pytest.approx(4 * sum(squares), abs=1e-5)


def test_losses_on_sampled_points_are_the_literal_ones():
    parts = draw()
    points = sample_points(parts["logits"], LossConfig(), 0, [7, 7, 8])
    losses = mask_losses(**parts, config=LossConfig(), points=points)
    at_points = read_logits(parts["logits"], points)
    truth = read_truth(parts["masks"], parts["boxes"], parts["frames"], points)
    pairs = [literal_losses(at_points[m].tolist(), truth[m].tolist()) for m in range(3)]
    assert losses["bce"].item() == pytest.approx(5 * sum(bce for bce, _ in pairs), abs=1e-4)
    assert losses["dice"].item() == pytest.approx(5 * sum(dice for _, dice in pairs), abs=1e-4)


def test_dice_at_its_ends():
    truth = torch.tensor([[1.0] * 50 + [0.0] * 50])
    sure = 100 * (truth - 0.5)
    assert dice_loss(sure, truth).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-sure, truth).item() == pytest.approx(1 - 1 / 101, abs=1e-6)


def test_gradients_go_to_masks_and_scores_only_through_their_own_losses():
    parts = draw()
    losses = mask_losses(**parts, config=LossConfig())
    losses["iou"].backward()
    assert parts["logits"].grad is None
    judged = torch.zeros(3, 5, dtype=torch.bool)
    judged[[0, 1, 2], [4, 0, 2]] = True
    assert torch.equal(parts["iou"].grad != 0, judged)
    (losses["bce"] + losses["dice"]).backward()
    found = parts["logits"].grad
    assert found is not None
    assert found.abs().sum() > 0
    assert not losses["matched_iou"].requires_grad


@pytest.mark.parametrize("sampled_points", [True, False])
def test_no_masks_at_all(sampled_points):
    parts = draw(M=0)
    points = sample_points(parts["logits"], LossConfig(), 0, []) if sampled_points else None
    losses = mask_losses(**parts, config=LossConfig(), points=points)
    assert {key: value.item() for key, value in losses.items()} == {"bce": 0, "dice": 0, "iou": 0, "matched_iou": 0}
    (losses["bce"] + losses["dice"] + losses["iou"]).backward()
    assert parts["logits"].grad.shape == (0, 8, 8)


def test_without_mask_scoring_there_is_no_iou_loss():
    assert set(mask_losses(**{**draw(), "iou": None}, config=LossConfig())) == {"bce", "dice", "matched_iou"}


def test_masks_in_half_precision_and_boxes_without_extent_give_finite_losses():
    parts = draw()
    parts["logits"] = (1000 * parts["logits"]).detach().bfloat16()
    parts["boxes"] = parts["boxes"].clone()
    parts["boxes"][0, 2:] = parts["boxes"][0, :2]
    losses = mask_losses(**parts, config=LossConfig())
    assert all(value.isfinite() for value in losses.values())


def test_masks_over_images_that_are_no_squares():
    """Without RoIAlign a mask covers its image, h × w: the losses are those of its cells, number by number."""
    logits = torch.randn(1, 4, 9, generator=generator(5))
    truth = (torch.rand(1, 12, 12, generator=generator(7)) > 0.4).to(torch.uint8)
    whole = torch.tensor([[0.0, 0.0, 36.0, 16.0]])
    losses = mask_losses(logits, None, whole, truth, whole, torch.tensor([0]), LossConfig())
    centres = torch.tensor([[[(x + 0.5) / 9, (y + 0.5) / 4] for y in range(4) for x in range(9)]])
    bce, dice = literal_losses(logits.flatten().tolist(), read_truth(truth, whole, whole, centres)[0].tolist())
    assert losses["bce"].item() == pytest.approx(5 * bce, abs=1e-4)
    assert losses["dice"].item() == pytest.approx(5 * dice, abs=1e-4)
