"""Deformable attention of transformers' detectors, by this project's kernels and bags instead of `grid_sample`."""

import inspect
from collections.abc import Sequence

from torch import Tensor, nn

from mask_frozen_detr.ops.deformable_attention import deformable_attention

THEIRS = "MultiScaleDeformableAttention"  # in every family that has one, a module without parameters


class SharedDeformableAttention(nn.Module):
    """What transformers' module computes, up to rounding."""

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: Sequence[tuple[int, int]],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """value (B, S, H, D), locations (B, N, H, L, P, 2) in [0, 1], weights (B, N, H, L, P) → (B, N, H·D)."""
        return deformable_attention(value, value_spatial_shapes_list, sampling_locations, attention_weights)


def share_attention(model: nn.Module) -> int:
    """Put `SharedDeformableAttention` in the place of all modules that it can stand for; how many those were.

    A module that takes other arguments, of some other version, stays as it is.
    """
    expected = list(inspect.signature(SharedDeformableAttention.forward).parameters)
    found = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ == THEIRS
        and not module.state_dict()
        and list(inspect.signature(type(module).forward).parameters) == expected
    ]
    for name in found:
        model.set_submodule(name, SharedDeformableAttention().train(model.training))
    return len(found)
