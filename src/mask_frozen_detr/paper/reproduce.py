"""`reproduce`: every row of a table of the paper for an equal, small budget, and its order beside the paper's.

`reproduce.json` holds all there is to know, the iterations of each row too, and is written anew after every run; a
command that is given again goes on from it. Runs lie in `runs/ROW-seedN`, each a run folder of `train`.
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
import torchvision
import transformers
from accelerate.utils import broadcast_object_list, set_seed
from PIL import Image

from mask_frozen_detr.data.coco import CocoData, find_splits, load_split
from mask_frozen_detr.detectors import FrozenDetector, load_detector
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.evaluation import evaluate
from mask_frozen_detr.machine.files import write_bytes_atomic, write_json_atomic, write_text_atomic
from mask_frozen_detr.machine.processes import processes
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.paper.complexity import complexity
from mask_frozen_detr.paper.reproduce_plan import PlannedRow, ReproduceConfig, iterations_of, plan_rows, read_budget
from mask_frozen_detr.paper.reproduce_plot import draw_table
from mask_frozen_detr.paper.reproduce_report import METRICS, comparison, markdown
from mask_frozen_detr.training.loop import train
from mask_frozen_detr.training.run_folder import METRICS_FILE

RESULT_FILE, REPORT_FILE, PLOT_FILE = "reproduce.json", "reproduce.md", "reproduce.png"
FORMAT = 1
TIMED, UNTIMED = 8, 2  # steps of a row when its time is taken, and how many of them are warm-up
FREE = ("seeds", "workers")  # options that may change when a table is gone on with
BOX_TOLERANCE = 0.1  # box AP, in percent: what another device may change
IOU_SHARE = 0.2  # last part of training over which matched mask IoU is averaged
T = TypeVar("T")


class Detectors:
    """The detector, loaded once for each encoder layer whose maps some row wants."""

    def __init__(self, name: str):
        self.name, self.device = name, processes().device
        self._at: dict[int, FrozenDetector] = {}

    def at(self, encoder_layer: int) -> FrozenDetector:
        if encoder_layer not in self._at:
            new = self.fresh(encoder_layer)
            same = (one for one in self._at.values() if one.info.identity == new.info.identity)
            self._at[encoder_layer] = next(same, new)
        return self._at[encoder_layer]

    def fresh(self, encoder_layer: int) -> FrozenDetector:
        """One of its own, for a row that changes it."""
        return load_detector(self.name, encoder_layer=encoder_layer).to(self.device)

    def of(self, row: PlannedRow) -> FrozenDetector:
        return self.at(row.encoder_layer) if row.finetune == "none" else self.fresh(row.encoder_layer)


def reproduce(table: int, detector: str, data: Path, output: Path, config: ReproduceConfig) -> dict[str, Any]:
    """Run what `output` does not hold yet of a table's rows and seeds; returns what reproduce.json then holds.

    A run that fails (a loss that is not finite, no memory) is recorded with its reason and does not stop the others.
    Raises UserError for bad input, for an `output` begun with other options, and where nothing could be run.
    """
    find_splits(data)  # it has to be a folder
    train_data, val_data = load_split(data, "train"), load_split(data, "val")
    if config.max_images:
        val_data = replace(val_data, images=val_data.images[: config.max_images])
    detectors = Detectors(detector)
    rows = plan_rows(table, config, detectors.at)
    for row in rows:
        if row.why:
            _say(f"not run: {row.name}: {row.why}")
    if not any(row.runs for row in rows):
        raise UserError(f"table {table}: no row of it can be run with {detector}: {rows[0].why}")

    result = _begin(table, rows, detectors, data, train_data, val_data, config)
    path = output / RESULT_FILE
    if path.exists():
        result = _go_on(path, result)
    processes().wait_for_everyone()  # nobody writes before all have read
    trained = [row for row in rows if row.kind == "train"]
    if any(row["kind"] == "train" and row["iterations"] is None for row in result["rows"]):
        budget = read_budget(config.budget)
        seconds = {} if budget.iterations else _time_rows(trained, detectors, train_data, output)
        iterations = iterations_of(trained, budget, config.equal, seconds)
        for entry in result["rows"]:
            entry["iterations"] = iterations.get(entry["name"])
            entry["seconds_per_iteration"] = seconds.get(entry["name"])
    _write(output, result)

    entries = {entry["name"]: entry for entry in result["rows"]}
    todo = [
        (row, seed)
        for seed in range(config.seeds)  # one seed of all rows first: a whole table as early as can be
        for row in rows
        if row.runs and not (row.kind == "evaluate" and seed)
        if (seed if row.kind == "train" else None) not in [run["seed"] for run in entries[row.name]["runs"]]
    ]
    for number, (row, seed) in enumerate(todo, 1):
        entry = entries[row.name]
        what = f"seed {seed}, {entry['iterations']} iterations" if row.kind == "train" else "nothing to train"
        _say(f"[{number}/{len(todo)}] table {table}, {row.name}: {what}")
        try:
            run = _run_row(row, seed, entry["iterations"], detectors, train_data, val_data, output, config)
        except (UserError, torch.OutOfMemoryError) as error:
            run = {"seed": seed if row.kind == "train" else None, "failed": _reason(error)}
            _say(f"{row.name}: failed: {run['failed']}")
        _check_boxes(run, row, result)
        entry["runs"].append(run)
        entry["runs"].sort(key=lambda one: one["seed"] or 0)
        _write(output, result)
    return result


def failures(result: dict[str, Any]) -> list[str]:
    """Runs that failed, with their reasons."""
    return [
        f"{row['name']}, seed {run['seed']}: {run['failed']}"
        for row in result["rows"]
        for run in row["runs"]
        if run.get("failed")
    ]


def summary(result: dict[str, Any]) -> str:
    """Figures and finding, to print."""
    return "\n".join(line for line in markdown(result).splitlines() if line.startswith(("| ", "- ")))


# --- one row


def _run_row(
    row: PlannedRow,
    seed: int,
    iterations: int | None,
    detectors: Detectors,
    train_data: CocoData,
    val_data: CocoData,
    output: Path,
    config: ReproduceConfig,
) -> dict[str, Any]:
    """Train one row with one seed, or go on with it, and evaluate it."""
    run: dict[str, Any] = {"seed": None}
    set_seed(seed)  # the first weights, as in `train`
    model = MaskFrozenDetr.build(detectors.of(row), row.network)
    if iterations is not None:
        folder = output / "runs" / f"{row.name}-seed{seed}"
        train(model, train_data, None, folder, row.configure(iterations, seed), resume=True)
        hours, iou = _on_main(lambda: _read_metrics(folder))
        seconds = hours * 3600 / processes().num_processes
        run = {"seed": seed, "train_seconds": round(seconds, 2), "device_hours": hours, "matched_iou": round(iou, 4)}
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
    return {
        **run,
        "box_ap": figures["box"]["AP"],
        "mask": {metric: figures["mask"][metric] for metric in METRICS},
        "evaluation_seconds": figures["seconds"],
        "unread_images": len(evaluation.problems),
    }


def _read_metrics(folder: Path) -> tuple[float, float]:
    """Device hours, and matched mask IoU over the last part of training."""
    lines = [json.loads(text) for text in (folder / METRICS_FILE).read_text().splitlines()]
    last = [line["matched_iou"] for line in lines if line["step"] > (1 - IOU_SHARE) * lines[-1]["step"]]
    return lines[-1]["device_hours"], fmean(last)


def _check_boxes(run: dict[str, Any], row: PlannedRow, result: dict[str, Any]) -> None:
    """Box AP is the frozen detector's, so it is the same in all rows. Raises RuntimeError."""
    if row.finetune != "none" or run.get("box_ap") is None:
        return
    known = result["box_ap"] = run["box_ap"] if result["box_ap"] is None else result["box_ap"]
    if abs(run["box_ap"] - known) > BOX_TOLERANCE:
        raise RuntimeError(f"row {row.name}: box AP is {run['box_ap']}, was {known}: the frozen detector has changed")


