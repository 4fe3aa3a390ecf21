"""`evaluate`: box and mask AP."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mask_frozen_detr.cli.loading import check_at_least, check_place, load_predictor
from mask_frozen_detr.cli.positionals import DataPath, RunName
from mask_frozen_detr.data.config import Format
from mask_frozen_detr.errors import safe
from mask_frozen_detr.machine.config import Precision, Runtime

if TYPE_CHECKING:
    from mask_frozen_detr.evaluation import Measured


@dataclass
class Evaluate:
    """COCO box and mask AP of a run, of an exported one, or of a bare detector with the training-free baseline."""

    # A run folder, a hub repository of one, an exported folder, or a detector: then the training-free baseline of the
    # paper is measured.
    model: RunName
    # Data: a folder with splits, or one annotation file, in any format that train takes.
    data: DataPath
    # Which split of the folder to measure on: train, val or test.
    split: str = "val"
    # Measure on this share of the training images, where DATA has no val split; a run's own is known.
    val_fraction: float | None = None
    # Measure on these classes of the data alone, as person,dog; by default on those the run was trained on.
    classes: str | None = None
    # Call classes of the data by other names, as pedestrian=person,auto=car, beside what the run itself renames.
    class_map: str | None = None
    # Where the pictures are, if not where the layout of DATA says.
    images: Path | None = None
    # The format of DATA, where it holds several; by default the one that is found.
    format: Format | None = None
    # What orientation tags of photos mean for their annotations: auto tells by the sizes in the annotation file.
    orientation: Literal["auto", "apply", "ignore"] = "auto"
    # Print the AP of each class as well.
    by_class: bool = False
    # Write all figures into this file.
    json: Path | None = None
    # Write COCO results for the test server: X.json gives X.bbox.json and X.segm.json.
    results_file: Path | None = None
    # Write a page to look at, report.html in this folder: figures by class and size, curves, the worst and best masks.
    # Needs the extra report.
    report: Path | None = None
    # Where to compute: cpu, cuda, cuda:1, mps. By default the fastest that is there.
    device: str | None = None
    # Images a forward pass: more are faster on a GPU, and need memory.
    batch: int = 1
    # Processes that load images; 0 loads them between forward passes.
    workers: int = 1
    # Detections an image; by default as many as the run was trained with, else 100.
    max_detections: int | None = None
    # Leave out what the detector scores at most this: faster, and AP may drop.
    score_threshold: float = 0.0
    # auto takes half precision where that is fast; boxes then move by its rounding.
    precision: Precision = "fp32"
    # Runs an exported folder: onnxruntime, the default, or openvino.
    runtime: Runtime | None = None
    # Look twice, the second time in the mirror: better masks, the same boxes, twice the time.
    mirror: bool = False
    # Where the run's detector lies now, if it has moved.
    detector: str | None = None
    # The classes of a bare detector that takes text, as "cat. dog."
    prompt: str | None = None
    # Branch, tag or commit on the hub.
    revision: str | None = None
    # Baseline only: equations 3 and 4 of the paper; without it equation 1.
    roi_align: bool = True
    # Baseline only: add C₁; by default where its width allows.
    stem: bool | None = None

    def __post_init__(self) -> None:
        check_at_least(1, batch=self.batch)
        if self.max_detections is not None:
            check_at_least(1, max_detections=self.max_detections)
        check_at_least(0, workers=self.workers, score_threshold=self.score_threshold)

    def run(self) -> None:
        from mask_frozen_detr.data.class_choice import read_choice
        from mask_frozen_detr.data.load import load_split
        from mask_frozen_detr.evaluation import measure
        from mask_frozen_detr.machine.processes import processes
        from mask_frozen_detr.machine.progress import Progress

        self._check_files()
        model, computing = load_predictor(
            self.model,
            self.detector,
            self.device,
            self.revision,
            self.prompt,
            self.precision,
            self.roi_align,
            self.stem,
            self.runtime,
            self.mirror,
        )
        data = load_split(
            self.data,
            self.split,
            self.images,
            self.orientation,
            self.format,
            self.val_fraction,
            read_choice(self.classes, self.class_map),
            model.held_out,
        )
        first = processes().is_main_process
        bar = Progress("evaluating", len(data.images), quiet=not first)
        with computing:
            measured = measure(
                model,
                data,
                self.batch,
                self.workers,
                self.max_detections,
                self.score_threshold,
                self.results_file,
                lambda done, _total: bar.update(done),
            )
        bar.close()
        if first:
            self._tell(measured)

    def _check_files(self) -> None:
        """Raises UserError, before anything is computed, for a file that cannot be written or is somebody else's."""
        from mask_frozen_detr.evaluation import check_evaluation_file, check_results_files
        from mask_frozen_detr.report.page import check_report, report_path

        page = None if self.report is None else report_path(self.report)
        for file in (self.json, self.results_file, page):
            if file is not None:
                check_place(file)
        if self.report is not None:
            check_report(self.report)
        if self.json is not None:
            check_evaluation_file(self.json)
        if self.results_file is not None:
            check_results_files(self.results_file)

    def _tell(self, measured: "Measured") -> None:
        """Prints the figures and writes what was asked for."""
        from mask_frozen_detr.evaluation import write_evaluation
        from mask_frozen_detr.report.history import read_history
        from mask_frozen_detr.report.page import write_report

        evaluation = measured.evaluation
        print(safe(evaluation.classes), file=sys.stderr)
        for problem in evaluation.problems:
            print(safe(f"skipped: {problem}"), file=sys.stderr)
        print(safe(evaluation.table(self.by_class)))
        if self.json is not None:
            write_evaluation(self.json, evaluation, model=self.model, data=str(self.data), split=self.split)
        if self.report is not None:
            name = f"{Path(self.model).name} on {self.data.name}, {self.split}"
            written = write_report(self.report, name, measured, read_history(Path(self.model)))
            print(safe(f"to look at: {written}"), file=sys.stderr)
