"""The training loop (paper, section 3.1 "Experiment Setup"), from top to bottom.

Each step: sample → frozen forward → Hungarian matching → mask network on the matched queries → losses on sampled
points → AdamW. A step depends on (weights, optimiser state, seed, step number) alone, so that a run that was killed
resumes to the very weights it would have had.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object, set_seed
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.detectors.base import hash_weights
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.evaluation import Evaluation, evaluate, read_evaluation, write_evaluation
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.machine.files import save_torch_atomic
from mask_frozen_detr.machine.precision import resolve_precision
from mask_frozen_detr.machine.processes import processes
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.model import (
    DETECTOR_FOLDER,
    WEIGHTS_FILE,
    MaskFrozenDetr,
    load_network_weights,
    save_network_weights,
)
from mask_frozen_detr.training.cache import FrozenCache
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.matching import Matcher
from mask_frozen_detr.training.run_folder import (
    CHECKPOINT_FILE,
    append_metrics,
    check_finished_run,
    check_same_run,
    check_start,
    describe_run,
    is_finished,
    load_checkpoint,
    open_run,
)
from mask_frozen_detr.training.running_mean import RunningMean
from mask_frozen_detr.training.samples import SampleOrder, TrainingData, collate
from mask_frozen_detr.training.step import TrainingStep

SHOWN_PROBLEMS = 20  # of unusable images, at the end
REMEDY = "start another with a lower --lr, with --warmup, or with --precision fp32"
MASK_LOSSES = ("bce", "dice", "iou")
LOSS_KEYS = (*MASK_LOSSES, "detection")
FINETUNE_RATE = 0.1  # of the detector's parameters, as a share of the mask network's (Table 11)


def train(
    model: MaskFrozenDetr,
    train_data: CocoData,
    val_data: CocoData | None,
    output: Path,
    config: TrainConfig,
    resume: bool = False,
    quiet: bool = False,
    overwrite: bool = False,
    cache: FrozenCache | None = None,
) -> Evaluation | None:
    """Train `model.network` on a frozen detector; the run folder `output` ends up with all there is to keep.

    With `config.finetune` the detector learns as well, by its own losses and the masks' (Table 11).

    resume: go on where a killed run stopped; a finished one is only loaded. overwrite: give up the run that
    `output` holds. cache: where frozen outputs are kept; of the random views only flips are left then.
    Returns the last evaluation, if there is a val split. Raises UserError for bad input, before
    anything is written, and on a loss that is not finite.
    """
    check_start(output, resume, overwrite)
    # processes() meets the others: an Accelerator alone would not, of CPU processes that torchrun started
    config = replace(config, precision=resolve_precision(config.precision, processes().device))
    accelerator = _accelerator(config)
    world, rank = accelerator.num_processes, accelerator.process_index
    if config.batch % (world * config.accumulate):
        raise UserError(
            f"batch: found {config.batch}, expected a multiple of processes × accumulate = "
            f"{world} × {config.accumulate}"
        )
    detector, info, device = model.detector, model.detector.info, accelerator.device
    classes = classes_of(train_data, info.class_names)
    model.classes = classes.run
    model.max_detections = config.max_detections
    if val_data is not None:
        classes_of(val_data, info.class_names, model.classes)
    if not any(parameter.requires_grad for parameter in model.network.parameters()):
        raise UserError("the mask network has no part that could learn: the training-free baseline needs no training")
    if cache is not None:
        config = replace(config, augment=cache.augment(config.augment))
    dataset = TrainingData(train_data, classes, info.preprocessing, config.augment, config.seed)
    steps = config.steps(len(dataset))
    resolved = describe_run(model, config, steps, dataset)
    resolved["data"]["frozen outputs"] = "computed" if cache is None else "cached"
    progress = Progress("training", steps, quiet=quiet or not accelerator.is_main_process)
    progress.print(classes.summary())
    if resume and is_finished(output):
        return _finished_run(output, model, resolved, progress)
    set_seed(config.seed)
    detector.to(device)
    # share: of the learning rate
    groups: list[dict[str, Any]] = [{"params": list(model.network.parameters()), "share": 1.0}]
    learned = nn.ModuleDict({"network": model.network})
    if config.finetune != "none":
        groups.append({"params": detector.unfreeze(config.finetune), "share": FINETUNE_RATE})
        learned["detector"] = detector.model
    if cache is not None:
        progress.print(cache.open(dataset))
    matcher = Matcher(info.costs, info.score_rule, config.min_box_iou)
    training_step = accelerator.prepare_model(TrainingStep(model, matcher, config.loss))
    optimizer = accelerator.prepare_optimizer(
        torch.optim.AdamW(
            groups,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=device.type == "cuda",
        )
    )
    averaged = None
    if config.ema:
        averaged = RunningMean(learned, config.ema)

    # ---- where to start: all loop state is in the checkpoint
    step, seconds = 0, 0.0
    totals: dict[str, Any] = {}  # sums since the last line of metrics
    problems: set[str] = set()
    checkpoint_path = output / CHECKPOINT_FILE
    if resume and checkpoint_path.exists():
        state = load_checkpoint(checkpoint_path)
        check_same_run(state["config"], resolved, checkpoint_path)
        learned.load_state_dict(state["learned"])
        optimizer.load_state_dict(state["optimizer"])
        if averaged is not None:
            averaged.load_state_dict(state["averaged"])
        if accelerator.scaler is not None and state["scaler"]:
            accelerator.scaler.load_state_dict(state["scaler"])
        step, seconds, problems = state["step"], state["seconds"], set(state["problems"])
        totals = state["totals"]
    if accelerator.is_main_process:
        open_run(output, resolved, step)
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
    progress.start(step)
    evaluation: Evaluation | None = None
    batch_of = collate if cache is None else cache.batch
    began, started_step = time.perf_counter(), step  # of this process; a resumed run adds what came before
    spent = seconds

    for samples in loader:
        # ---- one step
        training_step.train()
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step, steps) * group["share"]
        size = len(samples) // config.accumulate
        pieces = [batch_of(samples[i : i + size]) for i in range(0, len(samples), size)]
        normaliser = torch.tensor(float(sum(len(t.labels) for piece in pieces for t in piece.targets)))
        if world > 1:
            normaliser = accelerator.reduce(send(normaliser, device), "sum") / world
        normaliser = normaliser.clamp(min=1 / world)
        for piece in pieces:
            problems.update(piece.problems)
            with accelerator.autocast():
                losses = training_step(piece, config.seed)
            loss = sum(losses[key] for key in MASK_LOSSES if key in losses) / normaliser
            if "detection" in losses:
                loss = loss + losses["detection"] / config.accumulate  # a mean over objects already
            accelerator.backward(loss)
            for key, value in losses.items():
                scale = normaliser if key in MASK_LOSSES else config.accumulate if key == "detection" else 1
                totals[key] = totals.get(key, 0.0) + value.detach() / scale
        if config.clip:
            accelerator.unscale_gradients()
            for group in groups:
                nn.utils.clip_grad_norm_(group["params"], config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if averaged is not None:
            averaged.update_parameters(learned)
        step += 1

        # ---- log
        totals["steps"] = totals.get("steps", 0) + 1
        if step % config.log_every == 0 or step == steps:
            values = _means(totals, accelerator)
            totals = {}
            loss_value = sum(values[key] for key in LOSS_KEYS if key in values)
            if not math.isfinite(loss_value):
                raise UserError(f"the loss is {loss_value} at iteration {step}: the run has failed; {REMEDY}")
            seen = min(len(dataset), step * config.batch)
            if seen == len(dataset) or step == steps:
                problems = _of_all(problems, world)
                if len(problems) >= seen:
                    raise UserError(
                        f"{train_data.annotation_file}: not one training image can be read, the first: {min(problems)}"
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
            with _averaged_weights(learned, averaged):
                evaluation = _evaluate(model, val_data, config.max_detections, step, output, writer, progress)
            began += time.perf_counter() - paused  # the clock is the training's

        # ---- save
        if step % config.checkpoint_every == 0 or step == steps:
            _check_weights(learned, step)
            seconds = spent + time.perf_counter() - began
            if world > 1:  # one process saves what all have seen
                totals = {
                    key: accelerator.reduce(torch.as_tensor(value, dtype=torch.float32, device=device), "mean")
                    for key, value in totals.items()
                }
                problems = _of_all(problems, world)
            if accelerator.is_main_process:
                save_torch_atomic(
                    checkpoint_path,
                    {
                        "step": step,
                        "seconds": seconds,
                        "learned": learned.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "averaged": averaged.state_dict() if averaged is not None else None,
                        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
                        "problems": sorted(problems),
                        "totals": {key: torch.as_tensor(value).cpu() for key, value in totals.items()},
                        "config": resolved,
                    },
                )

    # ---- the end: the mask network alone remains, and a detector that is not the old one any more
    progress.close()
    if averaged is not None:
        learned.load_state_dict(averaged.module.state_dict())
    if config.finetune != "none":
        detector.unfreeze("none")
        model.adopt_detector()
    if accelerator.is_main_process:
        if model.own_detector:
            model.save_pretrained(output)
        else:
            save_network_weights(model.network, output / WEIGHTS_FILE)
    if val_data is not None:
        evaluation = _evaluate(model, val_data, config.max_detections, step, output, writer, progress)
    for text in _skipped(problems, len(dataset), train_data):
        progress.print(text)
    if accelerator.is_main_process:
        checkpoint_path.unlink(missing_ok=True)  # only now the run is finished
    if writer is not None:
        writer.close()
    accelerator.wait_for_everyone()
    return evaluation


@contextmanager
def _averaged_weights(learned: nn.Module, averaged: torch.optim.swa_utils.AveragedModel | None) -> Iterator[None]:
    """The mean of the weights in their stead, for an evaluation."""
    if averaged is None:
        yield
        return
    kept = {key: value.clone() for key, value in learned.state_dict().items()}
    learned.load_state_dict(averaged.module.state_dict())
    try:
        yield
    finally:
        learned.load_state_dict(kept)


def _means(totals: dict[str, Any], accelerator: Accelerator) -> dict[str, float]:
    """Losses a step and the mean IoU a matched mask, over all processes."""
    numbers = [torch.as_tensor(value, dtype=torch.float32).to(accelerator.device) for value in totals.values()]
    sums = dict(zip(totals, accelerator.reduce(torch.stack(numbers), "sum").tolist(), strict=True))
    values = {key: sums[key] / sums["steps"] for key in LOSS_KEYS if key in sums}
    return {**values, "matched_iou": sums["matched_iou"] / max(1.0, sums["matches"])}


def _evaluate(
    model: MaskFrozenDetr,
    data: CocoData,
    max_detections: int,
    step: int,
    output: Path,
    writer: SummaryWriter | None,
    progress: Progress,
) -> Evaluation:
    with progress.paused():  # in float32, whatever training computes in: boxes are the detector's own
        evaluation = evaluate(model, data, max_detections=max_detections)
    if writer is not None:
        for kind, values in (("box", evaluation.box), ("mask", evaluation.mask)):
            for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
                if not math.isnan(values[name]):
                    writer.add_scalar(f"val/{kind} {name}", values[name], step)
        write_evaluation(output / f"evaluation-{step}.json", evaluation, step=step)
        progress.print(f"iteration {step}: box AP {evaluation.box['AP']:.1f}, mask AP {evaluation.mask['AP']:.1f}")
    return evaluation


def _accelerator(config: TrainConfig) -> Accelerator:
    """Of a configuration whose precision is resolved."""
    AcceleratorState._reset_state()  # it refuses a second training in one process with another precision
    # Which heads of a detector take part in its losses is its own affair.
    kwargs = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=config.finetune != "none")
    try:
        mixed = "no" if config.precision == "fp32" else config.precision
        return Accelerator(mixed_precision=mixed, kwargs_handlers=[kwargs])
    except ValueError as error:
        raise UserError(f"precision: found {config.precision!r}, which does not work here: {error}") from error


def _workers(device: torch.device) -> int:
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores - 1) if device.type == "cuda" else 1


def _finished_run(
    output: Path, model: MaskFrozenDetr, resolved: dict[str, Any], progress: Progress
) -> Evaluation | None:
    """Nothing is left to do: load the weights, give the figures of its last evaluation."""
    check_finished_run(output, resolved)
    if (output / DETECTOR_FOLDER).is_dir():
        model.adopt_detector(output)
    load_network_weights(model.network, output / WEIGHTS_FILE)
    progress.print(f"{output}: this run is finished, all of its {resolved['steps']} iterations are done")
    path = output / f"evaluation-{resolved['steps']}.json"
    return read_evaluation(path) if path.exists() else None


def _check_weights(learned: nn.Module, step: int) -> None:
    """Raises UserError rather than that a checkpoint is overwritten with weights that are lost."""
    if not all(bool(parameter.isfinite().all()) for parameter in learned.parameters()):
        raise UserError(f"the weights are not finite any more at iteration {step}: the run has failed; {REMEDY}")


def _of_all(problems: set[str], world: int) -> set[str]:
    """What all of so many processes have met."""
    return problems if world == 1 else set(gather_object(sorted(problems)))


def _skipped(problems: set[str], images: int, data: CocoData) -> list[str]:
    """What training had to do without, for its end."""
    lines = [f"skipped: {problem}" for problem in sorted(problems)[:SHOWN_PROBLEMS]]
    if problems:
        lines.append(f"{len(problems)} of {images} images could not be used")
    if data.skipped:
        lines.append(f"{len(data.skipped)} entries of {data.annotation_file.name} were broken and have been skipped")
    return lines


def _log(output: Path, writer: SummaryWriter, line: dict[str, float]) -> None:
    append_metrics(output, line)
    for key, value in line.items():
        if key != "step":
            writer.add_scalar(f"train/{key}", value, line["step"])


def frozen_fingerprint(model: MaskFrozenDetr) -> str:
    """Hash of the detector's weights, to show that training left them bit-identical."""
    return hash_weights(model.detector.model)
