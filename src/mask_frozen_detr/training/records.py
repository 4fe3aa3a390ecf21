"""What a run tells while it lasts: metrics.jsonl, evaluations, pictures, trackers, the bar; and its best weights."""

import math
import random
from dataclasses import replace

from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.errors import reason
from mask_frozen_detr.evaluation import Evaluation, Measured, measure
from mask_frozen_detr.machine.devices import peak_memory
from mask_frozen_detr.machine.processes import on_main, processes
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.report.history import read_history
from mask_frozen_detr.report.page import check_report, write_report
from mask_frozen_detr.training.best import BEST_FOLDER, Best, is_better, with_own_detector
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.run_folder import RunFolder
from mask_frozen_detr.training.state import RunState
from mask_frozen_detr.training.trackers import TENSORBOARD, Trackers, tracker_names
from mask_frozen_detr.training.val_pictures import draw_val_pictures

SHOWN_PROBLEMS = 20  # of unusable images, at the end
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class Records:
    """What a run of so many steps records, in its folder and elsewhere.

    measured: the last evaluation of this process. enough: as many evaluations as `TrainConfig.patience` says have found
    nothing better. Trackers that keep runs elsewhere are started here, before the folder holds a run: raises UserError
    where one cannot be.
    """

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
        self.some_val = None if val_data is None else _some(val_data, config.evaluate_images, config.seed)
        self.measured: tuple[int, Measured] | None = None
        self.skipped: list[str] = []
        self.trackers = Trackers(progress)
        self.names = tracker_names(config.log)
        self.enough = False
        resumed = folder.checkpoint is not None
        on_main(lambda: self.trackers.start(self.names, folder.path, folder.run, resumed, folder.record.described()))

    def begin(self, step: int) -> None:
        """Starts to record after `step`, in a folder that is ready."""
        if TENSORBOARD in self.names and processes().is_main_process:
            self.trackers.start_tensorboard(self.folder.path, self.folder.run, step)
        self.enough = self._enough()
        self.progress.start(step)

    @property
    def evaluation(self) -> Evaluation | None:
        """The figures of the last evaluation."""
        return None if self.measured is None else self.measured[1].evaluation

    def log(self, run: RunState, values: dict[str, float]) -> None:
        """A line of `RunState.means`. Raises UserError where it cannot be written."""
        run.tick()
        hours, speed = run.seconds * processes().num_processes / 3600, run.images_per_second
        rate, memory = self.config.rate(run.step - 1, self.steps), peak_memory(run.device)
        line = {"step": run.step, **values, "lr": rate, "images_per_second": speed, "device_hours": hours}
        line |= {} if math.isnan(memory) else {"peak_memory_gb": memory}
        self.folder.append_metrics(line)
        self.trackers.log({f"train/{key}": value for key, value in line.items() if key != "step"}, run.step)
        shown = {"loss": f"{values['loss']:.3f}", "IoU": f"{values['matched_iou']:.3f}", "images/s": f"{speed:.1f}"}
        shown |= {"GPU h" if run.device.type == "cuda" else "h": f"{hours:.2f}", "GB": f"{memory:.1f}"}
        self.progress.update(run.step, **shown)

    def evaluation_due(self, step: int) -> bool:
        """Whether an evaluation follows a step. After the last one comes `finish`."""
        every = self.config.evaluate_every or self.steps
        return self.val_data is not None and 0 < step < self.steps and step % every == 0

    def evaluate(self, step: int) -> None:
        """Measures on the val images of evaluations on the way; the weights are kept where they are the best.

        In float32, whatever training computes in: boxes are the detector's own. The evaluation itself is written last:
        where it is there, so is all else. Raises UserError as `measure` does.
        """
        assert self.some_val is not None
        measured = self._measure(self.model, self.some_val)
        best = self.folder.best()
        if is_better(step, measured.evaluation, best):
            with with_own_detector(self.model, self.config.finetune != "none"):
                whole = self.some_val is self.val_data
                self.folder.save_best(self.model, Best(step, measured.evaluation, whole))
        self._keep(step, measured)
        self.enough = self._enough()

    def finish(self, step: int) -> None:
        """Measures the last weights and the best ones on all val images. Raises UserError as `measure` does."""
        if self.val_data is None or self.some_val is None:
            return
        if self.enough:
            self.progress.print(f"no better mask AP in {self.config.patience} evaluations: stopped after {step}")
        best = self.folder.best()
        decided = best is not None and best.whole and self.some_val is not self.val_data  # by a process that was killed
        if not decided and (self.measured is None or self.measured[0] != step):
            self.evaluate(step)
            best = self.folder.best()
        if self.some_val is not self.val_data:
            self._keep(step, self._measure(self.model, self.val_data))
            if best is not None and not best.whole:
                best = Best(best.step, self._of_best(best, step), whole=True)
                self.folder.save_best_evaluation(best)
        if best is not None:
            place = self.folder.path / BEST_FOLDER
            self.progress.print(f"best mask AP: {best.evaluation.mask['AP']:.1f} at iteration {best.step}, {place}")

    def close(self) -> None:
        self.progress.close()
        self.trackers.close()

    def say_skipped(self, problems: set[str], images: int, data: CocoData) -> None:
        """What training had to do without, for its end."""
        self.skipped = [f"skipped: {problem}" for problem in sorted(problems)[:SHOWN_PROBLEMS]]
        if problems:
            self.skipped.append(f"{len(problems)} of {images} images could not be used")
        if data.skipped:
            name = data.annotation_file.name
            self.skipped.append(f"{len(data.skipped)} entries of {name} were broken and have been skipped")
        for line in self.skipped:
            self.progress.print(line)

    def report(self) -> None:
        """The run's page; where it cannot be made the run is none the worse, and says so."""
        if self.config.report:
            on_main(self._report)

    def _report(self) -> None:
        try:
            check_report(self.folder.path)
            self.folder.own_report()
            measured = None if self.measured is None else self.measured[1]
            history = read_history(self.folder.path)
            page = write_report(self.folder.path, self.folder.path.resolve().name, measured, history, self.skipped)
            self.progress.print(f"to look at: {page}")
        except Exception as error:  # its weights and figures are written
            self.progress.print(f"no page of this run: {reason(error)}")

    def _measure(self, model: MaskFrozenDetr, data: CocoData) -> Measured:
        with self.progress.paused():
            bar = Progress("evaluating", len(data.images), quiet=self.progress.quiet)
            measured = measure(
                model,
                data,
                max_detections=self.config.max_detections,
                progress=lambda done, _total: bar.update(done),
            )
            bar.close()
        assert self.val_data is not None
        rest = len(self.val_data.images) - len(data.images)
        in_all = (measured.evaluation.images_in_all or 0) + rest
        return replace(measured, evaluation=replace(measured.evaluation, images_in_all=in_all))

    def _of_best(self, best: Best, step: int) -> Evaluation:
        """Evaluates the best weights on all val images."""
        assert self.val_data is not None
        assert self.measured is not None
        if best.step == step:
            return self.measured[1].evaluation
        detector = None if self.config.finetune != "none" else self.model.detector
        model = MaskFrozenDetr.from_pretrained(self.folder.path / BEST_FOLDER, detector, device=self.model.device)
        return self._measure(model, self.val_data).evaluation

    def _keep(self, step: int, measured: Measured) -> None:
        """Write and tell of an evaluation of the last weights."""
        self.measured = step, measured
        evaluation = measured.evaluation
        kinds = {"box": evaluation.box, "mask": evaluation.mask}
        on_main(lambda: self._show(step, measured))
        self.trackers.log({f"val/{kind} {name}": kinds[kind][name] for kind in kinds for name in FIGURES}, step)
        self.folder.save_evaluation(step, evaluation)
        found = f"iteration {step}: box AP {evaluation.box['AP']:.1f}, mask AP {evaluation.mask['AP']:.1f}"
        self.progress.print("; ".join([found, evaluation.coverage(), *evaluation.left_out.lines()]))

    def _show(self, step: int, measured: Measured) -> None:
        wall = draw_val_pictures(measured, self.config.seed)
        if wall is not None:
            self.folder.save_pictures(step, wall)
            self.trackers.show("val/pictures", wall, step)

    def _enough(self) -> bool:
        best, patience = self.folder.best(), self.config.patience
        later = [] if best is None else [step for step in self.folder.evaluated() if step > best.step]
        return bool(patience) and len(later) >= patience


def _some(data: CocoData, most: int, seed: int) -> CocoData:
    """The data with at most so many images, the same in every run of a seed; `data` itself where it has no more."""
    if not most or len(data.images) <= most:
        return data
    chosen = sorted(random.Random(seed).sample(range(len(data.images)), most))
    return replace(data, images=[data.images[number] for number in chosen])
