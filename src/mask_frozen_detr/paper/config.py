"""How `reproduce` runs a table of the paper: what holds for all of its rows."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.config import Precision
from mask_frozen_detr.training.config import TrainConfig

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
OF_TRAINING = ("lr", "warmup", "ema", "batch", "precision", "min_box_iou", "max_detections", "workers")


@dataclass(frozen=True)
class ReproduceConfig:
    """What holds for all rows of a table alike; what the table varies, its rows decide.

    Rates differ from the paper's (1.5e-4, no warm-up, no mean), with which little is learned within minutes.
    """

    # Of each row and seed: a time (90s, 10m, 1.5h) or iterations (300it).
    budget: str = "10m"
    # What rows get equally much of. iterations: all as many as the slowest one (a few steps of each are timed first)
    # manages in the budget. time: each as many as it manages itself.
    equal: Literal["iterations", "time"] = "iterations"
    # How often each row is trained: 3 takes seeds 0, 1 and 2; may grow later.
    seeds: int = 1
    # Learning rate of all rows.
    lr: float = 2e-3
    # Iterations over which the rate rises, at most a quarter of the run.
    warmup: int = 30
    # Decay of the running mean of the weights, which is evaluated; 0 takes the last weights.
    ema: float = 0.98
    # Images a step.
    batch: int = 2
    # auto takes bf16 on a GPU or CPU that computes in it, else fp32.
    precision: Precision = "auto"
    # Objects whose matched box overlaps the truth by less are left out of training.
    min_box_iou: float = 0.5
    # Another RoIAlign size in all rows: 16 trains faster on a CPU.
    roi_size: int | None = None
    # Processes that load images; -1 chooses by the machine.
    workers: int = -1
    # Boxes an image that get masks in evaluation.
    max_detections: int = 100
    # Evaluation leaves out what the detector scores at most this: faster, and AP may drop.
    eval_threshold: float = 0.0
    # Images a forward pass of evaluation.
    eval_batch: int = 1
    # Evaluate the first so many val images; 0 takes all.
    max_images: int = 0

    def __post_init__(self) -> None:
        read_budget(self.budget)
        for name, least in (("seeds", 1), ("eval_batch", 1), ("max_images", 0), ("eval_threshold", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name}: found {getattr(self, name)}, expected at least {least}")
        TrainConfig(**self.of_training())  # checks the rest

    def of_training(self) -> dict[str, Any]:
        """The fields that `TrainConfig` has too."""
        return {name: getattr(self, name) for name in OF_TRAINING}


@dataclass(frozen=True)
class Budget:
    """What one row and seed may take: seconds or iterations."""

    seconds: float | None = None
    iterations: int | None = None


def read_budget(text: str) -> Budget:
    """A budget as the command line takes it, such as 10m or 300it. Raises UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|it)", text.strip())
    if match is None or float(match[1]) == 0 or (match[2] == "it" and "." in match[1]):
        raise UserError(
            f"budget: found {text!r}, expected a time such as 90s, 10m or 1.5h, or iterations such as 300it"
        )
    if match[2] == "it":
        return Budget(iterations=int(match[1]))
    return Budget(seconds=float(match[1]) * UNITS[match[2]])
