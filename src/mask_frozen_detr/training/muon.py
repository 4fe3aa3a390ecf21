"""Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon): an optimiser that learns more from few steps.

A matrix goes along the orthogonal matrix that is nearest to its mean gradient: all directions alike, however unequal
their gradients are. Biases, norms, embeddings and depth-wise filters, which are no matrices, go as AdamW takes them.
torch's own Muon takes neither convolutions nor what is no matrix, and computes in bfloat16, slow on most CPUs.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

MOMENTUM = 0.95
STEPS = 5  # of the iteration; then all singular values lie between 0.7 and 1.2
COEFFICIENTS = (3.4445, -4.775, 2.0315)  # Jordan's: the steepest at 0
EPSILON = 1e-8


def is_matrix(parameter: Tensor) -> bool:
    """Weights of linear layers and of convolutions that mix channels, as (outputs, inputs and places)."""
    return parameter.ndim in (2, 4) and parameter.shape[1] > 1


def matrices_apart(parameters: list[nn.Parameter], **settings: Any) -> list[dict[str, Any]]:
    """Two groups for `Muon`: those that are matrices, and the others."""
    matrices = [parameter for parameter in parameters if is_matrix(parameter)]
    others = [parameter for parameter in parameters if not is_matrix(parameter)]
    return [{"params": matrices, "matrices": True, **settings}, {"params": others, "matrices": False, **settings}]


class Muon(torch.optim.Optimizer):
    """Muon for matrices, AdamW for the rest; a step of both is of the rate's size, as a root mean square.

    groups: with `matrices`, whether theirs are. betas and weight_decay as AdamW's.
    """

    def __init__(self, groups: ParamsT, lr: float, betas: tuple[float, float], weight_decay: float):
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "matrices": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        assert closure is None, "gradients are there before the step"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                way = self._of_matrix if group["matrices"] else self._of_others
                parameter.sub_(way(self.state[parameter], parameter.grad, group), alpha=group["lr"])

    def _of_matrix(self, state: dict[str, Tensor], gradient: Tensor, group: dict[str, Any]) -> Tensor:
        if not state:
            state["mean"] = torch.zeros_like(gradient)
        state["mean"].lerp_(gradient, 1 - MOMENTUM)
        way = orthogonal(gradient.lerp(state["mean"], MOMENTUM).flatten(1))  # Nesterov's
        return way.view_as(gradient) * math.sqrt(max(way.shape))

    def _of_others(self, state: dict[str, Tensor], gradient: Tensor, group: dict[str, Any]) -> Tensor:
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        first, second = group["betas"]
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        step = int(state["step"])  # lies on the host
        scale = (state["square"] / (1 - second**step)).sqrt_().add_(EPSILON)
        return state["mean"] / (1 - first**step) / scale


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly the orthogonal matrix nearest to a (n, m) one, by Newton and Schulz's iteration; of zeros, zeros."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    found = wide / (wide.norm() + EPSILON)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found if wide is matrix else found.T
