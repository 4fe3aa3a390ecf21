"""Losses on sampled points and the IoU that mask scoring learns, against full-resolution masks and literal formulas."""

import math

import pytest
import torch

from mask_frozen_detr.training.losses import (
    LossConfig,
    dice_loss,
    grid_points,
    mask_iou,
    mask_losses,
    read_logits,
    read_truth,
    sample_points,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp(size: int) -> torch.Tensor:
    """(1, size, size) cells that hold the x of their own centre, in [0, 1]."""
    return ((torch.arange(size) + 0.5) / size).expand(1, size, size)


# --- reading ---


def test_logits_are_read_between_cell_centres_and_carry_on_to_the_border():
    points = torch.tensor([[[0.5, 0.5], [0.2, 0.9], [0.9, 0.1], [0.0, 0.5], [1.0, 0.5]]])
    read = read_logits(ramp(8), points)[0]
    assert read.tolist() == pytest.approx([0.5, 0.2, 0.9, 0.5 / 8, 7.5 / 8], abs=1e-6)
    upright = read_logits(ramp(8).transpose(1, 2), points)[0]
    assert upright.tolist() == pytest.approx([0.5, 0.9, 0.1, 0.5, 0.5], abs=1e-6)


def test_grid_points_are_the_cells_own_centres():
    logits = torch.randn(2, 5, 5, generator=generator())
    read = read_logits(logits, grid_points(5, logits.device).expand(2, -1, -1))
    assert torch.allclose(read, logits.flatten(1), atol=1e-6)


def test_truth_is_read_in_the_boxs_own_pixels():
    """The crop holds its x in pixels of the image, so every reading must give the place it was asked for."""
    boxes = torch.tensor([[40.0, 20.0, 104.0, 84.0]])
    frames = torch.tensor([[50.0, 10.0, 90.0, 90.0]])
    crops = 40 + 64 * ramp(32)
    points = torch.rand(1, 200, 2, generator=generator())
    read = read_truth(crops, boxes, frames, points)[0]
    x, y = (50 + 40 * points[0, :, 0]), (10 + 80 * points[0, :, 1])
    within = (y > 21) & (y < 83)  # from the outer cells' centres outwards the crop fades
    assert within.sum() > 100
    assert torch.allclose(read[within], x[within], atol=1e-3)
    assert not read[(y < 19) | (y > 85)].any()


def test_truth_agrees_with_the_full_resolution_mask():
    """An ellipse cut out of its image as a 32 × 32 crop and read again over another frame."""
    box, frame = [30.0, 18.0, 94.0, 66.0], [20.0, 30.0, 80.0, 90.0]

    def inside(x, y):
        return ((x - 62) / 32) ** 2 + ((y - 42) / 24) ** 2 < 1

    centres = (torch.arange(32) + 0.5) / 32
    crop = inside(box[0] + 64 * centres[None], box[1] + 48 * centres[:, None]).to(torch.uint8)[None]
    points = grid_points(60, torch.device("cpu"))
    read = read_truth(crop, torch.tensor([box]), torch.tensor([frame]), points)[0].view(60, 60) > 0.5
    pixels = torch.arange(60) + 0.5
    painted = inside(20 + pixels[None], 30 + pixels[:, None])
    assert painted.sum() > 1000
    assert (read != painted).sum() < 0.02 * painted.sum()
    shifted = inside(21 + pixels[None], 30 + pixels[:, None])  # one pixel off is seen
    assert (read != shifted).sum() > 0.02 * painted.sum()


# --- sampled points ---


@pytest.mark.parametrize(
    ("config", "count", "important"),
    [
        (LossConfig(), 64, 48),  # a quarter of 16 · 16, three quarters of that
        (LossConfig(point_fraction=0.5, importance=0.5), 128, 64),
        (LossConfig(importance=0.0), 64, 0),
        (LossConfig(importance=1.0, oversample=2.0), 64, 64),
        (LossConfig(point_fraction=1e-6), 1, 1),
    ],
)
def test_the_most_uncertain_of_k_times_n_points_are_kept(config, count, important):
    logits = torch.randn(3, 16, 16, generator=generator(1))
    points = sample_points(logits, config, generator())
    assert points.shape == (3, count, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    candidates = round(config.oversample * count)
    drawn = torch.rand(3, candidates + count - important, 2, generator=generator())
    for m in range(3):
        uncertain = sorted(
            range(candidates), key=lambda n: abs(read_logits(logits[m : m + 1], drawn[m : m + 1, n : n + 1]).item())
        )[:important]
        expected = {tuple(drawn[m, n].tolist()) for n in uncertain}
        assert {tuple(point) for point in points[m, :important].tolist()} == expected
        assert torch.equal(points[m, important:], drawn[m, candidates:])


def test_points_gather_where_the_mask_is_undecided():
    logits = 20 * (ramp(32) - 0.5)  # the border runs down the middle
    near = (sample_points(logits, LossConfig(), generator())[0, :, 0] - 0.5).abs() < 0.125
    assert near.float().mean() > 0.5  # a quarter of the points if they were spread evenly


def test_points_repeat_with_the_generator():
    logits = torch.randn(2, 8, 8, generator=generator(1))
    first = sample_points(logits, LossConfig(), generator(3))
    assert torch.equal(sample_points(logits, LossConfig(), generator(3)), first)
    assert not torch.equal(sample_points(logits, LossConfig(), generator(4)), first)


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
        "crops": (torch.rand(M, 8, 8, generator=generator(7)) > 0.4).to(torch.uint8),
        "boxes": boxes,
        "labels": torch.tensor([4, 0, 2])[:M],
    }


def test_losses_on_all_points_are_the_literal_ones():
    parts = draw()
    config = LossConfig(bce_weight=2, dice_weight=3, iou_weight=4, sampled_points=False)
    losses = mask_losses(**parts, config=config)
    pairs = [
        literal_losses(parts["logits"][m].flatten().tolist(), parts["crops"][m].flatten().tolist()) for m in range(3)
    ]
    assert losses["bce"].item() == pytest.approx(2 * sum(bce for bce, _ in pairs), abs=1e-4)
    assert losses["dice"].item() == pytest.approx(3 * sum(dice for _, dice in pairs), abs=1e-4)
    true = mask_iou(parts["logits"], parts["crops"], parts["boxes"], parts["frames"])
    assert losses["matched_iou"].item() == pytest.approx(true.sum().item())
    squares = [(parts["iou"][m, label].item() - true[m].item()) ** 2 for m, label in enumerate([4, 0, 2])]
    assert losses["iou"].item() == pytest.approx(4 * sum(squares), abs=1e-5)


def test_losses_on_sampled_points_are_the_literal_ones():
    parts = draw()
    losses = mask_losses(**parts, config=LossConfig(), generator=generator(8))
    points = sample_points(parts["logits"], LossConfig(), generator(8))
    at_points = read_logits(parts["logits"], points)
    truth = read_truth(parts["crops"], parts["boxes"], parts["frames"], points)
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
    losses = mask_losses(**parts, config=LossConfig(), generator=generator())
    losses["iou"].backward()
    assert parts["logits"].grad is None
    judged = torch.zeros(3, 5, dtype=torch.bool)
    judged[[0, 1, 2], [4, 0, 2]] = True
    assert torch.equal(parts["iou"].grad != 0, judged)
    (losses["bce"] + losses["dice"]).backward()
    assert parts["logits"].grad.abs().sum() > 0
    assert not losses["matched_iou"].requires_grad


@pytest.mark.parametrize("sampled_points", [True, False])
def test_no_masks_at_all(sampled_points):
    parts = draw(M=0)
    losses = mask_losses(**parts, config=LossConfig(sampled_points=sampled_points), generator=generator())
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
    losses = mask_losses(**parts, config=LossConfig(), generator=generator())
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(
    ("option", "value"),
    [("point_fraction", 0.0), ("point_fraction", 1.5), ("oversample", 0.5), ("importance", -0.1), ("importance", 1.1)],
)
def test_options_that_make_no_sense_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option}: found {value}, expected"):
        LossConfig(**{option: value})
