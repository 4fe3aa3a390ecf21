"""Rows of the paper's tables as recipes: a network, a training configuration, a name.

Rows without training (Table 1) are what `evaluate DETECTOR DATA` measures.
"""

import difflib
from dataclasses import dataclass, replace

from mask_frozen_detr.detectors.official.names import OFFICIAL_NAMES
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.network.config import MaskNetworkConfig
from mask_frozen_detr.paper.tables import PAPER, TRAINING, PaperRow
from mask_frozen_detr.training.config import AugmentConfig, LossConfig, TrainConfig

OFFICIAL_DETECTORS = {
    ("H-DETR", "R50"): "h-deformable-detr-resnet50",
    ("H-DETR", "Swin-L"): "h-deformable-detr-swin-large",
    ("DINO", "FocalNet-L"): "dino-focalnet-large",
}
COCO_PLACE = "https://cocodataset.org/#download (train2017, val2017 and their annotations)"


@dataclass(frozen=True)
class Recipe:
    """One row of the paper, ready to train on any detector and data."""

    row: PaperRow
    network: MaskNetworkConfig
    training: TrainConfig
    encoder_layer: int = 4  # the detector's encoder layer whose maps are used

    @property
    def name(self) -> str:
        return f"table{self.row.table}-{self.row.name}"

    @property
    def detector(self) -> str:
        """The detector the paper's row stands on."""
        pretrained = ", Objects365 pre-trained" if self.row.objects365 else ""
        return f"{self.row.detector} {self.row.backbone}{pretrained}"

    def lacking(self, detector: str | None, data: object | None) -> str:
        """What has to be named for this recipe to run, and where its authors publish it."""
        lines = [f"recipe {self.name}: expected DETECTOR and DATA, as in train --recipe {self.name} DETECTOR DATA"]
        if detector is None:
            official = OFFICIAL_DETECTORS[self.row.detector, self.row.backbone]
            lines.append(f"DETECTOR: the checkpoint of {self.detector}: {OFFICIAL_NAMES[official].where}")
            if self.row.objects365 and self.row.detector == "H-DETR":
                lines.append(
                    "  (the paper's Objects365 weights of it were never published: that is the one trained on COCO)"
                )
        if data is None:
            lines.append(f"DATA: a folder with COCO 2017: {COCO_PLACE}")
        return "\n".join(lines)


def make_recipe(row: PaperRow) -> Recipe:
    """The recipe of a row. Epochs, not iterations, carry over to other data: on COCO both are the paper's."""
    options = {**TRAINING, **row.training}
    training = TrainConfig(
        epochs=float(row.epochs),
        batch=options["batch"],
        max_detections=300 if row.detector == "DINO" else 100,
        finetune=options["finetune"],
        loss=LossConfig(sampled_points=options["sampled_points"]),
        augment=AugmentConfig(large_scale_jitter=options["large_scale_jitter"]),
    )
    if row.table == 6:
        training = replace(training, iterations=88_500)
    return Recipe(row, row.config, training, options["encoder_layer"])


def recipes(table: int | None = None) -> list[Recipe]:
    """All recipes, or those of one table. Raises UserError for a table that has none."""
    rows = [row for row in PAPER if row.network is not None and row.epochs]
    found = [make_recipe(row) for row in rows if table is None or row.table == table]
    if not found:
        tables = sorted({row.table for row in rows})
        raise UserError(f"table: found {table}, expected one of {', '.join(map(str, tables))}")
    return found


def find_recipe(name: str) -> Recipe:
    """A recipe by name. Raises UserError with the nearest names."""
    known = {recipe.name: recipe for recipe in recipes()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "`mask-frozen-detr recipes` lists them"
        raise UserError(f"recipe: found {name!r}, which is none; {hint}")
    return known[name]


def format_recipes(found: list[Recipe]) -> str:
    """A plain text table with the paper's figures."""
    head = ("recipe", "AP", "AP50", "AP75", "APs", "APm", "APl", "G MACs", "M params", "GPU h", "box AP", "detector")
    lines: list[tuple[str, ...]] = [head]
    for recipe in found:
        row = recipe.row
        figures = (
            *(row.ap, row.ap50, row.ap75, row.ap_s, row.ap_m, row.ap_l),
            *(row.gmacs, row.params_m, row.gpu_hours, row.ap_box),
        )
        lines.append((recipe.name, *("-" if f is None else f"{f:g}" for f in figures), recipe.detector))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        line[0].ljust(widths[0])
        + "".join(cell.rjust(width + 2) for cell, width in zip(line[1:-1], widths[1:-1], strict=True))
        + "  "
        + line[-1]
        for line in lines
    )
