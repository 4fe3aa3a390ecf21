"""Where deformable attention looks: reference points, and the locations sampled around them.

Letters: B maps, S = Σ h_l·w_l tokens, N queries, H heads, L levels, P points.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mask_frozen_detr.machine.devices import send


def level_sizes(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """(h, w) of L levels → (L, 2): their w, h in cells, float32."""
    return send(torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32), device)


def reference_points(shapes: Sequence[tuple[int, int]], sizes: Tensor, valid_sizes: Tensor | None = None) -> Tensor:
    """Where each token looks first: its own place, on every level. (B or 1, S, L, 2) in [0, 1].

    shapes: (h, w) of each level; sizes: the same as `level_sizes` puts them on the device.
    valid_sizes: (B, L, 2), the unpadded (w, h) of each level in cells; None where nothing is padded. A token at
    a fraction of the *unpadded* extent of its level refers to the same fraction on all others, so that an image
    alone and the same image in a padded batch sample the same pixels.
    """
    extents = sizes[None] if valid_sizes is None else valid_sizes.to(torch.float32)
    own = torch.cat(
        [cell_centres(h, w, sizes.device)[None] / extents[:, level, None] for level, (h, w) in enumerate(shapes)], 1
    )  # (B, S, 2)
    return own[:, :, None] * (extents / sizes)[:, None]


def sampling_locations(references: Tensor, offsets: Tensor, sizes: Tensor) -> Tensor:
    """references (·, N, L, 2) in [0, 1], offsets (B, N, H, L, P, 2) and sizes (L, 2) in cells → (B, N, H, L, P, 2)."""
    P = offsets.shape[4]
    # Side by side, all numbers of a head are one loop; by twos, x and y, they take ten times as long on a CPU.
    references = references[:, :, :, None].expand(-1, -1, -1, P, -1).flatten(2)[:, :, None]
    sizes = sizes[:, None].expand(-1, P, -1).flatten()
    return (references + offsets.flatten(3) / sizes).view(offsets.shape)


def cell_centres(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """(h·w, 2): x, y of the centres of a map's cells, in cells, row by row."""
    y = torch.arange(height, device=device) + 0.5
    x = torch.arange(width, device=device) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
