"""How to train: the options of the training loop (paper, section 3.1 "Experiment Setup")."""

import math
from dataclasses import dataclass, field
from typing import get_args

from mask_frozen_detr.detectors.config import FineTune
from mask_frozen_detr.errors import UserError, check_choice, check_flag, check_number
from mask_frozen_detr.machine.config import Precision

MOST_SEED = (1 << 32) - 1  # numpy's


@dataclass(frozen=True)
class LossConfig:
    """Weights are the field's usual ones; k and β are PointRend's. Raises UserError for what makes no sense."""

    bce_weight: float = 5.0
    dice_weight: float = 5.0
    iou_weight: float = 1.0
    sampled_points: bool = True  # off: every cell of the mask (Table 12, second row)
    point_fraction: float = 0.25  # N as a share of the mask's r · r points
    oversample: float = 3.0  # k
    importance: float = 0.75  # β

    def __post_init__(self) -> None:
        for name in ("bce_weight", "dice_weight", "iou_weight"):
            check_number(name, getattr(self, name), 0)
        if not (self.bce_weight or self.dice_weight):
            raise UserError("bce_weight and dice_weight: found 0 and 0, expected one above 0: masks learn from them")
        check_flag("sampled_points", self.sampled_points)
        check_number("point_fraction", self.point_fraction, 0, 1, above=True)
        check_number("oversample", self.oversample, 1, 100)
        check_number("importance", self.importance, 0, 1)


@dataclass(frozen=True)
class AugmentConfig:
    """What is drawn for each training image. Raises UserError for what makes no sense.

    Sizes are the paper's, for detectors that resize images to 800 pixels; with others they scale.
    """

    flip: bool = True
    # Random sizes of 60 to 100 % of the detector's own (480 … 800 of 800), where it takes any size; off: its own size.
    multi_scale: bool = True
    crop: bool = True  # half of the time, a random crop of 384 … 600 first
    large_scale_jitter: bool = False  # instead of the two: 0.1 to 2 times as large, where the detector takes any size
    colour_jitter: float = 0.0  # largest relative change of brightness, contrast and saturation

    def __post_init__(self) -> None:
        for name in ("flip", "multi_scale", "crop", "large_scale_jitter"):
            check_flag(name, getattr(self, name))
        check_number("colour_jitter", self.colour_jitter, 0, 1, below=True)

    @property
    def sets_size(self) -> bool:
        """Whether views come at the size that a detector which takes any size shall see."""
        return self.multi_scale or self.large_scale_jitter


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the paper's, with its batch of 2 for one GPU (Table 8).

    Raises UserError for what makes no sense.
    """

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
    ema: float = 0.0  # decay of a running mean of the weights (it ramps up), which is saved and evaluated; 0 = none
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
        if self.iterations is not None:
            check_number("iterations", self.iterations, 1, whole=True)
        check_number("batch", self.batch, 1, 1 << 16, whole=True)
        for name in ("accumulate", "max_detections", "checkpoint_every", "log_every"):
            check_number(name, getattr(self, name), 1, whole=True)
        for name in ("evaluate_every", "warmup"):
            check_number(name, getattr(self, name), 0, whole=True)
        check_number("workers", self.workers, -1, 1024, whole=True)
        check_number("seed", self.seed, 0, MOST_SEED, whole=True)
        for name in ("epochs", "lr"):
            check_number(name, getattr(self, name), 0, above=True)
        check_number("clip", self.clip, 0)
        for name in ("ema", "min_box_iou"):
            check_number(name, getattr(self, name), 0, 1, below=True)
        check_number("weight_decay", self.weight_decay, 0, 1 / self.lr)  # beyond, a step would turn the weights around
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise UserError(f"betas: found {self.betas!r}, expected two numbers")
        for beta in self.betas:
            check_number("betas", beta, 0, 1, below=True)
        if not isinstance(self.drops, tuple | list):
            raise UserError(f"drops: found {self.drops!r}, expected shares of the run, such as (0.9, 0.95)")
        for drop in self.drops:
            check_number("drops", drop, 0, 1, above=True)
        if list(self.drops) != sorted(set(self.drops)):
            raise UserError(f"drops: found {self.drops!r}, expected each share of the run to be larger than the last")
        check_choice("finetune", self.finetune, get_args(FineTune))
        check_choice("precision", self.precision, get_args(Precision))
        for name, kind in (("loss", LossConfig), ("augment", AugmentConfig)):
            if not isinstance(getattr(self, name), kind):
                raise UserError(f"{name}: found {getattr(self, name)!r}, expected a {kind.__name__}")

    def steps(self, images: int) -> int:
        """Optimiser steps of the whole run on so many training images."""
        return self.iterations or max(1, math.ceil(self.epochs * images / self.batch))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step: warm-up, then a tenth after each drop."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * warm * 0.1 ** sum(step >= drop * steps for drop in self.drops)
