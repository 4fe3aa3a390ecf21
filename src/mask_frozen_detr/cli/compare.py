"""`compare`: runs side by side."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mask_frozen_detr.cli.loading import check_at_least, check_place, load_predictor
from mask_frozen_detr.cli.positionals import RunNames
from mask_frozen_detr.errors import UserError, safe

if TYPE_CHECKING:
    from mask_frozen_detr.data.coco import CocoData, HeldOut
    from mask_frozen_detr.report.compare import Comparison, Results
    from mask_frozen_detr.results.predictor import Predictor


@dataclass
class Compare:
    """Runs side by side on the same images, with intervals that tell whether a difference means anything."""

    # Run folders, hub repositories of runs, detectors (the training-free baseline), or results, as X.json that
    # came of `evaluate --results-file X.json`. All are compared with the first.
    runs: RunNames
    # Data to measure all of them on: a folder with splits, or one annotation file. Without it those figures stand side
    # by side that runs, or files of `evaluate --json`, have recorded, and nothing tells what a difference means.
    data: Path | None = None
    # Which split of the folder to measure on: train, val or test.
    split: str = "val"
    # Where the pictures are, if not where the layout of DATA says.
    images: Path | None = None
    # What orientation tags of photos mean for their annotations: auto tells by the sizes in the annotation file.
    orientation: Literal["auto", "apply", "ignore"] = "auto"
    # How often images are drawn anew for the intervals.
    resamples: int = 1000
    # Decides which ones are drawn.
    seed: int = 0
    # Write all figures into this file.
    json: Path | None = None
    # Write a page to look at, comparison.html in this folder. Needs the extra report.
    report: Path | None = None
    # Where to compute: cpu, cuda, cuda:1, mps. By default the fastest that is there.
    device: str | None = None
    # Images a forward pass: more are faster on a GPU, and need memory.
    batch: int = 1
    # Processes that load images; 0 loads them between forward passes.
    workers: int = 1

    def __post_init__(self) -> None:
        check_at_least(1, batch=self.batch, resamples=self.resamples)
        check_at_least(0, workers=self.workers, seed=self.seed)

    def run(self) -> None:
        from mask_frozen_detr.machine.processes import processes
        from mask_frozen_detr.report.compare import compare_recorded, recorded_evaluation
        from mask_frozen_detr.report.compare_page import (
            COMPARISON_FILE,
            check_json,
            text_of,
            write_comparison,
            write_json,
        )
        from mask_frozen_detr.report.history import read_history
        from mask_frozen_detr.report.html_page import check_page

        names = [run.rstrip("/") or run for run in self.runs]
        if len(names) < 2 or len(set(names)) < len(names):
            raise UserError(f"compare: found {' '.join(names) or 'nothing'}, expected two runs or more, each once")
        page = None if self.report is None else self.report / COMPARISON_FILE
        for file in (self.json, page):
            if file is not None:
                check_place(file)
        if page is not None:
            check_page(page)
        if self.json is not None:
            check_json(self.json)
        if self.data is None:
            found = compare_recorded({name: recorded_evaluation(name) for name in names})
        else:
            found = self._measured(names, self.data)
        if not processes().is_main_process:
            return
        print(safe(text_of(found)))
        if self.json is not None:
            write_json(self.json, found)
        if page is not None:
            write_comparison(page, found, {name: read_history(Path(name)) for name in names})
            print(safe(f"to look at: {page}"), file=sys.stderr)

    def _measured(self, names: list[str], place: Path) -> "Comparison":
        from mask_frozen_detr.data.load import load_split
        from mask_frozen_detr.report.compare import compare
        from mask_frozen_detr.report.results_files import read_results

        def load(run: "HeldOut | None" = None) -> "CocoData":
            return load_split(place, self.split, self.images, self.orientation, run=run)

        recorded = {name: read_results(name, load) for name in names}
        # All are loaded before the first is measured: a name that is none is told now, not hours later.
        models = {name: load_predictor(name, device=self.device)[0] for name in names if recorded[name] is None}
        results = [recorded[name] or self._measure(name, models.pop(name), load) for name in names]
        return compare(results, self.resamples, self.seed)

    def _measure(self, name: str, model: "Predictor", load: "Callable[[HeldOut | None], CocoData]") -> "Results":
        from mask_frozen_detr.evaluation import measure
        from mask_frozen_detr.machine.processes import processes
        from mask_frozen_detr.machine.progress import Progress
        from mask_frozen_detr.report.compare import Results

        data = load(model.held_out)
        bar = Progress(f"evaluating {name}", len(data.images), quiet=not processes().is_main_process)
        measured = measure(model, data, self.batch, self.workers, progress=lambda done, _total: bar.update(done))
        bar.close()
        return Results.of(name, measured)