def _time_rows(rows: list[PlannedRow], detectors: Detectors, train_data: CocoData, output: Path) -> dict[str, float]:
    """Seconds of one iteration of each row, over a few steps."""
    folder = output / "timing"
    seconds = {}
    for row in rows:
        config = replace(row.configure(TIMED, 0), log_every=1, checkpoint_every=TIMED)
        try:
            model = MaskFrozenDetr.build(detectors.of(row), row.network)
            train(model, train_data, None, folder, config, quiet=True, overwrite=True)
        except torch.OutOfMemoryError as error:
            raise UserError(f"row {row.name}: {_reason(error)}") from error
        seconds[row.name] = _on_main(lambda: _seconds_a_step(folder))
        _say(f"{row.name}: {seconds[row.name]:.3g} s an iteration of {config.batch} images")
    _on_main(lambda: shutil.rmtree(folder, ignore_errors=True))
    return seconds


def _seconds_a_step(folder: Path) -> float:
    hours = [json.loads(text)["device_hours"] for text in (folder / METRICS_FILE).read_text().splitlines()]
    spent = (hours[-1] - hours[UNTIMED - 1]) * 3600 / processes().num_processes
    return max(spent, 1e-4) / (TIMED - UNTIMED)  # hours are written to some milliseconds


def _reason(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory does not suffice; a lower --batch needs less"
    return str(error)


# --- what reproduce.json holds


def _begin(
    table: int,
    rows: list[PlannedRow],
    detectors: Detectors,
    data: Path,
    train_data: CocoData,
    val_data: CocoData,
    config: ReproduceConfig,
) -> dict[str, Any]:
    """A result without runs."""
    state = processes()
    cuda = state.device.type == "cuda"
    identity = _detector_of(rows, detectors).info.identity
    size = val_data.images[0].width, val_data.images[0].height
    macs = _count_cost(rows, detectors, size, config.max_detections)
    name = Path(detectors.name).resolve().name if Path(detectors.name).exists() else detectors.name
    counts = {
        "training_images": len(train_data.images),
        "training_instances": sum(len(image.annotations) for image in train_data.images),
        "val_images": len(val_data.images),
        "val_instances": sum(len(image.annotations) for image in val_data.images),
    }
    result = {
        "format": FORMAT,
        "table": table,
        "about": [],
        "cost_note": f"G MACs are of one val image of {size[0]} × {size[1]} with at most {config.max_detections} "
        "boxes; the paper's are of another detector and of larger images.",
        "detector": {"name": name, "family": identity.family, "weights": identity.weights},
        "data": {"name": data.resolve().name, **counts},
        "options": asdict(config),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "processes": state.num_processes,
        "versions": {module.__name__: module.__version__ for module in (torch, torchvision, transformers)},
        "box_ap": None,
        "rows": [_entry(row, macs.get(row.name)) for row in rows],
    }
    return json.loads(json.dumps(result))


def _entry(row: PlannedRow, macs: int | None) -> dict[str, Any]:
    shown = ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l", "gmacs", "params_m", "gpu_hours", "ap_box")
    return {
        "name": row.name,
        "kind": row.kind,
        "why": row.why,
        "paper": {key: getattr(row.paper, key) for key in shown},
        "params": row.params,
        "macs": macs,
        "network": None if row.network is None else asdict(row.network),
        "batch": None if row.training is None else row.training.batch,
        "finetune": row.finetune,
        "encoder_layer": row.encoder_layer,
        "iterations": None,
        "seconds_per_iteration": None,
        "runs": [],
    }


def _detector_of(rows: list[PlannedRow], detectors: Detectors) -> FrozenDetector:
    """That of the first row that runs."""
    return next(detectors.at(row.encoder_layer) for row in rows if row.runs)


def _count_cost(rows: list[PlannedRow], detectors: Detectors, size: tuple[int, int], most: int) -> dict[str, int]:
    """Multiply-accumulates of each row's mask network, as the paper counts them, for one image of `size` (width,
    height) with at most so many boxes."""
    detector = _detector_of(rows, detectors)
    pixel_values, pixel_mask = collate_images([detector.info.preprocessing(Image.new("RGB", size))])
    found = detector(pixel_values.to(detectors.device), pixel_mask)
    boxes, image = min(most, found.queries.shape[1]), (pixel_values.shape[2], pixel_values.shape[3])
    return {
        row.name: complexity(row.network, detectors.at(row.encoder_layer).shapes, boxes, image)[1]
        for row in rows
        if row.runs and row.network is not None
    }


def _go_on(path: Path, now: dict[str, Any]) -> dict[str, Any]:
    """What `path` holds, without the runs that failed: they are tried again. Raises UserError where it is no result
    of the same table, detector, data and options."""
    try:
        saved = json.loads(path.read_text())
        same = {key: (saved[key], now[key]) for key in ("format", "table", "detector", "data")}
        same |= {key: (saved["options"].get(key), value) for key, value in now["options"].items() if key not in FREE}
        kinds = {row["name"]: (row["kind"], row["network"], row["batch"]) for row in saved["rows"]}
        for row in saved["rows"]:
            row["runs"] = [run for run in row["runs"] if "failed" not in run]
        iterations = {row["name"]: row["iterations"] for row in saved["rows"]}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: is damaged ({type(error).__name__}: {error}); another --output starts anew"
        ) from error
    same |= {f"row {r['name']}": (kinds.get(r["name"]), (r["kind"], r["network"], r["batch"])) for r in now["rows"]}
    for key, (before, value) in same.items():
        if before != value:
            raise UserError(
                f"{path}: was begun with {key} {before!r}, found {value!r}; it goes on with the same (seeds may "
                "grow), another --output starts anew"
            )
    assert iterations.keys() == kinds.keys()
    return {**saved, "options": {**saved["options"], **{key: now["options"][key] for key in FREE}}}


