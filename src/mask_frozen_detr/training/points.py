"""Points of masks: where predictions and truth are read, and which points the losses are taken on (appendix A).

Letters: M matched masks, h × w cells of a predicted mask, S side of the ground-truth masks, N points of a mask.
Points are x, y in [0, 1] of the predicted frame. Boxes and frames are x0, y0, x1, y1 in one common unit.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.training.config import LossConfig

SEED_STEP = 2654435761  # 2³² times the golden ratio's fraction: runs of other seeds lie far apart


def read_logits(logits: Tensor, points: Tensor) -> Tensor:
    """Bilinear reading of (M, h, w) logits at (M, N, 2) points: (M, N).

    Beyond the outer cells' centres the edge repeats, as when masks are pasted.
    """
    grid = 2 * points[:, None] - 1
    return F.grid_sample(logits[:, None], grid, padding_mode="border", align_corners=False)[:, 0, 0]


def read_truth(masks: Tensor, boxes: Tensor, frames: Tensor, points: Tensor) -> Tensor:
    """Ground truth (M, S, S) over `boxes` (M, 4), read at points (M, N, 2) of `frames` (M, 4); 0 outside. (M, N)."""
    positions = frames[:, None, :2] + points * (frames[:, 2:] - frames[:, :2])[:, None]
    inside = (positions - boxes[:, None, :2]) / (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)[:, None]
    grid = 2 * inside[:, None] - 1
    return F.grid_sample(masks[:, None].to(points.dtype), grid, padding_mode="zeros", align_corners=False)[:, 0, 0]


def cell_centres(height: int, width: int, device: torch.device) -> Tensor:
    """(1, h · w, 2): the centres of all cells, row by row."""
    y, x = ((torch.arange(side, device=device) + 0.5) / side for side in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(1, -1, 2)


@torch.no_grad()
def sample_points(logits: Tensor, config: LossConfig, seed: int, numbers: Sequence[int]) -> Tensor:
    """(M, N, 2) points of masks (M, h, w): of kN random ones the βN most uncertain, and (1 − β)N more at random.

    seed: of the run. numbers: of each mask, its sample's number; masks of one sample stand side by side.
    """
    count = max(1, round(logits.shape[1] * logits.shape[2] * config.point_fraction))  # N
    important, candidates = round(config.importance * count), round(config.oversample * count)
    drawn = send(draw_points(candidates + count - important, seed, numbers), logits.device)
    candidate, free = drawn.split([candidates, count - important], dim=1)
    uncertainty = -read_logits(logits.float(), candidate).abs()
    chosen = uncertainty.topk(important, dim=1).indices
    return torch.cat([candidate.gather(1, chosen[..., None].expand(-1, -1, 2)), free], 1)


def draw_points(count: int, seed: int, numbers: Sequence[int]) -> Tensor:
    """(M, count, 2) uniform random points on the host.

    They depend on the run's seed and the sample's number alone: neither the device nor other samples of the batch,
    other processes or accumulation change them.
    """
    drawn = [torch.zeros(0, count, 2)]
    for number, masks in groupby(numbers):
        # Of a generator's seed torch uses 32 bits.
        generator = torch.Generator().manual_seed((number + seed * SEED_STEP) % (1 << 32))
        drawn.append(torch.rand(len(list(masks)), count, 2, generator=generator))
    return torch.cat(drawn)
