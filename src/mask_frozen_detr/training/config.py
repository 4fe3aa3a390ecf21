"""How to train: the options of the training loop (paper, section 3.1 "Experiment Setup")."""

import math
from dataclasses import dataclass, field

from mask_frozen_detr.detectors.base import FineTune
from mask_frozen_detr.machine.precision import Precision
from mask_frozen_detr.training.augment import AugmentConfig
from mask_frozen_detr.training.losses import LossConfig


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the paper's, with its batch of 2 for one GPU (Table 8)."""

    iterations: int | None = None  # optimiser steps; None: by epochs
    epochs: float = 6.0  # passes over the training images (Table 9)
    batch: int = 2  # images a step, over all processes (Table 8)
    accumulate: int = 1  # each process splits its share of the batch into so many forward passes
    lr: float = 1.5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 5e-5
    drops: tuple[float, ...] = (0.9, 0.95)  # shares of the run after which the rate is divided by 10
    warmup: int = 0  # iterations of linear warm-up
    clip: float = 1.0  # largest gradient norm; 0 = no clipping
    min_box_iou: float = 0.5  # matched boxes that overlap the truth by less are left out; 0 takes them all
    ema: float = 0.0  # decay of a running mean of the weights, which is then saved and evaluated; 0 = none
    finetune: FineTune = "none"  # what of the detector learns, too: partial is all but the backbone (Table 11)
    precision: Precision = "auto"  # auto: bf16 on a GPU or CPU that computes in it, else fp32
    seed: int = 0
    workers: int = -1  # loader processes; -1: by the machine
    max_detections: int = 100  # boxes an image that get masks in evaluation: 300 for DINO with FocalNet-L in the paper
    evaluate_every: int = 0  # iterations between evaluations on the val split; 0: at the end only, if there is one
    checkpoint_every: int = 500  # iterations between checkpoints
    log_every: int = 20  # iterations between lines of metrics.jsonl
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        for name, least in (
            ("batch", 1),
            ("max_detections", 1),
            ("accumulate", 1),
            ("checkpoint_every", 1),
            ("log_every", 1),
            ("evaluate_every", 0),
            ("warmup", 0),
            ("workers", -1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected at least {least}")
        if self.iterations is not None and self.iterations < 1:
            raise ValueError(f"iterations: found {self.iterations}, expected at least 1")
        if not (self.epochs > 0 and self.lr > 0):
            raise ValueError(f"epochs and lr: found {self.epochs} and {self.lr}, expected positive numbers")
        if self.finetune not in ("none", "partial", "full"):
            raise ValueError(f"finetune: found {self.finetune!r}, expected 'none', 'partial' or 'full'")
        for name in ("ema", "min_box_iou"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected a number in [0, 1)")
        if not 0 <= self.seed < 1 << 23:  # seed and sample number share the 64 bits of a generator's seed
            raise ValueError(f"seed: found {self.seed}, expected 0 to {(1 << 23) - 1}")

    def steps(self, images: int) -> int:
        """Optimiser steps of the whole run on so many training images."""
        return self.iterations or max(1, math.ceil(self.epochs * images / self.batch))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step: warm-up, then a tenth after each drop."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * warm * 0.1 ** sum(step >= drop * steps for drop in self.drops)
