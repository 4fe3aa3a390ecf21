"""How to train: the options of the training loop (paper, section 3.1 "Experiment Setup")."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mask_frozen_detr.detectors.config import FineTune
from mask_frozen_detr.errors import UserError, check_choice, check_flag, check_number
from mask_frozen_detr.machine.config import Precision

MOST_SEED = (1 << 32) - 1  # numpy's
EVALUATIONS = 10  # a run, where nothing else is asked for, with that of the end
EVALUATED = 0.1  # images that evaluations on the way may look at, as a share of those that training sees
MOST_ROUNDS = 10
DROPS = (0.9, 0.95)
# What runs did that are older than an option.
BEFORE: dict[str, Any] = {"evidence": False}
AUGMENT_BEFORE: dict[str, Any] = {"copy_paste": 0.0}

# Which objects learn from a mask that training draws itself: none, all, or those that nobody drew one for.
MasksFrom = Literal["annotations", "boxes", "boxes-where-missing"]
OptimizerName = Literal["adamw", "muon"]


def of_any_age(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a run as they were written, with what it did where it is older than one of them."""
    known = {**BEFORE, **options}
    return known | {"augment": {**AUGMENT_BEFORE, **known["augment"]}} if "augment" in known else known


@dataclass(frozen=True)
class LossConfig:
    """Weights are the field's usual ones; k and β are PointRend's. Raises UserError for what makes no sense."""

    # Weight of the cross-entropy of each point: raise it for crisper masks, lower it (2) when the loss is taken on
    # all points.
    bce_weight: float = 5.0
    # Weight of the dice loss, which judges a mask as a whole: raise it where objects are small or thin.
    dice_weight: float = 5.0
    # Weight of the loss by which mask scoring learns; without scoring it has no effect.
    iou_weight: float = 1.0
    # Learn on the most uncertain points; off, on every cell of the mask (Table 12), which serves small data.
    sampled_points: bool = True
    # N, the points of a mask that its loss is read at, as a share of its r × r cells.
    point_fraction: float = 0.25
    # k: of k · N random points the most uncertain are kept; more look closer at borders.
    oversample: float = 3.0
    # β: the share of points that is chosen by uncertainty; the rest is drawn at random.
    importance: float = 0.75

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

    # Mirror half of the images; off where left and right matter, as for text.
    flip: bool = True
    # Draw sizes (the paper's shorter side of 480 … 800, scaled to the detector's own), where the detector takes any
    # size; off, the detector's own size.
    multi_scale: bool = True
    # Half of the time, a random crop (384 … 600 in the paper) first.
    crop: bool = True
    # Instead of the two: resize by 0.1 … 2.0 and cut out a square (Table 13); for large data.
    large_scale_jitter: bool = False
    # Largest relative change of brightness, contrast and saturation; 0 leaves colours alone.
    colour_jitter: float = 0.0
    # How often objects of another training image are laid over one (Ghiasi et al., 2021); 0.5 where a large network
    # learns few images by heart. Not with a cache, nor with masks that training draws itself.
    copy_paste: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "multi_scale", "crop", "large_scale_jitter"):
            check_flag(name, getattr(self, name))
        check_number("colour_jitter", self.colour_jitter, 0, 1, below=True)
        check_number("copy_paste", self.copy_paste, 0, 1)

    @property
    def sets_size(self) -> bool:
        """Whether views come at the size that a detector which takes any size shall see."""
        return self.multi_scale or self.large_scale_jitter


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the paper's, with its batch of 2 for one GPU (Table 8).

    Raises UserError for what makes no sense.
    """

    # How many steps to train; by default as many as the epochs take.
    iterations: int | None = None
    # Passes over the training images (Table 9), where iterations are not given.
    epochs: float = 6.0
    # Images a step, over all processes (Table 8): more learn more steadily, and need memory.
    batch: int = 2
    # Split a process's share of the batch into so many forward passes, where memory is short.
    accumulate: int = 1
    # Learning rate. The paper's default is for days of training; for runs of minutes take 1.5e-3 to 2e-3 with a
    # warm-up.
    lr: float = 1.5e-4
    # What turns gradients into steps: adamw, the paper's; muon learns more from a few hundred iterations at 2e-3, not
    # from thousands on few images (docs/presets.md).
    optimizer: OptimizerName = "adamw"
    # AdamW's decays of its two means of gradients, also of what muon leaves to it; there is seldom a reason to change
    # them.
    betas: tuple[float, float] = (0.9, 0.999)
    # How strongly weights are drawn to zero; raise it where few images are learned by heart.
    weight_decay: float = 5e-5
    # Shares of the run after which the rate is divided by 10.
    drops: tuple[float, ...] = DROPS
    # Iterations over which the rate rises to its value; some 50 with a high one.
    warmup: int = 0
    # Largest gradient norm; 0 does not clip.
    clip: float = 1.0
    # Objects whose matched box overlaps the truth by less are left out of the loss; 0 takes them all.
    min_box_iou: float = 0.5
    # Learn from objects that the detector missed as well, over their true boxes: for masks in boxes that are given.
    missed: bool = False
    # Let the rate fall along half a cosine, in the place of drops.
    cosine: bool = False
    # Decay of a running mean of the weights, which is then saved and evaluated: 0.99 for short runs, 0.998 for half
    # an hour; 0 takes the last weights.
    ema: float = 0.0
    # What masks are learned from: annotations, those that somebody drew; boxes, those that training draws itself from
    # boxes, whatever the annotations hold; boxes-where-missing, the latter for objects without a mask.
    masks_from: MasksFrom = "annotations"
    # Draw them by what the detector sees in each box as well, not by pixels alone: closer masks, for two looks at each
    # object before the first iteration.
    evidence: bool = True
    # Parts of a run with masks from boxes: after each but the last the network draws them anew.
    rounds: int = 1
    # What of the detector learns, too (Table 11); boxes are then no longer its old ones.
    finetune: FineTune = "none"
    # auto takes bf16 on a GPU or CPU that computes in it, else fp32.
    precision: Precision = "auto"
    # Decides first weights, order and views of the images: the same seed gives the same run.
    seed: int = 0
    # Processes that load images; -1 chooses by the machine, 0 loads them between steps.
    workers: int = -1
    # Boxes an image that get masks in evaluation; the paper takes 300 for DINO with FocalNet-L.
    max_detections: int = 100
    # Iterations between evaluations on the val split. By default ten a run, and fewer where they would look at more
    # images than a tenth of those that training sees; 0 evaluates at the end only.
    evaluate_every: int | None = None
    # Val images of an evaluation on the way, a choice that the seed fixes; 0 takes all. At the end all are taken.
    evaluate_images: int = 500
    # Stop once so many evaluations in a row have found no better mask AP; 0 goes on to the end.
    patience: int = 0
    # Iterations between checkpoints: what a killed run loses at most.
    checkpoint_every: int = 500
    # Iterations between lines of metrics.jsonl.
    log_every: int = 20
    # Trackers that get the same figures, by accelerate's names with commas between: tensorboard,wandb,mlflow,… auto
    # takes tensorboard where it is installed; none takes none.
    log: str = "auto"
    # Write report.html at the end: curves, figures by class and size, the worst and the best masks. Needs the extra
    # report; without it a run goes without the page.
    report: bool = True
    # What masks are judged by; the defaults are the field's usual ones.
    loss: LossConfig = field(default_factory=LossConfig)
    # What is drawn anew for each training image. Sizes are the paper's, scaled to the detector's own.
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        self._check_length()
        self._check_rates()
        self._check_masks()
        check_number("workers", self.workers, -1, 1024, whole=True)
        check_number("seed", self.seed, 0, MOST_SEED, whole=True)
        check_flag("report", self.report)
        if not isinstance(self.log, str):
            raise UserError(f"log: found {self.log!r}, expected names of trackers with commas between them")
        check_choice("finetune", self.finetune, get_args(FineTune))
        check_choice("precision", self.precision, get_args(Precision))
        for name, kind in (("loss", LossConfig), ("augment", AugmentConfig)):
            if not isinstance(getattr(self, name), kind):
                raise UserError(f"{name}: found {getattr(self, name)!r}, expected a {kind.__name__}")

    def _check_length(self) -> None:
        """How long to train, on how much a step, and how often something else is due."""
        if self.iterations is not None:
            check_number("iterations", self.iterations, 1, whole=True)
        check_number("epochs", self.epochs, 0, above=True)
        check_number("batch", self.batch, 1, 1 << 16, whole=True)
        for name in ("accumulate", "max_detections", "checkpoint_every", "log_every"):
            check_number(name, getattr(self, name), 1, whole=True)
        for name in ("evaluate_images", "patience", "warmup"):
            check_number(name, getattr(self, name), 0, whole=True)
        if self.evaluate_every is not None:
            check_number("evaluate_every", self.evaluate_every, 0, whole=True)

    def _check_rates(self) -> None:
        """Checks what says how weights move. Raises UserError."""
        check_choice("optimizer", self.optimizer, get_args(OptimizerName))
        check_number("lr", self.lr, 0, above=True)
        check_number("clip", self.clip, 0)
        check_number("ema", self.ema, 0, 1, below=True)
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
        check_flag("cosine", self.cosine)
        if self.cosine and tuple(self.drops) != DROPS:
            raise UserError(
                f"drops: found {self.drops!r} beside a cosine, which knows no drops, expected one of them; "
                "--no-cosine takes drops"
            )

    def _check_masks(self) -> None:
        """Which masks are learned, and from what."""
        check_number("min_box_iou", self.min_box_iou, 0, 1, below=True)
        check_flag("missed", self.missed)
        check_choice("masks_from", self.masks_from, get_args(MasksFrom))
        check_flag("evidence", self.evidence)
        check_number("rounds", self.rounds, 1, MOST_ROUNDS, whole=True)
        if self.rounds > 1 and self.masks_from == "annotations":
            raise UserError(
                f"rounds: found {self.rounds} with masks from annotations, which nothing draws anew; expected 1, or "
                "--masks-from boxes or boxes-where-missing"
            )

    def steps(self, images: int) -> int:
        """Optimiser steps of the whole run on so many training images."""
        return self.iterations or max(1, math.ceil(self.epochs * images / self.batch))

    def evaluation_interval(self, images: int, val_images: int) -> int:
        """Steps between evaluations of a run on so many images; 0: none before the end.

        Left to itself it is a tenth of the run, longer where evaluations would look at more than `EVALUATED` of the
        images that training sees: on a CPU one costs some two to three times as much to evaluate as to learn from.
        """
        if self.evaluate_every is not None:
            return self.evaluate_every
        steps = self.steps(images)
        looked_at = min(val_images, self.evaluate_images or val_images)
        times = min(EVALUATIONS - 1, int(EVALUATED * steps * self.batch / max(1, looked_at)))  # before that of the end
        return math.ceil(steps / (times + 1)) if times else 0

    def round_ends(self, steps: int) -> list[int]:
        """The iterations after which pseudo-masks are drawn anew."""
        ends = [steps * number // self.rounds for number in range(1, self.rounds)]
        return [end for end in ends if end]

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step: warm-up, then a tenth after each drop, or half a cosine over the whole run."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.cosine:
            return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        return self.lr * warm * 0.1 ** sum(step >= drop * steps for drop in self.drops)
