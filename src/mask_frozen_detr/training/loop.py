"""The training loop (paper, section 3.1 "Experiment Setup"), from top to bottom.

Each step: sample → frozen forward → Hungarian matching → mask network on the matched queries → losses on sampled
points → AdamW or Muon. A step depends on (weights, optimiser state, seed, step number) alone. So a run that was killed
goes on to the weights it would have had: on a CPU to the very bit, on a GPU up to the order in which its atomic
additions round.
"""

import inspect
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce, set_seed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.evaluation import Evaluation, read_evaluation
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.machine.precision import autocast
from mask_frozen_detr.machine.processes import on_main, processes
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.machine.signals import StopSignals, deliver
from mask_frozen_detr.model import DETECTOR_FOLDER, WEIGHTS_FILE, MaskFrozenDetr, load_network_weights, read_run_config
from mask_frozen_detr.training.batches import join_pieces, step_samples
from mask_frozen_detr.training.cache import FrozenCache
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.enough_memory import enough_memory
from mask_frozen_detr.training.matching import Matcher
from mask_frozen_detr.training.prepare import prepare
from mask_frozen_detr.training.pseudo_masks.rounds import Rounds
from mask_frozen_detr.training.records import Records
from mask_frozen_detr.training.run_folder import RunFolder, check_start, open_run
from mask_frozen_detr.training.run_record import RunRecord
from mask_frozen_detr.training.samples import Batch, TrainingData
from mask_frozen_detr.training.state import LOSS_KEYS, REMEDY, RunState
from mask_frozen_detr.training.step import TrainingStep

__all__ = ["LOSS_KEYS", "TrainConfig", "train"]

# Steps do not hand buffers round; torch 2.14 has a name of its own for that, and warns of the old one.
NEWER = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
BUFFERS_STAY: dict[str, Any] = {"forward_sync_buffers" if NEWER else "broadcast_buffers": False}


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

    With `config.finetune` the detector learns as well, by its own losses and the masks' (Table 11). The first weights
    are those that the model has: for the same run again call `accelerate.utils.set_seed` before it is built.

    resume: go on where a killed run stopped; a finished one is only loaded. overwrite: give up the run that
    `output` holds. cache: where frozen outputs are kept; of the random views only flips are left then.
    Returns the last evaluation, if there is a val split. SIGINT and SIGTERM are obeyed after the step at hand, with
    a checkpoint. Raises UserError for bad input, before anything is written, on a loss that is not finite, and where
    the folder is removed or cannot be written to.
    """
    on_main(lambda: check_start(output, resume, overwrite))
    config, dataset = prepare(model, train_data, val_data, output, config, cache)
    steps, device = config.steps(len(dataset)), processes().device
    progress = Progress("training", steps, quiet=quiet or not processes().is_main_process)
    progress.print(dataset.classes.summary())
    record = RunRecord.describe(model, config, steps, dataset, cached=cache is not None)
    with open_run(output, record, config, resume, overwrite) as folder:
        if folder.finished:
            return _load_finished(model, folder, steps, progress)
        with closing(Records(folder, progress, config, steps, model, val_data)) as records:
            run = _begin(model, config, dataset, cache, folder, progress)
            rounds = Rounds(model, dataset, config, steps, cache, progress)
            rounds.draw(run)
            step_losses = _shared_out(model, config, device)
            records.begin(run.step)
            with StopSignals() as signals:
                if records.evaluation_due(run.step) and run.step not in folder.evaluated():
                    _evaluate(records, run, signals)
                for samples in step_samples(dataset, config, rounds, steps, run.step):
                    if records.enough:
                        break
                    # ---- batch
                    if not model.network.training:  # as an evaluation left it; all modules are walked through
                        step_losses.train()
                    with enough_memory([sample.path for sample in samples if sample.path], f"iteration {run.step + 1}"):
                        pieces = join_pieces(samples, config, cache)
                    normaliser, stop = _share(pieces, device, signals)
                    # ---- losses
                    _backward(run, step_losses, pieces, normaliser)
                    # ---- update
                    run.update(config.rate(run.step, steps))
                    # ---- log
                    if run.step % config.log_every == 0 or run.step == steps:
                        values = run.means()
                        _check_learning(run, values["loss"], dataset, train_data, steps)
                        records.log(run, values)
                    # ---- save
                    stopped, due = signals.agreed(stop), records.evaluation_due(run.step)
                    redraw = rounds.end_at(run.step)
                    if stopped or due or redraw or run.step % config.checkpoint_every == 0 or run.step == steps:
                        folder.save(run.shared_state())
                    if stopped:
                        break
                    # ---- evaluate
                    if due:
                        _evaluate(records, run, signals)
                    # ---- draw pseudo-masks anew
                    if redraw:
                        with signals.lifted():
                            rounds.draw(run)
            _leave_if_stopped(signals, run, progress)
            _keep(model, config, run, folder)
            with _resumable(records, run):
                records.finish(run.step)
            records.say_skipped(run.problems, len(dataset), train_data)
            records.report()
            folder.end()
    processes().wait_for_everyone()
    return records.evaluation


def _begin(
    model: MaskFrozenDetr,
    config: TrainConfig,
    dataset: TrainingData,
    cache: FrozenCache | None,
    folder: RunFolder,
    progress: Progress,
) -> RunState:
    """The state to start from, in a folder that is ready. Raises UserError where views or folder cannot be written."""
    if folder.unknown:
        progress.print(f"{folder.path}: begun by an older version; not compared: {', '.join(folder.unknown)}")
    set_seed(config.seed)
    model.to(processes().device)
    run = RunState(model, config, processes().device)
    if cache is not None:
        progress.print(cache.open(dataset))
    if folder.checkpoint is not None:
        run.load_state_dict(folder.checkpoint)
    folder.begin(model)
    return run


def _keep(model: MaskFrozenDetr, config: TrainConfig, run: RunState, folder: RunFolder) -> None:
    """The mask network alone remains, and a detector that is not the old one any more."""
    run.adopt_mean()
    if config.finetune != "none":
        model.detector.unfreeze("none")
        model.adopt_detector()
    folder.save_model(model)


def _backward(run: RunState, step_losses: nn.Module, pieces: list[Batch], normaliser: Tensor) -> None:
    """The step's losses, a forward pass a piece, and their gradients."""
    for piece in pieces:
        with enough_memory(piece.paths, f"iteration {run.step + 1}"):
            with autocast(run.config.precision, run.device):
                losses = step_losses(piece, run.config.seed)
            run.backward(losses, normaliser)
        run.problems.update(piece.problems)


