"""`reproduce`: every row of a table of the paper for an equal, small budget, and its order beside the paper's.

`reproduce.json` holds all there is to know, the iterations of each row too, and is written anew after every run; a
command that is given again goes on from it. Runs lie in `runs/ROW-seedN`, each a run folder of `train`.
"""

import os
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import torch
import torchvision
import transformers
from PIL import Image

from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.detectors import FrozenDetector
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.files import write_bytes_atomic, write_text_atomic
from mask_frozen_detr.machine.logs import log
from mask_frozen_detr.machine.processes import processes
from mask_frozen_detr.paper.complexity import complexity
from mask_frozen_detr.paper.config import ReproduceConfig, read_budget
from mask_frozen_detr.paper.reproduce_plan import PlannedRow, iterations_of, plan_rows
from mask_frozen_detr.paper.reproduce_report import markdown
from mask_frozen_detr.paper.reproduce_result import (
    DataNote,
    DetectorNote,
    RowRun,
    TableResult,
    TableRow,
    go_on,
    write_result,
)
from mask_frozen_detr.paper.reproduce_rows import LoadedDetectors, reason_of, run_row, time_rows

RESULT_FILE, REPORT_FILE, PLOT_FILE = "reproduce.json", "reproduce.md", "reproduce.png"
BOX_TOLERANCE = 0.1  # box AP, in percent: what another device may change
PRINTED = ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l", "gmacs", "params_m", "gpu_hours", "ap_box")  # by the paper


def reproduce(
    table: int,
    detector: str,
    data: Path,
    output: Path,
    config: ReproduceConfig,
    revision: str | None = None,
    prompt: str | None = None,
) -> TableResult:
    """Run what `output` does not hold yet of a table's rows and seeds; returns what reproduce.json then holds.

    revision and prompt: of the detector, as `load_detector` takes them.
    A run that fails (a loss that is not finite, no memory) is recorded with its reason and does not stop the others.
    Raises UserError for bad input, for an `output` begun with other options or that holds files of others under the
    names that are written here, and where nothing could be run.
    """
    _check_plotting()
    if data.is_file():
        raise UserError(f"{data}: is a file, expected a folder with a train and a val split")
    train_data, val_data = load_split(data, "train"), load_split(data, "val")
    if config.max_images:
        val_data = replace(val_data, images=val_data.images[: config.max_images])
    detectors = LoadedDetectors(detector, revision, prompt)
    rows = plan_rows(table, config, detectors.at)
    for row in rows:
        if row.why:
            _say(f"not run: {row.name}: {row.why}")
    if not any(row.runs for row in rows):
        raise UserError(f"table {table}: no row of it can be run with {detector}: {rows[0].why}")

    result = _begin(table, rows, detectors, data, train_data, val_data, config)
    if (output / RESULT_FILE).exists():
        result = go_on(output / RESULT_FILE, result)
    else:
        _check_output(output)
    processes().wait_for_everyone()  # nobody writes before all have read
    _choose_iterations(result, rows, detectors, train_data, output, config)
    _write(output, result)

    todo = _due(rows, result, config.seeds)
    for number, (row, seed) in enumerate(todo, 1):
        entry = result.row(row.name)
        what = f"seed {seed}, {entry.iterations} iterations" if row.kind == "train" else "nothing to train"
        _say(f"[{number}/{len(todo)}] table {table}, {row.name}: {what}")
        try:
            run = run_row(row, seed, entry.iterations, detectors, train_data, val_data, output, config)
        except (UserError, torch.OutOfMemoryError) as error:
            run = RowRun(seed if row.kind == "train" else None, failed=reason_of(error))
            _say(f"{row.name}: failed: {run.failed}")
        _check_boxes(run, row, result)
        entry.runs.append(run)
        entry.runs.sort(key=lambda one: one.seed or 0)
        _write(output, result)
    return result


def _due(rows: list[PlannedRow], result: TableResult, seeds: int) -> list[tuple[PlannedRow, int]]:
    """Rows and seeds that are to be run, one seed of all rows first: a whole table as early as can be."""
    return [
        (row, seed)
        for seed in range(seeds)
        for row in rows
        if row.runs and not (row.kind == "evaluate" and seed)
        if (seed if row.kind == "train" else None) not in [run.seed for run in result.row(row.name).runs]
    ]


def failures(result: TableResult) -> list[str]:
    """Runs that failed, with their reasons."""
    return [f"{name}, seed {run.seed}: {run.failed}" for name, run in result.failures()]


def summary(result: TableResult) -> str:
    """Figures and finding, to print."""
    return "\n".join(line for line in markdown(result).splitlines() if line.startswith(("| ", "- ")))


