"""Points of masks: read where they lie, to a part of a cell; drawn where masks are undecided, for each sample anew."""

import pytest
import torch

from mask_frozen_detr.training.config import LossConfig
from mask_frozen_detr.training.points import cell_centres, draw_points, read_logits, read_truth, sample_points


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
    read = read_logits(logits, cell_centres(5, 5, logits.device).expand(2, -1, -1))
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
    points = cell_centres(60, 60, torch.device("cpu"))
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
    points = sample_points(logits, config, 0, [5, 5, 9])
    assert points.shape == (3, count, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    candidates = round(config.oversample * count)
    shape = (candidates + count - important, 2)
    drawn = torch.cat([torch.rand(masks, *shape, generator=generator(number)) for masks, number in ((2, 5), (1, 9))])
    for m in range(3):
        uncertain = sorted(
            range(candidates), key=lambda n: abs(read_logits(logits[m : m + 1], drawn[m : m + 1, n : n + 1]).item())
        )[:important]
        expected = {tuple(drawn[m, n].tolist()) for n in uncertain}
        assert {tuple(point) for point in points[m, :important].tolist()} == expected
        assert torch.equal(points[m, important:], drawn[m, candidates:])


def test_points_gather_where_the_mask_is_undecided():
    logits = 20 * (ramp(32) - 0.5)  # the border runs down the middle
    near = (sample_points(logits, LossConfig(), 0, [0])[0, :, 0] - 0.5).abs() < 0.125
    assert near.float().mean() > 0.5  # a quarter of the points if they were spread evenly


def test_an_images_points_do_not_depend_on_its_batch():
    """Neither on its place in it, nor on the process that takes it: on the run's seed and the sample's number alone."""
    logits = torch.randn(3, 8, 8, generator=generator(1))
    together = sample_points(logits, LossConfig(), 1, [4, 4, 9])
    assert torch.equal(sample_points(logits[2:], LossConfig(), 1, [9]), together[2:])
    assert torch.equal(sample_points(logits[:2], LossConfig(), 1, [4, 4]), together[:2])
    assert not torch.equal(draw_points(10, 1, [4]), draw_points(10, 1, [5]))
    assert not torch.equal(draw_points(10, 1, [4]), draw_points(10, 2, [4]))
    assert draw_points(10, 1, []).shape == (0, 10, 2)


def test_masks_that_are_no_squares():
    points = sample_points(torch.randn(2, 4, 12, generator=generator()), LossConfig(), 0, [0, 1])
    assert points.shape == (2, 12, 2)  # a quarter of 48
