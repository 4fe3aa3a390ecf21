"""What `reproduce` runs for a table of the paper: its rows on the given detector, and how long each is trained.

The paper compares its rows after equal epochs. So one number of iterations holds for all rows of a table: the given
one, or what a given time allows the row that is slowest here. Rows of another batch see equally many images
(Table 8), rows of more epochs so much more (Table 9).
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from mask_frozen_detr.detectors.base import FrozenDetector
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.network.stem import choose_stem
from mask_frozen_detr.paper.config import Budget, ReproduceConfig
from mask_frozen_detr.paper.recipes import Recipe, recipes
from mask_frozen_detr.paper.tables import PAPER, PaperRow, paper_rows
from mask_frozen_detr.training.config import TrainConfig

WARMUP_SHARE = 0.25  # of a run, at most


def read_table(text: str) -> int:
    """The number in "table3" or "3". Raises UserError with the nearest names."""
    names = {f"table{table}": table for table in sorted({row.table for row in PAPER})}
    name = f"table{text}" if text.isdigit() else text.lower()
    if name not in names:
        near = [] if text.isdigit() else difflib.get_close_matches(name, names, n=3, cutoff=0.7)
        hint = f"did you mean {', '.join(near)}?" if near else f"expected one of {', '.join(names)}"
        raise UserError(f"table: found {text!r}, which is none; {hint}")
    return names[name]


@dataclass(frozen=True)
class PlannedRow:
    """A row on the given detector.

    kind: "train"; "evaluate", which has nothing to train; or, with the reason in `why`, "paper" (its figures alone are
    shown), "impossible" with this detector, "same" as another row on it.
    epochs_share: its epochs over the fewest of its table. share: its iterations over those of a row of the table's
    fewest epochs and the common batch.
    """

    paper: PaperRow
    kind: Literal["train", "evaluate", "paper", "impossible", "same"]
    why: str = ""
    network: MaskNetworkConfig | None = None
    training: TrainConfig | None = None
    encoder_layer: int = 4
    epochs_share: float = 1.0
    share: float = 1.0
    params: int | None = None

    @property
    def name(self) -> str:
        return self.paper.name

    @property
    def runs(self) -> bool:
        return self.kind in ("train", "evaluate")

    @property
    def finetune(self) -> str:
        """What of the detector its training changes: "none", "partial" or "full"."""
        return self.paper.training.get("finetune", "none")

    def configure(self, iterations: int, seed: int) -> TrainConfig:
        """How to train it."""
        assert self.training is not None
        warmup = min(round(self.training.warmup * self.share), int(WARMUP_SHARE * iterations))
        return replace(
            self.training,
            iterations=iterations,
            seed=seed,
            warmup=warmup,
            checkpoint_every=max(1, math.ceil(iterations / 10)),
            log_every=max(1, math.ceil(iterations / 50)),
            report=False,  # that of the table tells of all rows
        )


def plan_rows(table: int, config: ReproduceConfig, detector_at: Callable[[int], FrozenDetector]) -> list[PlannedRow]:
    """All rows of a table, in its order. detector_at: the detector that hands out the maps of an encoder layer.

    Raises UserError for an option that the table itself varies and that cannot be common to its rows.
    """
    known = {recipe.name: recipe for recipe in recipes() if recipe.row.table == table}
    varied = _varied(known.values())
    rows = paper_rows(table)
    fewest = min((row.epochs for row in rows if row.network is not None and row.epochs), default=1)
    sizes = {row.config.roi_size for row in rows if row.network is not None}
    if config.roi_size is not None and len(sizes) > 1:
        raise UserError(f"roi_size: found {config.roi_size}, but table {table} compares sizes: leave the option out")
    planned: list[PlannedRow] = []
    seen: dict[tuple, PlannedRow] = {}
    for row in rows:
        if row.network is None:
            planned.append(PlannedRow(row, "paper", why=f"{row.method}: another method, trained elsewhere"))
            continue
        recipe = known.get(f"table{table}-{row.name}")
        if row.epochs and recipe is None:
            planned.append(PlannedRow(row, "impossible", why="there is no recipe for it"))
            continue
        one = _plan_row(row, recipe, config, varied, fewest)
        assert one.network is not None
        name = ""
        try:
            detector = detector_at(one.encoder_layer)
            name = detector.info.identity.name
            network = MaskFrozenDetr.build(detector, one.network).network
            if one.kind == "evaluate" and one.network.stem and choose_stem(one.network, detector.shapes) is None:
                raise UserError("it adds C₁, and this detector has no map at stride 4 beside E₁")
        except UserError as error:
            why = str(error).removeprefix(f"{name}: ")
            planned.append(replace(one, kind="impossible", why=f"not possible with this detector: {why}"))
            continue
        one = replace(one, params=sum(parameter.numel() for parameter in network.parameters()))
        key = _what_runs(one, detector)
        if key in seen:
            planned.append(replace(one, kind="same", why=_why_same(one, seen[key])))
        else:
            seen[key] = one
            planned.append(one)
    return planned


def _plan_row(
    row: PaperRow, recipe: Recipe | None, config: ReproduceConfig, varied: set[str], fewest_epochs: int
) -> PlannedRow:
    network = row.config if recipe is None else recipe.network
    if config.roi_size is not None:
        network = replace(network, roi_size=config.roi_size)
    if recipe is None:
        return PlannedRow(row, "evaluate", network=network)
    common = {name: value for name, value in config.of_training().items() if name not in varied}
    # Iterations are set for each run; epochs are in the share.
    training = replace(recipe.training, **common, iterations=None, epochs=1.0)
    epochs_share = row.epochs / fewest_epochs
    share = epochs_share * config.batch / training.batch
    return PlannedRow(row, "train", "", network, training, recipe.encoder_layer, epochs_share, share)


def _varied(of_table: Iterable[Recipe]) -> set[str]:
    """Options of training in which the rows of the table differ. Boxes an image go with a row's own detector."""
    configs = [recipe.training for recipe in of_table]
    names = {field.name for field in fields(TrainConfig)} - {"max_detections"}
    return {name for name in names if len({getattr(config, name) for config in configs}) > 1}


