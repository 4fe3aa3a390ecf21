"""The table of families as text: what `mask-frozen-detr detectors` prints, and the one in docs/detectors.md."""

import transformers

from mask_frozen_detr.detectors.families import FAMILIES
from mask_frozen_detr.detectors.family import Family, Maps
from mask_frozen_detr.errors import UserError

COLUMNS = ("model type", "strides of E", "of C₁", "classes", "detections", "padding", "since", "for instance")
MORE = ("class in transformers", "E is tapped at")  # in the documentation only


def format_families(markdown: bool = False) -> str:
    """One row a family; in print, those that the installed transformers lacks say so."""
    rows = [COLUMNS, *(_row(family) for family in FAMILIES.values())]
    if markdown:
        more = [MORE, *(_more(family) for family in FAMILIES.values())]
        lines = ["| " + " | ".join((*row, *last)) + " |" for row, last in zip(rows, more, strict=True)]
        return "\n".join([lines[0], "|" + " --- |" * len((*COLUMNS, *MORE)), *lines[1:]])
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    notes = ["", *("" if _installed(family) else "  (not installed)" for family in FAMILIES.values())]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + note
        for row, note in zip(rows, notes, strict=True)
    ]
    return "\n".join([*lines, f"Installed: transformers {transformers.__version__}."])


def _row(family: Family) -> tuple[str, ...]:
    return (
        family.model_type,
        family.strides,
        family.stem_stride,
        "softmax" if family.background else "text" if family.prompted else "sigmoid",
        str(family.detections) if isinstance(family.detections, int) else "one a query",
        "pixel_mask" if family.takes_mask else "none",
        family.since,
        family.example,
    )


def _more(family: Family) -> tuple[str, ...]:
    tap = family.features.module if isinstance(family.features, Maps) else family.features.layers
    return f"`{family.class_name}`", f"`{tap}`"


def _installed(family: Family) -> bool:
    try:
        family.load_class()
    except UserError:
        return False
    return True
