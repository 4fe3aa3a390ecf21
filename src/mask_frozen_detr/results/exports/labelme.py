"""LabelMe: NAME.json with polygons; parts of one object share a group, holes hang on seams of no width."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mask_frozen_detr.results.exports.found import Files, Picture
from mask_frozen_detr.results.outlines import with_seams

VERSION = "5.5.0"  # of LabelMe, whose format this is


def files(pictures: Sequence[Picture], names: Mapping[int, str], folder: Path) -> Files:
    """Relative path to content."""
    made: Files = {}
    for picture in pictures:
        shapes = []
        for group, (one, parts) in enumerate(picture.outlined()):
            for part in parts:
                shapes.append(
                    {
                        "label": one.name,
                        "points": with_seams(part).astype(float).tolist(),
                        "group_id": group if len(parts) > 1 else None,
                        "description": f"score {one.score:.3f}",
                        "shape_type": "polygon",
                        "flags": {},
                    }
                )
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": picture.seen_from(folder),
            "imageData": None,
            "imageHeight": picture.height,
            "imageWidth": picture.width,
        }
        made[f"{picture.name}.json"] = (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()
    return made
