"""What a run tells while it lasts: metrics.jsonl, evaluations, tensorboard's curves where it is installed, the bar."""

import math
from typing import Any

from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.evaluation import Evaluation, evaluate
from mask_frozen_detr.machine.processes import processes
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.run_folder import TENSORBOARD_FOLDER, RunFolder
from mask_frozen_detr.training.state import RunState

SHOWN_PROBLEMS = 20  # of unusable images, at the end


class Records:
    """Of a run of so many steps, whose folder has begun. evaluation: the last one of this process."""

    def __init__(
        self,
        folder: RunFolder,
        progress: Progress,
        config: TrainConfig,
        steps: int,
        model: MaskFrozenDetr,
        val_data: CocoData | None,
    ):
        self.folder, self.progress, self.config, self.steps = folder, progress, config, steps
        self.model, self.val_data = model, val_data
        self.evaluation: Evaluation | None = None
        start = 0 if folder.checkpoint is None else folder.checkpoint["step"]
        self.curves = _tensorboard(folder, start) if processes().is_main_process else None
        progress.start(start)

    def log(self, run: RunState, values: dict[str, float]) -> None:
        """A line of `RunState.means`. Raises UserError where it cannot be written."""
        run.tick()
        hours, speed = run.seconds * processes().num_processes / 3600, run.images_per_second
        rate = self.config.rate(run.step - 1, self.steps)
        line = {"step": run.step, **values, "lr": rate, "images_per_second": speed, "device_hours": hours}
        self.folder.append_metrics(line)
        self._draw(run.step, {f"train/{key}": value for key, value in line.items() if key != "step"})
        shown = {"loss": f"{values['loss']:.3f}", "IoU": f"{values['matched_iou']:.3f}", "images/s": f"{speed:.1f}"}
        self.progress.update(run.step, **shown, **{"GPU h" if run.device.type == "cuda" else "h": f"{hours:.2f}"})

    def evaluation_due(self, step: int) -> bool:
        """Whether an evaluation follows a step. After the last one comes that of the end."""
        every = self.config.evaluate_every
        return self.val_data is not None and bool(every) and 0 < step < self.steps and step % every == 0

    def evaluate(self, step: int) -> None:
        """In float32, whatever training computes in: boxes are the detector's own. Raises UserError as `evaluate`."""
        assert self.val_data is not None
        with self.progress.paused():
            bar = Progress("evaluating", len(self.val_data.images), quiet=self.progress.quiet)
            evaluation = self.evaluation = evaluate(
                self.model,
                self.val_data,
                max_detections=self.config.max_detections,
                progress=lambda done, _total: bar.update(done),
            )
            bar.close()
        self.folder.save_evaluation(step, evaluation)
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
        kinds = {"box": evaluation.box, "mask": evaluation.mask}
        self._draw(step, {f"val/{kind} {name}": kinds[kind][name] for kind in kinds for name in names})
        self.progress.print(f"iteration {step}: box AP {evaluation.box['AP']:.1f}, mask AP {evaluation.mask['AP']:.1f}")

    def close(self) -> None:
        self.progress.close()
        if self.curves is not None:
            self.curves.close()

    def say_skipped(self, problems: set[str], images: int, data: CocoData) -> None:
        """What training had to do without, for its end."""
        for problem in sorted(problems)[:SHOWN_PROBLEMS]:
            self.progress.print(f"skipped: {problem}")
        if problems:
            self.progress.print(f"{len(problems)} of {images} images could not be used")
        if data.skipped:
            self.progress.print(
                f"{len(data.skipped)} entries of {data.annotation_file.name} were broken and have been skipped"
            )

    def _draw(self, step: int, values: dict[str, Any]) -> None:
        if self.curves is not None:
            for name, value in values.items():
                if not math.isnan(value):
                    self.curves.add_scalar(name, value, step)


def _tensorboard(folder: RunFolder, step: int) -> Any:
    """A writer whose files are known by the run's own name; None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder.path / TENSORBOARD_FOLDER), purge_step=step, filename_suffix=f".{folder.run}")
