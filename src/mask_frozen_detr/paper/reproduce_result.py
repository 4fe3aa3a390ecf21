"""What `reproduce.json` holds: a table of the paper, its rows on one detector, and their runs, one a seed."""

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.machine.json_files import LIMIT
from mask_frozen_detr.machine.regular_files import read_regular
from mask_frozen_detr.paper.config import ReproduceConfig
from mask_frozen_detr.paper.reproduce_compare import METRICS, MeasuredRow, RowOrder, compare, rank_correlation

FORMAT = 1
FREE_OPTIONS = ("seeds", "workers")  # what may change when a table is gone on with
Kind = Literal["train", "evaluate", "paper", "impossible", "same"]


@dataclass
class RowRun:
    """One run of a row. seed: None where nothing is trained. failed: the reason, where there are no figures.

    box_ap, mask: AP in percent, None where COCO has no figure. matched_iou: mean mask IoU of matched boxes over the
    last part of training.
    """

    seed: int | None
    failed: str | None = None
    train_seconds: float | None = None
    device_hours: float | None = None
    matched_iou: float | None = None
    box_ap: float | None = None
    mask: dict[str, float | None] | None = None
    evaluation_seconds: float | None = None
    unread_images: int = 0


@dataclass
class TableRow:
    """A row of the paper on the given detector; see `reproduce_plan.PlannedRow` for its kinds.

    paper: the printed figures by `PaperRow`'s names. params, macs: of the mask network, None where there is none.
    """

    name: str
    kind: Kind
    why: str
    paper: dict[str, float | None]
    params: int | None
    macs: int | None
    network: dict[str, Any] | None
    batch: int | None
    finetune: str
    encoder_layer: int
    iterations: int | None = None
    seconds_per_iteration: float | None = None
    runs: list[RowRun] = field(default_factory=list)

    @property
    def measured(self) -> list[RowRun]:
        """The runs that have figures."""
        return [run for run in self.runs if run.mask is not None]

    @property
    def same_run(self) -> tuple[Kind, dict[str, Any] | None, int | None]:
        """What must not change when a table is gone on with."""
        return self.kind, self.network, self.batch


@dataclass(frozen=True)
class DetectorNote:
    """Which detector the table stands on."""

    name: str
    family: str
    weights: str
    prompt: str | None = None


@dataclass(frozen=True)
class DataNote:
    """Which data the table stands on."""

    name: str
    training_images: int
    training_instances: int
    val_images: int
    val_instances: int


@dataclass
class TableResult:
    """A reproduced table. box_ap: the frozen detector's, one for all rows; None as long as nothing was evaluated."""

    table: int
    cost_note: str
    detector: DetectorNote
    data: DataNote
    options: ReproduceConfig
    device: str
    processes: int
    versions: dict[str, str]
    rows: list[TableRow]
    box_ap: float | None = None

    def row(self, name: str) -> TableRow:
        return next(row for row in self.rows if row.name == name)

    def compared(self, metric: str = "AP") -> list[MeasuredRow]:
        """The rows that have a figure here and in the paper, each with the seeds that all trained rows have so far."""
        done = [{run.seed for run in row.measured} for row in self.rows if row.kind == "train"]
        seeds = set.intersection(*filter(None, done)) if any(done) else set()
        rows = []
        for row in self.rows:
            figures = [run.mask[metric] for run in row.measured if run.mask and run.seed in seeds | {None}]
            ours = tuple(figure for figure in figures if figure is not None)
            paper = row.paper[METRICS[metric]]
            if ours and paper is not None:
                rows.append(MeasuredRow(row.name, ours, paper, row.kind == "train"))
        return rows

    def comparison(self) -> RowOrder:
        """The order of the rows here beside the paper's."""
        return compare(self.compared())

    def other_figures(self) -> dict[str, dict[str, float | None]]:
        """Rank correlations of the figures besides AP, by name."""
        return {
            metric: rank_correlation([row.mean for row in rows], [row.paper for row in rows])
            for metric in list(METRICS)[1:]
            if (rows := self.compared(metric))
        }

    def failures(self) -> list[tuple[str, RowRun]]:
        """Row names and runs of what failed."""
        return [(row.name, run) for row in self.rows for run in row.runs if run.failed is not None]

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON holds it: what a run has no value for is left out."""
        saved = {"format": FORMAT, **asdict(self)}
        for row in saved["rows"]:
            row["runs"] = [{k: v for k, v in run.items() if k == "seed" or v is not None} for run in row["runs"]]
        saved["comparison"] = {**asdict(self.comparison()), "other_figures": self.other_figures()}
        return json.loads(json.dumps(saved))


def write_result(path: Path, result: TableResult) -> None:
    """Raises UserError where it cannot be written."""
    write_json_atomic(path, result.as_dict())


def read_result(path: Path) -> TableResult:
    """What `write_result` wrote, of this version or an older one. Raises UserError that names what is damaged."""
    try:
        saved = json.loads(read_regular(path, LIMIT))
        if saved["format"] != FORMAT:
            raise UserError(
                f"{path}: found format {saved['format']!r}, expected {FORMAT}; another --output starts anew"
            )
        rows = [
            _record(TableRow, {**row, "runs": [_record(RowRun, run) for run in row["runs"]]}) for row in saved["rows"]
        ]
        parts = {
            "detector": _record(DetectorNote, saved["detector"]),
            "data": _record(DataNote, saved["data"]),
            "options": _record(ReproduceConfig, saved["options"]),
            "rows": rows,
        }
        return _record(TableResult, {**saved, **parts})
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: is damaged ({type(error).__name__}: {error}); another --output starts anew"
        ) from error


def go_on(path: Path, now: TableResult) -> TableResult:
    """What `path` holds, without the runs that failed: they are tried again.

    Raises UserError where it is no result of the same table, detector, data and options.
    """
    saved = read_result(path)
    pairs: list[tuple[str, Any, Any]] = [
        ("table", saved.table, now.table),
        ("detector", saved.detector, now.detector),
        ("data", saved.data, now.data),
    ]
    for option in fields(ReproduceConfig):
        if option.name not in FREE_OPTIONS:
            pairs.append((option.name, getattr(saved.options, option.name), getattr(now.options, option.name)))
    kinds = {row.name: row.same_run for row in saved.rows}
    pairs += [(f"row {row.name}", kinds.get(row.name), row.same_run) for row in now.rows]
    for key, before, value in pairs:
        if before != value:
            raise UserError(
                f"{path}: was begun with {key} {before!r}, found {value!r}; it goes on with the same (seeds may "
                "grow), another --output starts anew"
            )
    for row in saved.rows:
        row.runs = [run for run in row.runs if run.failed is None]
    saved.options = now.options
    return saved


def _record(kind: type, values: dict[str, Any]) -> Any:
    """A dataclass of the values that it has fields for. Raises KeyError for one that is missing, TypeError for one of
    another type than the field's."""
    chosen = {}
    for entry in fields(kind):
        if entry.name in values:
            value, allowed = values[entry.name], _types(entry.type)
            if not isinstance(value, allowed):
                expected = " or ".join(one.__name__ for one in allowed)
                raise TypeError(f"{entry.name}: found {type(value).__name__}, expected {expected}")
            chosen[entry.name] = value
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise KeyError(entry.name)
    return kind(**chosen)


def _types(annotation: Any) -> tuple[type, ...]:
    """The types that a field's annotation allows; where a float is expected, JSON may hold a whole number."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return tuple(one for part in get_args(annotation) for one in _types(part))
    if origin is Literal:
        return (str,)
    kind = origin or annotation
    return (float, int) if kind is float else (kind,)
