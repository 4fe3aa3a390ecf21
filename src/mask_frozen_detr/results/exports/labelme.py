"""LabelMe: NAME.json with polygons; parts of one object share a group, holes hang on seams of no width."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mask_frozen_detr.machine.files import encode_json
from mask_frozen_detr.results.exports.found import Files, Picture
from mask_frozen_detr.results.exports.regions import Region
from mask_frozen_detr.results.outlines import with_seams

VERSION = "5.5.0"  # of LabelMe, whose format this is


def files(pictures: Sequence[Picture], names: Mapping[int, str], folder: Path) -> Files:
    """Relative path to content."""
    made: Files = {}
    for picture in pictures:
        regions = [
            Region(one.name, one.box, [with_seams(part) for part in parts], note=f"score {one.score:.3f}")
            for one, parts in picture.outlined()
        ]
        content = labelled(picture.seen_from(folder), picture.width, picture.height, regions)
        made[f"{picture.name}.json"] = encode_json(content, indent=1)
    return made


def labelled(path: str, width: int, height: int, regions: Sequence[Region]) -> dict[str, Any]:
    """What LabelMe opens for a picture: polygons, and rectangles of what has no mask.

    path: of the picture, relative to the folder of the file.
    """
    shapes: list[dict[str, Any]] = []
    for number, region in enumerate(regions):
        x, y, w, h = region.box
        common: dict[str, Any] = {
            "label": region.name,
            "group_id": number if len(region.polygons) > 1 else None,
            "description": region.note,
            "flags": {},
        }
        for polygon in region.polygons:
            shapes.append({**common, "shape_type": "polygon", "points": polygon.astype(float).tolist()})
        if not region.polygons:
            shapes.append({**common, "shape_type": "rectangle", "points": [[x, y], [x + w, y + h]]})
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": path,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
