"""The two-stage part: one proposal a token, the best of which become the queries (Zhu et al., 2020, section 4.2).

Letters: B images, S tokens of all levels, K classes, d width.
"""

import torch
from torch import Tensor

from mask_frozen_detr.detectors.official.transformer import Levels
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.ops.sampling import cell_centres


def proposal_logits(levels: Levels) -> tuple[Tensor, Tensor]:
    """The grid of start boxes, before the encoder has its say.

    A token's box lies on its cell, relative to the **unpadded** level, and is 0.05 · 2^level wide and high.
    Returns (B, S, 4), logits of cx, cy, w, h, and (B, S), which tokens make a proposal: those of the image whose
    box lies in (0.01, 0.99) in all four numbers. The others' logits are +inf.
    """
    boxes = []
    for level, (h, w) in enumerate(levels.shapes):
        centres = cell_centres(h, w, levels.valid.device) / levels.valid_sizes[:, level, None]  # (B, h·w, 2)
        boxes.append(torch.cat([centres, torch.full_like(centres, 0.05 * 2**level)], -1))
    grid = torch.cat(boxes, 1)
    keep = ((grid > 0.01) & (grid < 0.99)).all(-1) & levels.valid
    return torch.log(grid / (1 - grid)).masked_fill(~keep[..., None], float("inf")), keep


def best_proposals(logits: Tensor, count: int, best_class: bool) -> Tensor:
    """Indices (B, count) of the proposals with the highest logit of their best class, or of class 0 alone.

    logits: (B, S, K). Raises UserError where there are fewer tokens than queries.
    """
    if logits.shape[1] < count:
        raise UserError(
            f"the image is too small for this detector: its feature maps have {logits.shape[1]} cells in all, "
            f"fewer than the {count} queries"
        )
    scores = logits.amax(-1) if best_class else logits[..., 0]
    return scores.topk(count, dim=1).indices


def pick(values: Tensor, index: Tensor) -> Tensor:
    """(B, S, C) and (B, Q) → (B, Q, C)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
