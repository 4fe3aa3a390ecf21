"""All that a run is at one moment: what learns, its optimiser, and what has been counted. A checkpoint is this."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.processes import processes
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.muon import Muon, matrices_apart
from mask_frozen_detr.training.running_mean import RunningMean

MASK_LOSSES = ("bce", "dice", "iou")
LOSS_KEYS = (*MASK_LOSSES, "detection")
FINETUNE_RATE = 0.1  # of the detector's parameters, as a share of the mask network's (Table 11)
REMEDY = "start another with a lower --lr, with --warmup, or with --precision fp32"


class RunState:
    """The state of a run's loop.

    learned: all modules with weights that learn. averaged: their running mean, if one is wanted. step: how many are
    done. seconds: of training alone, of all processes that the run has had. totals: sums of losses since the last
    line of metrics. problems: of images that could not be used.
    """

    def __init__(self, model: MaskFrozenDetr, config: TrainConfig, device: torch.device):
        groups: list[dict[str, Any]] = [{"params": list(model.network.parameters()), "share": 1.0}]  # of the rate
        if config.optimizer == "muon":
            groups = matrices_apart(groups[0]["params"], share=1.0)
        self.learned = nn.ModuleDict({"network": model.network})
        if config.finetune != "none":
            groups.append({"params": model.detector.unfreeze(config.finetune), "share": FINETUNE_RATE})
            self.learned["detector"] = model.detector.model
        settings: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
        self.optimizer: torch.optim.Optimizer
        if config.optimizer == "muon":
            self.optimizer = Muon(groups, **settings)
        else:
            self.optimizer = torch.optim.AdamW(groups, **settings, fused=device.type == "cuda")
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.averaged = RunningMean(self.learned, config.ema) if config.ema else None
        self.config, self.device = config, device
        self.step = 0
        self.seconds = 0.0
        self.totals: dict[str, Any] = {}
        self.problems: set[str] = set()
        self._ticking = time.perf_counter()
        self._first, self._own_seconds = 0, 0.0  # of this process: the step it began at, its time since

    # ---- saved and restored

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes; of several processes call `share` first."""
        self.tick()
        return {
            "step": self.step,
            "seconds": self.seconds,
            "learned": self.learned.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged is not None else None,
            "scaler": self.scaler.state_dict(),
            "problems": sorted(self.problems),
            "totals": {key: torch.as_tensor(value).cpu() for key, value in self.totals.items()},
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.learned.load_state_dict(saved["learned"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(saved["averaged"])
        if saved["scaler"]:
            self.scaler.load_state_dict(saved["scaler"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.totals, self.problems = dict(saved["totals"]), set(saved["problems"])
        self._first = self.step

    def share(self) -> None:
        """What each process has counted becomes what all have."""
        if processes().num_processes == 1:
            return
        self.totals = {
            key: reduce(torch.as_tensor(value, dtype=torch.float32, device=self.device), "mean")
            for key, value in self.totals.items()
        }
        self.share_problems()

    def share_problems(self) -> None:
        if processes().num_processes > 1:
            self.problems = set(gather_object(sorted(self.problems)))

    def shared_state(self) -> dict[str, Any]:
        """What a checkpoint keeps, of all processes. Raises UserError where weights are lost, and keeps nothing."""
        self.check_weights()
        self.share()
        return self.state_dict()

    def check_weights(self) -> None:
        """Raises UserError rather than that a checkpoint is overwritten with weights that are lost."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.learned.parameters()):
            raise UserError(
                f"the weights are not finite any more at iteration {self.step}: the run has failed; {REMEDY}"
            )

    # ---- a step

    def backward(self, losses: dict[str, Tensor], normaliser: Tensor) -> None:
        """Gradients of one forward pass. normaliser: objects of the whole step, a share of which each process has."""
        accumulate = self.config.accumulate
        loss = sum(losses[key] for key in MASK_LOSSES if key in losses) / normaliser
        if "detection" in losses:
            loss = loss + losses["detection"] / accumulate  # a mean over objects already
        self.scaler.scale(loss).backward()
        for key, value in losses.items():
            scale = normaliser if key in MASK_LOSSES else accumulate if key == "detection" else 1
            self.totals[key] = self.totals.get(key, 0.0) + value.detach() / scale

    def update(self, rate: float) -> None:
        """One step of the optimiser, and of the running mean."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            for group in self.optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averaged is not None:
            self.averaged.update_parameters(self.learned)
        self.step += 1
        self.totals["steps"] = self.totals.get("steps", 0) + 1

    def means(self) -> dict[str, float]:
        """Losses a step and the mean IoU a matched mask, over all processes, since the last call."""
        numbers = [torch.as_tensor(value, dtype=torch.float32).to(self.device) for value in self.totals.values()]
        sums = dict(zip(self.totals, reduce(torch.stack(numbers), "sum").tolist(), strict=True))
        self.totals = {}
        values = {key: sums[key] / sums["steps"] for key in LOSS_KEYS if key in sums}
        return {"loss": sum(values.values()), **values, "matched_iou": sums["matched_iou"] / max(1.0, sums["matches"])}

    # ---- the clock is the training's

    def tick(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._ticking
        self._own_seconds += now - self._ticking
        self._ticking = now

    @property
    def images_per_second(self) -> float:
        """Images a second since this process began, over all processes."""
        return (self.step - self._first) * self.config.batch / self._own_seconds

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """While an evaluation lasts: the clock stands still, the running mean takes the weights' place."""
        self.tick()
        kept = {} if self.averaged is None else {k: v.clone() for k, v in self.learned.state_dict().items()}
        self.adopt_mean()
        try:
            yield
        finally:
            if kept:
                self.learned.load_state_dict(kept)
            self._ticking = time.perf_counter()

    def adopt_mean(self) -> None:
        """The running mean, if there is one, becomes the weights."""
        if self.averaged is not None:
            self.learned.load_state_dict(self.averaged.module.state_dict())
