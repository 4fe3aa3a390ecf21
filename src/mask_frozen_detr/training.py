"""The training loop (paper, section 3.1 "Experiment Setup"), from top to bottom.

Each step: sample → frozen forward → Hungarian matching → mask network on the matched queries → losses on sampled
points → AdamW. A step depends on (weights, optimiser state, seed, step number) alone, so that a run that was killed
resumes to the very weights it would have had.
"""

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from mask_frozen_detr.data.augment import AugmentConfig
from mask_frozen_detr.data.classes import map_classes
from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.data.dataset import Batch, SampleOrder, TrainingData, collate
from mask_frozen_detr.detectors.base import hash_weights
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.evaluation import Evaluation, evaluate, write_evaluation
from mask_frozen_detr.files import save_torch_atomic, write_json_atomic, write_text_atomic
from mask_frozen_detr.losses import LossConfig, mask_losses
from mask_frozen_detr.matching import Matcher
from mask_frozen_detr.model import CONFIG_FILE, WEIGHTS_FILE, MaskFrozenDetr, save_network_weights
from mask_frozen_detr.network.mask_network import pixel_boxes
from mask_frozen_detr.progress import Progress

TRAINING_FILE = "training.json"
CHECKPOINT_FILE = "checkpoint.pt"
METRICS_FILE = "metrics.jsonl"
LOSS_KEYS = ("bce", "dice", "iou")


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
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 on a GPU that has it, fp32 on a CPU
    seed: int = 0
    workers: int = -1  # loader processes; -1: by the machine
    evaluate_every: int = 0  # iterations between evaluations on the val split; 0: at the end only, if there is one
    checkpoint_every: int = 500  # iterations between checkpoints
    log_every: int = 20  # iterations between lines of metrics.jsonl
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        for name, least in (
            ("batch", 1),
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
        if self.epochs <= 0 or self.lr <= 0:
            raise ValueError(f"epochs and lr: found {self.epochs} and {self.lr}, expected positive numbers")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: found {self.ema}, expected a number in [0, 1)")

    def steps(self, images: int) -> int:
        """Optimiser steps of the whole run on so many training images."""
        return self.iterations or max(1, math.ceil(self.epochs * images / self.batch))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step: warm-up, then a tenth after each drop."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * warm * 0.1 ** sum(step >= drop * steps for drop in self.drops)


def train(
    model: MaskFrozenDetr,
    train_data: CocoData,
    val_data: CocoData | None,
    output: Path,
    config: TrainConfig,
    resume: bool = False,
    quiet: bool = False,
) -> Evaluation | None:
    """Train `model.network` on a frozen detector; the run folder `output` ends up with all there is to keep.

    Returns the last evaluation, if there is a val split. Raises UserError for bad input, before anything is written,
    and RuntimeError on a loss that is not finite.
    """
    accelerator = _accelerator(config)
    world, rank = accelerator.num_processes, accelerator.process_index
    if config.batch % (world * config.accumulate):
        raise UserError(
            f"batch: found {config.batch}, expected a multiple of processes × accumulate = "
            f"{world} × {config.accumulate}"
        )
    detector, info, device = model.detector, model.detector.info, accelerator.device
    try:
        classes = map_classes(info.class_names, train_data.categories)
    except ValueError as error:
        raise UserError(f"{train_data.annotation_file}: {error}") from error
    dataset = TrainingData(train_data, classes, info.preprocessing, config.augment, config.seed)
    steps = config.steps(len(dataset))
    set_seed(config.seed)
    detector.to(device)
    network = accelerator.prepare_model(model.network)
    optimizer = torch.optim.AdamW(
        model.network.parameters(),
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=accelerator.device.type == "cuda",
    )
    optimizer = accelerator.prepare_optimizer(optimizer)
    averaged = None
    if config.ema:
        averaged = torch.optim.swa_utils.AveragedModel(
            model.network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema)
        )
    matcher = Matcher(info.costs, info.score_rule, config.min_box_iou)

    # ---- where to start: all loop state is in the checkpoint
    step, seconds = 0, 0.0
    totals: dict[str, Any] = {}  # sums since the last line of metrics
    problems: set[str] = set()
    checkpoint_path = output / CHECKPOINT_FILE
    if resume and checkpoint_path.exists():
        state = load_checkpoint(checkpoint_path)
        _same_run(state["config"], _resolved(model, config, steps), checkpoint_path)
        model.network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if averaged is not None:
            averaged.load_state_dict(state["averaged"])
        if accelerator.scaler is not None and state["scaler"]:
            accelerator.scaler.load_state_dict(state["scaler"])
        step, seconds, problems = state["step"], state["seconds"], set(state["problems"])
        totals = state["totals"]
    if accelerator.is_main_process:
        _open_run(output, model, _resolved(model, config, steps), step)
    accelerator.wait_for_everyone()

    workers = config.workers if config.workers >= 0 else _workers(accelerator.device)
    loader = DataLoader(
        dataset,
        batch_sampler=SampleOrder(len(dataset), config.batch, steps, config.seed, step, rank, world),
        num_workers=workers,
        collate_fn=list,
        pin_memory=False,
        persistent_workers=False,
        prefetch_factor=4 if workers else None,
    )
    writer = SummaryWriter(str(output / "tensorboard"), purge_step=step) if accelerator.is_main_process else None
    progress = Progress("training", steps, step, quiet or not accelerator.is_main_process)
    evaluation: Evaluation | None = None
    generator = torch.Generator()
    began, started_step = time.perf_counter(), step  # of this process; a resumed run adds what came before
    spent = seconds

    for samples in loader:
        # ---- one step
        network.train()
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step, steps)
        generator.manual_seed((config.seed << 40) + (step << 10) + rank)
        size = len(samples) // config.accumulate
        pieces = [collate(samples[i : i + size]) for i in range(0, len(samples), size)]
        objects = torch.tensor(float(sum(len(t.labels) for piece in pieces for t in piece.targets)))
        normaliser = accelerator.reduce(objects.to(accelerator.device), "sum").clamp(min=1) / world
        for piece in pieces:
            problems.update(piece.problems)
            with accelerator.autocast():
                losses = step_losses(network, model, matcher, piece, config.loss, generator)
            loss = sum(losses[key] for key in LOSS_KEYS if key in losses) / normaliser
            accelerator.backward(loss)
            for key, value in losses.items():
                scale = normaliser if key in LOSS_KEYS else 1
                totals[key] = totals.get(key, 0.0) + value.detach() / scale
        if config.clip:
            accelerator.clip_grad_norm_(model.network.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if averaged is not None:
            averaged.update_parameters(model.network)
        step += 1

        # ---- log
        totals["steps"] = totals.get("steps", 0) + 1
        if step % config.log_every == 0 or step == steps:
            values = _means(totals, accelerator)
            totals = {}
            loss_value = sum(values[key] for key in LOSS_KEYS if key in values)
            if not math.isfinite(loss_value):
                raise RuntimeError(
                    f"the loss is {loss_value} at iteration {step}; the last checkpoint is kept. Lower the "
                    "learning rate, or train in fp32, and go on with --resume"
                )
            seconds = spent + time.perf_counter() - began
            speed = (step - started_step) * config.batch / (time.perf_counter() - began)
            line = {
                "step": step,
                "loss": loss_value,
                **values,
                "lr": config.rate(step - 1, steps),
                "images_per_second": speed,
                "device_hours": seconds * world / 3600,
            }
            if writer is not None:
                _log(output, writer, line)
            progress.update(
                step,
                loss=f"{loss_value:.3f}",
                IoU=f"{values['matched_iou']:.3f}",
                **{
                    "images/s": f"{speed:.1f}",
                    "GPU h" if device.type == "cuda" else "h": f"{line['device_hours']:.2f}",
                },
            )

        # ---- evaluate
        due = config.evaluate_every and step % config.evaluate_every == 0
        if val_data is not None and due and step < steps:
            paused = time.perf_counter()
            evaluation = _evaluate(model, averaged, val_data, step, output, writer, accelerator, progress)
            began += time.perf_counter() - paused  # the clock is the training's

        # ---- save
        if step % config.checkpoint_every == 0 and step < steps:
            seconds = spent + time.perf_counter() - began
            if accelerator.is_main_process:
                save_torch_atomic(
                    checkpoint_path,
                    {
                        "step": step,
                        "seconds": seconds,
                        "network": model.network.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "averaged": averaged.state_dict() if averaged is not None else None,
                        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
                        "problems": sorted(problems),
                        "totals": {key: torch.as_tensor(value).cpu() for key, value in totals.items()},
                        "config": _resolved(model, config, steps),
                    },
                )

    # ---- the end: the mask network alone remains
    progress.close()
    if averaged is not None:
        model.network.load_state_dict(averaged.module.state_dict())
    if accelerator.is_main_process:
        save_network_weights(model.network, output / WEIGHTS_FILE)
    if val_data is not None:
        evaluation = _evaluate(model, None, val_data, step, output, writer, accelerator, progress)
    if accelerator.is_main_process:
        for problem in sorted(problems):
            accelerator.print(f"skipped: {problem}")
        checkpoint_path.unlink(missing_ok=True)
    if writer is not None:
        writer.close()
    accelerator.wait_for_everyone()
    return evaluation


def step_losses(
    network: nn.Module,
    model: MaskFrozenDetr,
    matcher: Matcher,
    batch: Batch,
    loss: LossConfig,
    generator: torch.Generator | None,
) -> dict[str, torch.Tensor]:
    """Losses of one forward pass, summed over its matched masks, and how many those were."""
    device = model.device
    pixel_values = batch.pixel_values.to(device, non_blocking=True)
    pixel_mask = batch.pixel_mask.to(device, non_blocking=True)
    targets = [target.to(device) for target in batch.targets]
    detections = model.detector(pixel_values, pixel_mask)
    matches = matcher(detections, targets)
    output = network(detections, pixel_mask, matches.image_index, matches.query_index)
    starts = torch.tensor([0] + [len(target.labels) for target in targets[:-1]], device=device).cumsum(0)
    chosen = starts[matches.image_index] + matches.target_index
    boxes = torch.cat([target.boxes for target in targets])[chosen]
    with torch.autocast(device.type, enabled=False):
        losses = mask_losses(
            output.logits,
            output.iou,
            output.frames.float(),
            torch.cat([target.crops for target in targets])[chosen],
            pixel_boxes(boxes, pixel_mask, matches.image_index),
            torch.cat([target.labels for target in targets])[chosen],
            loss,
            generator,
        )
    return {**losses, "matches": torch.tensor(float(len(matches)), device=device)}


def _means(totals: dict[str, Any], accelerator: Accelerator) -> dict[str, float]:
    """Losses a step and the mean IoU a matched mask, over all processes."""
    device = accelerator.device
    sums = {
        key: float(accelerator.reduce(torch.as_tensor(value, device=device), "sum")) for key, value in totals.items()
    }
    values = {key: sums[key] / sums["steps"] for key in LOSS_KEYS if key in sums}
    return {**values, "matched_iou": sums["matched_iou"] / max(1.0, sums["matches"])}


def _evaluate(
    model: MaskFrozenDetr,
    averaged: torch.optim.swa_utils.AveragedModel | None,
    data: CocoData,
    step: int,
    output: Path,
    writer: SummaryWriter | None,
    accelerator: Accelerator,
    progress: Progress,
) -> Evaluation:
    network = averaged.module if averaged is not None else model.network
    with accelerator.autocast(), progress.paused():
        evaluation = evaluate(model, data, network=network)
    if writer is not None:
        for kind, values in (("box", evaluation.box), ("mask", evaluation.mask)):
            for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
                if not math.isnan(values[name]):
                    writer.add_scalar(f"val/{kind} {name}", values[name], step)
        write_evaluation(output / f"evaluation-{step}.json", evaluation, step=step)
        progress.print(f"iteration {step}: box AP {evaluation.box['AP']:.1f}, mask AP {evaluation.mask['AP']:.1f}")
    return evaluation


def _accelerator(config: TrainConfig) -> Accelerator:
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    return Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision))