def _begin(
    table: int,
    rows: list[PlannedRow],
    detectors: LoadedDetectors,
    data: Path,
    train_data: CocoData,
    val_data: CocoData,
    config: ReproduceConfig,
) -> TableResult:
    """What is known of a table before any of its rows has run."""
    state = processes()
    identity = _first_detector(rows, detectors).info.identity
    size = val_data.images[0].width, val_data.images[0].height
    macs = _count_cost(rows, detectors, size, config.max_detections)
    name = Path(detectors.name).resolve().name if Path(detectors.name).exists() else detectors.name
    return TableResult(
        table=table,
        cost_note=f"G MACs are of one val image of {size[0]} × {size[1]} with at most {config.max_detections} "
        "boxes; the paper's are of another detector and of larger images.",
        detector=DetectorNote(name, identity.family, identity.weights, identity.prompt),
        data=DataNote(
            data.resolve().name,
            len(train_data.images),
            sum(len(image.annotations) for image in train_data.images),
            len(val_data.images),
            sum(len(image.annotations) for image in val_data.images),
        ),
        options=config,
        device=torch.cuda.get_device_name() if state.device.type == "cuda" else "cpu",
        processes=state.num_processes,
        versions={module.__name__: str(module.__version__) for module in (torch, torchvision, transformers)},
        rows=[
            TableRow(
                name=row.name,
                kind=row.kind,
                why=row.why,
                paper={key: getattr(row.paper, key) for key in PRINTED},
                params=row.params,
                macs=macs.get(row.name),
                network=None if row.network is None else asdict(row.network),
                batch=None if row.training is None else row.training.batch,
                finetune=row.finetune,
                encoder_layer=row.encoder_layer,
            )
            for row in rows
        ],
    )


def _first_detector(rows: list[PlannedRow], detectors: LoadedDetectors) -> FrozenDetector:
    """The detector of the first row that runs."""
    return next(detectors.at(row.encoder_layer) for row in rows if row.runs)


def _count_cost(rows: list[PlannedRow], detectors: LoadedDetectors, size: tuple[int, int], most: int) -> dict[str, int]:
    """Multiply-accumulates of each row's mask network, as the paper counts them, for one image of `size` (width,
    height) with at most so many boxes."""
    detector = _first_detector(rows, detectors)
    pixel_values, pixel_mask = collate_images([detector.info.preprocessing(Image.new("RGB", size))])
    detections = detector(pixel_values.to(detectors.device), pixel_mask)
    boxes, image = min(most, detections.queries.shape[1]), (pixel_values.shape[2], pixel_values.shape[3])
    return {
        row.name: complexity(row.network, detectors.at(row.encoder_layer).shapes, boxes, image)[1]
        for row in rows
        if row.runs and row.network is not None
    }


def _choose_iterations(
    result: TableResult,
    rows: list[PlannedRow],
    detectors: LoadedDetectors,
    train_data: CocoData,
    output: Path,
    config: ReproduceConfig,
) -> None:
    """Once for a table: a command that is given again keeps them."""
    if all(row.iterations is not None for row in result.rows if row.kind == "train"):
        return
    trained = [row for row in rows if row.kind == "train"]
    budget = read_budget(config.budget)
    seconds = {} if budget.iterations else time_rows(trained, detectors, train_data, output)
    for name, each in seconds.items():
        _say(f"{name}: {each:.3g} s an iteration")
    iterations = iterations_of(trained, budget, config.equal, seconds)
    for entry in result.rows:
        entry.iterations = iterations.get(entry.name)
        entry.seconds_per_iteration = seconds.get(entry.name)


def _check_boxes(run: RowRun, row: PlannedRow, result: TableResult) -> None:
    """Box AP is the frozen detector's, so it is the same in all rows. Raises RuntimeError."""
    if row.finetune != "none" or run.box_ap is None:
        return
    result.box_ap = run.box_ap if result.box_ap is None else result.box_ap
    if abs(run.box_ap - result.box_ap) > BOX_TOLERANCE:
        raise RuntimeError(
            f"row {row.name}: box AP is {run.box_ap}, was {result.box_ap}: the frozen detector has changed"
        )


def _check_output(output: Path) -> None:
    """Raises UserError where a new table would replace files that no table wrote."""
    for name in (REPORT_FILE, PLOT_FILE, "runs"):
        if os.path.lexists(output / name):
            raise UserError(
                f"{output / name}: is there already, but no {RESULT_FILE} beside it says that it belongs to a table; "
                "another --output starts anew"
            )


def _check_plotting() -> None:
    """Raises UserError where matplotlib is missing: before hours of training, not after them."""
    if find_spec("matplotlib") is None:
        raise UserError(
            "reproduce: found no matplotlib, which draws the plot; pip install 'mask-frozen-detr[reproduce]'"
        )


def _write(output: Path, result: TableResult) -> None:
    """The result, the report and the plot, whatever there is so far."""
    from mask_frozen_detr.paper.reproduce_plot import draw_table  # needs matplotlib, which is an extra

    if not processes().is_main_process:
        return
    write_result(output / RESULT_FILE, result)
    write_text_atomic(output / REPORT_FILE, markdown(result))
    write_bytes_atomic(output / PLOT_FILE, draw_table(result))


def _say(text: str) -> None:
    if processes().is_main_process:
        log(text)