def _write(output: Path, result: dict[str, Any]) -> None:
    """The result, the report and the plot, whatever there is so far."""
    if not processes().is_main_process:
        return
    result["about"] = _about(result)
    result["comparison"] = comparison(result)
    write_json_atomic(output / RESULT_FILE, result)
    write_text_atomic(output / REPORT_FILE, markdown(result))
    write_bytes_atomic(output / PLOT_FILE, draw_table(result))


def _about(result: dict[str, Any]) -> list[str]:
    """What was run, and what all rows have in common."""
    options, data = result["options"], result["data"]
    seeds = max((len(row["runs"]) for row in result["rows"]), default=0)
    given = ", ".join(
        f"{name} {options[name]}"
        for name in ("lr", "warmup", "ema", "batch", "precision", "min_box_iou")
        if name in options
    )
    if read_budget(options["budget"]).iterations:
        equal = f"iterations ({options['budget']} a row and seed)"
    elif options["equal"] == "time":
        equal = f"training time ({options['budget']} a row and seed, by the steps that were timed first)"
    else:
        equal = (
            f"iterations, as many as the slowest row manages in {options['budget']} by the steps that were timed first"
        )
    others = {
        8: "; rows of a larger batch take fewer, so that all see equally many images",
        9: "; rows of more epochs get so much more",
    }.get(result["table"], "")
    size = "" if options["roi_size"] is None else f", roi_size {options['roi_size']}"
    box = (
        "" if result["box_ap"] is None else f" Its box AP is {result['box_ap']:.1f} in every row that leaves it frozen."
    )
    return [
        f"Detector: {result['detector']['name']} ({result['detector']['family']}).{box}",
        f"Data: {data['name']}, {data['training_images']} training and {data['val_images']} val images.",
        f"Equal for all rows: {equal}{others}. Seeds are the same, and with them the images’ order and views.",
        f"Options of all rows, unless the table varies them: {given}{size}; evaluation above score "
        f"{options['eval_threshold']:g} with {options['max_detections']} boxes. {seeds} seed(s) on {result['device']}.",
    ]


def _on_main(work: Callable[[], T]) -> T:
    """Done by the main process alone; all get what it returns."""
    state = processes()
    found = [work() if state.is_main_process else None]
    if state.num_processes > 1:
        broadcast_object_list(found)
    return found[0]  # type: ignore[return-value]


def _say(text: str) -> None:
    if processes().is_main_process:
        print(text, file=sys.stderr, flush=True)