def _workers(device: torch.device) -> int:
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores - 1) if device.type == "cuda" else 1


def _resolved(model: MaskFrozenDetr, config: TrainConfig, steps: int) -> dict[str, Any]:
    # Through JSON, so that what is compared at --resume is what was written.
    return json.loads(json.dumps({**model.describe(), "training": asdict(config), "steps": steps}))


def _same_run(saved: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    for part in ("network", "training"):
        for key, value in now[part].items():
            if saved[part].get(key) != value and key not in ("workers", "evaluate_every", "log_every"):
                raise UserError(
                    f"{path}: this run was started with {key} {saved[part].get(key)!r}, found {value!r}; "
                    "--resume goes on with the same options, another --output starts anew"
                )
    if saved["detector"]["weights"] != now["detector"]["weights"]:
        raise UserError(f"{path}: this run was started on a detector with other weights")


def _open_run(output: Path, model: MaskFrozenDetr, resolved: dict[str, Any], step: int) -> None:
    """Make or clean the run folder: a fresh start removes an old run's records, a resumed one what came after."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot make the run folder: {error.strerror}") from error
    metrics = output / METRICS_FILE
    if step == 0:
        for stale in (WEIGHTS_FILE, CHECKPOINT_FILE, METRICS_FILE):
            (output / stale).unlink(missing_ok=True)
        for stale_path in output.glob("evaluation-*.json"):
            stale_path.unlink()
        shutil.rmtree(output / "tensorboard", ignore_errors=True)
    elif metrics.exists():
        kept = []
        for text in metrics.read_text().splitlines(keepends=True):
            try:
                if text.endswith("\n") and json.loads(text)["step"] <= step:
                    kept.append(text)
            except (json.JSONDecodeError, KeyError):
                continue  # a line cut short by a kill
        write_text_atomic(metrics, "".join(kept))
    write_json_atomic(output / CONFIG_FILE, {k: v for k, v in resolved.items() if k not in ("training", "steps")})
    write_json_atomic(output / TRAINING_FILE, {**resolved["training"], "steps": resolved["steps"]})


def _log(output: Path, writer: SummaryWriter, line: dict[str, float]) -> None:
    with open(output / METRICS_FILE, "a") as file:
        file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}) + "\n")
    for key, value in line.items():
        if key != "step":
            writer.add_scalar(f"train/{key}", value, line["step"])


def load_checkpoint(path: Path) -> dict[str, Any]:
    """In torch's safe mode: no code runs. Raises UserError where the file is damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: the checkpoint cannot be read: {str(error).splitlines()[0]}") from error


def frozen_fingerprint(model: MaskFrozenDetr) -> str:
    """Hash of the detector's weights, to show that training left them bit-identical."""
    return hash_weights(model.detector.model)
