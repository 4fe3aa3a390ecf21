"""Mask scoring: predict the IoU of a mask with the truth (paper, equations 12 and 13; Huang et al., 2019).

Letters: M boxes, r RoIAlign side, f cells of a mask along the side of one of RoIAlign's, c mask width, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskScoring(nn.Module):
    """cat(mask, box features) → three 3 × 3 convs of stride 2 → three-layer MLP → IoU a class, in (0, 1)."""

    def __init__(self, width: int, size: int, num_classes: int):
        super().__init__()
        self.convs = nn.Sequential(
            *(
                layer
                for i in range(3)
                for layer in (
                    nn.Conv2d(width + 1 if i == 0 else width, width, 3, stride=2, padding=1),
                    nn.ReLU(),
                )
            )
        )
        side = size
        for _ in range(3):
            side = (side + 1) // 2
        last = nn.Linear(width, num_classes)
        self.mlp = nn.Sequential(
            nn.Flatten(),
            nn.Linear(width * side * side, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            last,
        )
        # Rare classes must not be scored by chance: all start at one and the same, usual IoU.
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 1.0)

    def forward(self, logits: Tensor, boxes: Tensor) -> Tensor:
        """Mask logits (M, r·f, r·f) and box features (M, c, r, r) → predicted IoU (M, K)."""
        # The score judges the mask; it must not bend it.
        mask = logits.detach().sigmoid()[:, None].to(boxes.dtype)
        if mask.shape[3] > boxes.shape[3]:
            mask = F.avg_pool2d(mask, mask.shape[3] // boxes.shape[3])
        return self.mlp(self.convs(torch.cat([mask, boxes], 1))).sigmoid()
