"""The command line: train, evaluate and predict, each a typed dataclass with a `run`."""

import sys
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.config import Precision
from mask_frozen_detr.machine.memory import keep_freed_memory
from mask_frozen_detr.machine.precision import autocast
from mask_frozen_detr.network.config import MaskNetworkConfig
from mask_frozen_detr.paper.config import ReproduceConfig
from mask_frozen_detr.training.config import TrainConfig


@dataclass
class Train:
    """Train masks for a frozen detector."""

    output: Path  # the run folder
    detector: Positional[Annotated[str | None, tyro.conf.arg(metavar="DETECTOR")]] = (
        None  # hub id, folder or official checkpoint file of the detector
    )
    data: Positional[Annotated[Path | None, tyro.conf.arg(metavar="DATA")]] = (
        None  # COCO-format data: a folder with train and, better, val splits
    )
    recipe: str | None = None  # a row of the paper (`recipes` lists them): the defaults of all other options
    network: OmitArgPrefixes[MaskNetworkConfig] = field(default_factory=MaskNetworkConfig)
    training: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    resume: bool = False  # go on where a killed run stopped
    overwrite: bool = False  # give up the run that the folder holds
    encoder_layer: int = 4  # the encoder layer whose maps are used, where the detector has several (Table 15)
    cache: Path | None = None  # keep the detector's outputs in this folder, for small data; of random views, flips stay
    cache_limit: float = 20.0  # GB that they may take

    def run(self) -> None:
        from accelerate.utils import set_seed

        from mask_frozen_detr.data.coco import load_split
        from mask_frozen_detr.data.splits import find_splits
        from mask_frozen_detr.detectors import load_detector
        from mask_frozen_detr.machine.processes import processes
        from mask_frozen_detr.model import MaskFrozenDetr
        from mask_frozen_detr.training.cache import FrozenCache
        from mask_frozen_detr.training.loop import train
        from mask_frozen_detr.training.run_folder import check_start

        if self.detector is None or self.data is None:
            raise UserError(_lacking(self.recipe, self.detector, self.data))
        check_start(self.output, self.resume, self.overwrite)
        train_data = load_split(self.data, "train")
        splits = find_splits(self.data) if self.data.is_dir() else {}
        val_data = load_split(self.data, "val") if "val" in splits else None
        detector = load_detector(self.detector, encoder_layer=self.encoder_layer)
        set_seed(self.training.seed)  # the weights to start from, too, are the same at a --resume before any checkpoint
        model = MaskFrozenDetr.build(detector, self.network)
        cache = None if self.cache is None else FrozenCache(self.cache, model, self.cache_limit)
        first = processes().is_main_process
        if first:
            print(f"train: {train_data.summary()}", file=sys.stderr)
            if val_data is not None:
                print(f"val: {val_data.summary()}", file=sys.stderr)
        evaluation = train(
            model,
            train_data,
            val_data,
            self.output,
            self.training,
            self.resume,
            overwrite=self.overwrite,
            cache=cache,
        )
        if not first:
            return
        if evaluation is not None:
            print(evaluation.table())
        print(f"The mask network lies in {self.output}")


def _lacking(recipe: str | None, detector: str | None, data: Path | None) -> str:
    from mask_frozen_detr.paper.recipes import find_recipe

    if recipe is not None:
        return find_recipe(recipe).lacking(detector, data)
    return "train: expected DETECTOR and DATA, as in train DETECTOR DATA --output RUN"


