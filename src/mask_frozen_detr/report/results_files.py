"""Results that `evaluate --results-file` wrote, read again: whoever wrote them, before COCO's code sees them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mask_frozen_detr.data.coco import CocoData, ImageRecord
from mask_frozen_detr.data.validation import Broken, are_finite, check_runs, whole
from mask_frozen_detr.errors import UserError, reason
from mask_frozen_detr.evaluation import results_files
from mask_frozen_detr.machine.regular_files import read_regular
from mask_frozen_detr.report.compare import Results
from mask_frozen_detr.results.coco_results import KINDS, Kind


def read_results(name: str, load: Callable[[], CocoData]) -> Results | None:
    """The results of NAME, for X.json X.bbox.json and X.segm.json; None where `name` is none.

    load: gives the data that they are of. Raises UserError where they are damaged, or of other images.
    """
    files = results_files(Path(name))
    if Path(name).suffix != ".json" or not all(file.is_file() for file in files):
        return None
    data = load()
    images = {record.id: record for record in data.images}
    entries = {kind: _read(file, kind, images) for kind, file in zip(KINDS, files, strict=True)}
    return Results(name, entries, data.images, data.categories, frozenset(data.categories))


def _read(file: Path, kind: Kind, images: dict[int, ImageRecord]) -> list[dict[str, Any]]:
    try:
        content = json.loads(read_regular(file))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: is no file of COCO results: {reason(error)}") from error
    if not isinstance(content, list):
        raise UserError(f"{file}: is no file of COCO results: found {type(content).__name__}, expected a list")
    return [_checked(file, place, one, kind, images) for place, one in enumerate(content)]


def _checked(file: Path, place: int, one: Any, kind: Kind, images: dict[int, ImageRecord]) -> dict[str, Any]:
    def refuse(what: str) -> UserError:
        return UserError(f"{file}: is no file of COCO results: entry {place}: {what}")

    if not isinstance(one, dict):
        raise refuse(f"found {type(one).__name__}, expected an object")
    image, category, score = whole(one.get("image_id")), whole(one.get("category_id")), one.get("score", "")
    if image is None or category is None or not are_finite([score]):
        raise refuse("expected image_id and category_id, whole numbers, and a finite score")
    if image not in images:
        raise UserError(f"{file}: is of other data: image {image} is not in it; name its own with --data")
    entry: dict[str, Any] = {"image_id": image, "category_id": category, "score": float(score)}
    if kind == "bbox":
        bbox = one.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4 or not are_finite(bbox):
            raise refuse("bbox: expected four finite numbers x, y, w, h")
        return {**entry, "bbox": bbox}
    record, mask = images[image], one.get("segmentation")
    if not isinstance(mask, dict):
        raise refuse("segmentation: expected run lengths, an object with size and counts")
    try:
        return {**entry, "segmentation": check_runs(mask, record.width, record.height)[0]}
    except Broken as error:
        raise refuse(f"segmentation: {error}") from None