def _what_runs(row: PlannedRow, detector: FrozenDetector) -> tuple:
    """Equal for two rows that come to the same on this detector."""
    network = row.network
    assert network is not None
    if network.trainable and choose_stem(network, detector.shapes) is None:
        network = replace(network, stem=False, neck=False)
    return row.kind, network, row.training, row.finetune, row.share, detector.info.identity.encoder_layer


def _why_same(row: PlannedRow, first: PlannedRow) -> str:
    if row.encoder_layer != first.encoder_layer:
        reason = f"its encoder has no layer {row.encoder_layer} of its own to choose"
    elif row.network != first.network:
        reason = "it has no C₁ in which the two would differ"
    else:
        reason = "the two differ in the detector alone"
    return f"the same run as {first.name} on this detector: {reason}"


def iterations_of(rows: list[PlannedRow], budget: Budget, equal: str, seconds: Mapping[str, float]) -> dict[str, int]:
    """Iterations of each row that is trained. seconds: what one takes, by row; needed for a budget of time alone.

    Raises UserError where a row gets none.
    """
    if budget.iterations is not None:
        return {row.name: max(1, round(budget.iterations * row.share)) for row in rows}
    assert budget.seconds is not None
    if equal == "time":
        longest = max((row.epochs_share for row in rows), default=1.0)  # Table 9: half the epochs, half the time
        found = {row.name: int(budget.seconds * row.epochs_share / longest / seconds[row.name]) for row in rows}
    else:
        base = min((budget.seconds / (seconds[row.name] * row.share) for row in rows), default=0.0)
        found = {row.name: int(base * row.share) for row in rows}
    for name, iterations in found.items():
        if not iterations:
            raise UserError(
                f"budget: found {budget.seconds:g} s, which is not one iteration of row {name}: the slowest row "
                f"takes {max(seconds.values()):.2g} s for one; expected more"
            )
    return found