@dataclass
class Evaluate:
    """COCO box and mask AP of a run, or of a detector with the training-free baseline."""

    model: Positional[str]  # run folder, or a detector: then the paper's training-free baseline is measured
    data: Positional[Path]  # COCO-format data
    split: str = "val"
    detector: str | None = None  # where the run's detector lies now, if it has moved
    batch: int = 1
    workers: int = 1
    max_detections: int | None = None  # detections an image; by default as many as the run was trained with, else 100
    score_threshold: float = 0.0  # leave out what the detector scores at most this: faster, and AP may drop
    roi_align: bool = True  # baseline only: equations 3 and 4, or without it equation 1
    stem: bool | None = None  # baseline only: add C₁; by default where its width allows
    by_class: bool = False  # print AP of each class as well
    json: Path | None = None  # write all figures here
    results_file: Path | None = None  # write COCO results for the test server: X.json gives X.bbox.json, X.segm.json
    device: str | None = None
    precision: Precision = "fp32"  # auto: bf16 where that is fast; boxes then move by its rounding

    def __post_init__(self) -> None:
        _check_at_least(1, batch=self.batch)
        if self.max_detections is not None:
            _check_at_least(1, max_detections=self.max_detections)
        _check_at_least(0, workers=self.workers, score_threshold=self.score_threshold)

    def run(self) -> None:
        from mask_frozen_detr.data.coco import load_split
        from mask_frozen_detr.evaluation import check_evaluation_file, check_results_files, evaluate, write_evaluation
        from mask_frozen_detr.machine.processes import processes
        from mask_frozen_detr.machine.progress import Progress

        for file in (self.json, self.results_file):
            if file is not None:
                _check_place(file)
        if self.json is not None:
            check_evaluation_file(self.json)
        if self.results_file is not None:
            check_results_files(self.results_file)
        data = load_split(self.data, self.split)
        model = _load(self.model, self.detector, self.device, self.roi_align, self.stem)
        first = processes().is_main_process
        bar = Progress("evaluating", len(data.images), quiet=not first)
        with autocast(self.precision, model.device):
            evaluation = evaluate(
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
        if not first:
            return
        print(evaluation.classes, file=sys.stderr)
        for problem in evaluation.problems:
            print(f"skipped: {problem}", file=sys.stderr)
        print(evaluation.table(self.by_class))
        if self.json is not None:
            write_evaluation(self.json, evaluation, model=self.model, data=str(self.data), split=self.split)


@dataclass
class Predict:
    """Masks for pictures: overlays and a COCO results file."""

    model: Positional[str]  # run folder or hub repository
    images: Positional[list[str]]  # files, folders or globs
    output: Path  # where overlays and predictions.json go
    detector: str | None = None  # where the run's detector lies now, if it has moved
    score_threshold: float = 0.3
    max_detections: int | None = None  # detections an image; by default as many as the run was trained with, else 100
    probability_maps: bool = False  # write the pictures of the paper's Figures 4 and 8 as well
    overlays: bool = True
    device: str | None = None
    precision: Precision = "fp32"  # auto: bf16 where that is fast; boxes then move by its rounding

    def __post_init__(self) -> None:
        if self.max_detections is not None:
            _check_at_least(1, max_detections=self.max_detections)
        _check_at_least(0, score_threshold=self.score_threshold)

    def run(self) -> None:
        from mask_frozen_detr.machine.processes import processes
        from mask_frozen_detr.prediction import predict_files

        model = _load(self.model, self.detector, self.device)
        with autocast(self.precision, model.device):
            report = predict_files(
                model,
                self.images,
                self.output,
                self.score_threshold,
                self.max_detections,
                self.probability_maps,
                self.overlays,
            )
        if processes().is_main_process:
            print(report)


@dataclass
class Demo:
    """The main job on synthetic scenes: nothing to download, some two minutes on two CPU cores."""

    output: Path = Path("demo-output")
    iterations: int = 220
    seed: int = 0

    def run(self) -> None:
        from mask_frozen_detr.demo.run import DemoConfig, run_demo

        run_demo(self.output, DemoConfig(iterations=self.iterations, seed=self.seed))


@dataclass
class Complexity:
    """Parameters and multiply-accumulates of the paper's tables, ours beside the paper's."""

    table: int | None = None
    json: Path | None = None

    def run(self) -> None:
        from mask_frozen_detr.machine.files import write_json_atomic
        from mask_frozen_detr.paper.complexity import as_json, complexity_rows, format_table

        rows = complexity_rows(self.table)
        print(format_table(rows))
        if self.json is not None:
            write_json_atomic(self.json, as_json(rows))


@dataclass
class Recipes:
    """The rows of the paper's tables that can be trained by name, with the paper's figures."""

    table: int | None = None

    def run(self) -> None:
        from mask_frozen_detr.paper.recipes import format_recipes, recipes

        print(format_recipes(recipes(self.table)))


@dataclass
class Reproduce:
    """Train every row of a table of the paper for an equal, small budget, and compare their order with the paper's.

    Given again, the command goes on where it stopped. Equal by default are iterations, as in the paper: a --budget of
    time is turned into as many as the slowest row of the table manages in it, by a few steps of each row that are
    timed first. See docs/reproducing.md.
    """

    table: Positional[str]  # table1 … table16
    detector: Positional[str]  # hub id, folder or official checkpoint file of the detector
    data: Positional[Path]  # COCO-format data: a folder with train and val splits
    output: Path | None = None  # where runs, figures and plot go; by default reproduce-TABLE
    options: OmitArgPrefixes[ReproduceConfig] = field(default_factory=ReproduceConfig)

    def run(self) -> None:
        from mask_frozen_detr.paper.reproduce import REPORT_FILE, failures, reproduce, summary
        from mask_frozen_detr.paper.reproduce_plan import read_table

        table = read_table(self.table)
        output = self.output or Path(f"reproduce-table{table}")
        result = reproduce(table, self.detector, self.data, output, self.options)
        print(f"{summary(result)}\n{output / REPORT_FILE}")
        failed = failures(result)
        if failed:
            raise UserError(f"{len(failed)} runs failed, the same command tries them again: {'; '.join(failed)}")


@dataclass
class Detectors:
    """The families of detectors that masks can be trained for."""

    def run(self) -> None:
        from mask_frozen_detr.detectors.family_table import format_families

        print(format_families())


@dataclass
class Convert:
    """Turn an official checkpoint into a folder of safetensors that loads without pickle."""

    checkpoint: Positional[Path]
    folder: Positional[Path]
    name: str | None = None  # which detector it is, where the file alone cannot tell
    half: bool = False  # store half-precision weights: half the size

    def run(self) -> None:
        from mask_frozen_detr.detectors.official import convert_checkpoint

        convert_checkpoint(self.checkpoint, self.folder, name=self.name, half=self.half)
        print(f"The detector lies in {self.folder}")


def _load(name: str, detector: str | None, device: str | None, roi_align: bool = True, stem: bool | None = None):
    from mask_frozen_detr.detectors import load_detector
    from mask_frozen_detr.machine.processes import processes
    from mask_frozen_detr.model import MaskFrozenDetr, find_run

    if find_run(name) is not None:
        model = MaskFrozenDetr.from_pretrained(name, detector)
    else:
        try:
            frozen = load_detector(name)
        except UserError as error:
            raise UserError(f"{error}; it is no run folder of `mask-frozen-detr train` either") from error
        model = MaskFrozenDetr.training_free(frozen, roi_align, stem)
    device = device or str(processes().device)
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device: found {device!r}, which cannot be used here: {reason}") from error


def _check_at_least(least: int, **values: float) -> None:
    for name, value in values.items():
        if not value >= least:
            raise UserError(f"{name}: found {value}, expected at least {least}")


def _check_place(path: Path) -> None:
    """Raises UserError where `path` cannot be written: before the work, not after it."""
    import tempfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected the name of a file to write")


def _commands(train: Train | None) -> type:
    """The command line's type, with a field `command`; `train` holds the defaults of a recipe."""
    first = tyro.conf.subcommand("train") if train is None else tyro.conf.subcommand("train", default=train)
    commands = (
        Annotated[Train, first]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Predict, tyro.conf.subcommand("predict")]
        | Annotated[Demo, tyro.conf.subcommand("demo")]
        | Annotated[Recipes, tyro.conf.subcommand("recipes")]
        | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
        | Annotated[Complexity, tyro.conf.subcommand("complexity")]
        | Annotated[Detectors, tyro.conf.subcommand("detectors")]
        | Annotated[Convert, tyro.conf.subcommand("convert")]
    )
    # As a field of a class: of a bare union tyro's messages would speak by an inner name of its own.
    return make_dataclass(
        "Commands", [("command", Annotated[commands, tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes])]
    )