def _evaluate(records: Records, run: RunState, signals: StopSignals) -> None:
    """An evaluation on the way, of the weights as they would be kept; a signal ends it at once."""
    with _resumable(records, run), run.evaluated(), signals.lifted():
        records.evaluate(run.step)


@contextmanager
def _resumable(records: Records, run: RunState) -> Iterator[None]:
    """Around what ends at once, after a checkpoint: Ctrl-C is told what is left to do."""
    try:
        yield
    except KeyboardInterrupt:
        records.progress.print(f"stopped after iteration {run.step}; --resume goes on from there")
        raise


def _shared_out(model: MaskFrozenDetr, config: TrainConfig, device: torch.device) -> nn.Module:
    """The losses of a batch, whose gradients are those of all processes."""
    info = model.detector.info
    step = TrainingStep(model, Matcher(info.costs, info.score_rule, config.min_box_iou, config.missed), config.loss)
    if processes().num_processes == 1:
        return step
    return DistributedDataParallel(
        step,
        device_ids=[device.index] if device.type == "cuda" else None,
        **BUFFERS_STAY,
        find_unused_parameters=config.finetune != "none",  # which heads take part in its losses is a detector's affair
    )


def _share(pieces: list[Batch], device: torch.device, signals: StopSignals) -> tuple[Tensor, Tensor]:
    """A process's share of the step's masks, by which its losses are divided; and signals that any has received.

    The latter is on its way to the host: it is there when the matching, which waits for the device, is done.
    """
    world = processes().num_processes
    masks = sum(int(target.has_mask.sum()) for piece in pieces for target in piece.targets)
    counts = torch.tensor([float(masks), signals.noted])
    if world > 1:
        counts = reduce(send(counts, device), "sum")
    return (counts[0] / world).clamp(min=1 / world), counts[1].to("cpu", non_blocking=True)


def _check_learning(run: RunState, loss: float, dataset: TrainingData, data: CocoData, steps: int) -> None:
    """Raises UserError where nothing can come of the run any more."""
    if not math.isfinite(loss):
        raise UserError(f"the loss is {loss} at iteration {run.step}: the run has failed; {REMEDY}")
    seen = min(len(dataset), run.step * run.config.batch)
    if seen == len(dataset) or run.step == steps:
        run.share_problems()
        if len(run.problems) >= seen:
            raise UserError(
                f"{data.annotation_file}: not one training image can be read, the first: {min(run.problems)}"
            )


def _leave_if_stopped(signals: StopSignals, run: RunState, progress: Progress) -> None:
    """Obey the signal that was waited with, now that all is saved."""
    signals.agree(run.device)  # on one that came during the last step
    if signals.received is not None:
        progress.close()
        progress.print(f"stopped by {signals.received.name} at iteration {run.step}; --resume goes on from there")
        deliver(signals.received)


def _load_finished(model: MaskFrozenDetr, folder: RunFolder, steps: int, progress: Progress) -> Evaluation | None:
    """Nothing is left to do: load the weights, give the figures of the run's last evaluation."""
    if (folder.path / DETECTOR_FOLDER).is_dir() and read_run_config(folder.path).detector.name == DETECTOR_FOLDER:
        model.adopt_detector(folder.path)
    load_network_weights(model.network, folder.path / WEIGHTS_FILE, read_run_config(folder.path).checksum)
    evaluated = folder.evaluated()
    early = bool(evaluated) and evaluated[-1] < steps
    done = f"it stopped early, after {evaluated[-1]}" if early else f"all of its {steps}"
    progress.print(f"{folder.path}: this run is finished, {done} iterations are done")
    return read_evaluation(folder.evaluation(evaluated[-1])) if evaluated else None
