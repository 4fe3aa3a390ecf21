"""One row of a table: trained with one seed and evaluated, or timed over a few steps."""

import json
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from accelerate.utils import set_seed

from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.detectors import FrozenDetector, load_detector
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.evaluation import evaluate
from mask_frozen_detr.machine.processes import on_main, processes
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.paper.config import ReproduceConfig
from mask_frozen_detr.paper.reproduce_compare import METRICS
from mask_frozen_detr.paper.reproduce_plan import PlannedRow
from mask_frozen_detr.paper.reproduce_result import RowRun
from mask_frozen_detr.training.loop import train
from mask_frozen_detr.training.run_folder import METRICS_FILE, is_run

TIMED, UNTIMED = 8, 2  # steps of a row when its time is taken, and how many of them are warm-up
IOU_SHARE = 0.2  # last part of training over which matched mask IoU is averaged


class LoadedDetectors:
    """One detector, loaded once for each encoder layer whose maps some row wants."""

    def __init__(self, name: str, revision: str | None = None, prompt: str | None = None):
        self.name, self.revision, self.prompt, self.device = name, revision, prompt, processes().device
        self._at: dict[int, FrozenDetector] = {}

    def at(self, encoder_layer: int) -> FrozenDetector:
        if encoder_layer not in self._at:
            new = self.fresh(encoder_layer)
            same = (one for one in self._at.values() if one.info.identity == new.info.identity)
            self._at[encoder_layer] = next(same, new)
        return self._at[encoder_layer]

    def fresh(self, encoder_layer: int) -> FrozenDetector:
        """One of its own, for a row that changes it."""
        detector = load_detector(self.name, revision=self.revision, encoder_layer=encoder_layer, prompt=self.prompt)
        return detector.to(self.device)

    def of(self, row: PlannedRow) -> FrozenDetector:
        return self.at(row.encoder_layer) if row.finetune == "none" else self.fresh(row.encoder_layer)


def run_row(
    row: PlannedRow,
    seed: int,
    iterations: int | None,
    detectors: LoadedDetectors,
    train_data: CocoData,
    val_data: CocoData,
    output: Path,
    config: ReproduceConfig,
) -> RowRun:
    """Train one row with one seed, or go on with it, and evaluate it. iterations: None where nothing is trained."""
    run = RowRun(seed=None)
    set_seed(seed)  # the first weights, as in `train`
    model = MaskFrozenDetr.build(detectors.of(row), row.network)
    if iterations is not None:
        folder = output / "runs" / f"{row.name}-seed{seed}"
        resume = on_main(lambda: is_run(folder))
        train(model, train_data, None, folder, row.configure(iterations, seed), resume=resume)
        hours, iou = on_main(lambda: _read_metrics(folder))
        seconds = hours * 3600 / processes().num_processes
        run = RowRun(seed, train_seconds=round(seconds, 2), device_hours=hours, matched_iou=round(iou, 4))
    model.to(detectors.device).eval()
    bar = Progress("evaluating", len(val_data.images))
    evaluation = evaluate(
        model,
        val_data,
        config.eval_batch,
        config.workers if config.workers >= 0 else 1,
        config.max_detections,
        config.eval_threshold,
        progress=lambda done, _total: bar.update(done),
    )
    bar.close()
    figures = evaluation.as_dict()
    return replace(
        run,
        box_ap=figures["box"]["AP"],
        mask={metric: figures["mask"][metric] for metric in METRICS},
        evaluation_seconds=figures["seconds"],
        unread_images=len(evaluation.problems),
    )


def time_rows(
    rows: list[PlannedRow], detectors: LoadedDetectors, train_data: CocoData, output: Path
) -> dict[str, float]:
    """Seconds of one iteration of each row, over a few steps. Raises UserError where a row does not fit in memory."""
    seconds = {}
    for row in rows:
        config = replace(row.configure(TIMED, 0), log_every=1, checkpoint_every=TIMED)
        folder = on_main(lambda: _new_folder(output))
        try:
            model = MaskFrozenDetr.build(detectors.of(row), row.network)
            train(model, train_data, None, folder / row.name, config, quiet=True)
            seconds[row.name] = on_main(partial(seconds_a_step, folder / row.name))
        except torch.OutOfMemoryError as error:
            raise UserError(f"row {row.name}: {reason_of(error)}") from error
        finally:
            on_main(partial(shutil.rmtree, folder, ignore_errors=True))
    return seconds


def seconds_a_step(folder: Path) -> float:
    """Seconds of an iteration, from the metrics of a run that was timed."""
    hours = [json.loads(text)["device_hours"] for text in (folder / METRICS_FILE).read_text().splitlines()]
    spent = (hours[-1] - hours[UNTIMED - 1]) * 3600 / processes().num_processes
    return max(spent, 1e-4) / (TIMED - UNTIMED)  # hours are written to some milliseconds


def reason_of(error: Exception) -> str:
    """Why a run failed, in words for its user."""
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory does not suffice; a lower --batch needs less"
    return str(error)


def _read_metrics(folder: Path) -> tuple[float, float]:
    """Device hours, and matched mask IoU over the last part of training."""
    lines = [json.loads(text) for text in (folder / METRICS_FILE).read_text().splitlines()]
    last = [line["matched_iou"] for line in lines if line["step"] > (1 - IOU_SHARE) * lines[-1]["step"]]
    return lines[-1]["device_hours"], fmean(last)


def _new_folder(output: Path) -> Path:
    """A folder that nobody has, for runs that are only timed."""
    output.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=output, prefix=".timing-"))