def _recipe_defaults(arguments: list[str]) -> Train | None:
    """The recipe that the arguments name, as defaults of `train`: options beside it override single fields."""
    names = [
        following if argument == "--recipe" else argument.removeprefix("--recipe=")
        for argument, following in zip(arguments, [*arguments, ""][1:], strict=True)
        if argument == "--recipe" or argument.startswith("--recipe=")
    ]
    if not names or "train" not in arguments[:1]:
        return None
    from mask_frozen_detr.paper.recipes import find_recipe

    recipe = find_recipe(names[-1])
    return Train(
        output=tyro.MISSING,
        recipe=recipe.name,
        network=recipe.network,
        training=recipe.training,
        encoder_layer=recipe.encoder_layer,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 after printing what the user can mend."""
    try:
        given = sys.argv[1:] if arguments is None else arguments
        commands = _commands(_recipe_defaults(given))
        command: Any = tyro.cli(commands, prog="mask-frozen-detr", args=given, description=__doc__).command
    except UserError as error:
        print(f"mask-frozen-detr: {error}", file=sys.stderr)
        return 2
    except SystemExit as stop:  # after --help, or what cannot be parsed
        return int(stop.code or 0)
    keep_freed_memory()
    try:
        command.run()
    except UserError as error:
        print(f"mask-frozen-detr: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # the disk is full, or this is not permitted
        if error.strerror is None:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"mask-frozen-detr: {where}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mask-frozen-detr: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
