"""Label Studio: tasks.json with pre-annotations, to import into a project; label_config.xml for its interface.

Polygons in percent of the picture's sides. Pictures are named as local files:
LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the folder that holds them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from mask_frozen_detr.machine.files import encode_json
from mask_frozen_detr.results.exports.found import Files, Picture
from mask_frozen_detr.results.exports.regions import Region
from mask_frozen_detr.results.outlines import one_ring

MODEL = "mask-frozen-detr"


def files(pictures: Sequence[Picture], names: Mapping[int, str], folder: Path) -> Files:
    """Relative path to content. Holes and further parts hang on seams of no width, so that an object is one region."""
    tasks = []
    for picture in pictures:
        regions = [Region(one.name, one.box, [one_ring(parts)], one.score) for one, parts in picture.outlined()]
        tasks.append(task(picture.seen_from(folder.parent), picture.width, picture.height, regions, MODEL))
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in dict.fromkeys(names.values()))
    config = (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <PolygonLabels name="label" toName="image">\n{labels}  </PolygonLabels>\n</View>\n'
    )
    return {
        "tasks.json": encode_json(tasks, indent=1),
        "label_config.xml": config.encode(),
    }


def task(path: str, width: int, height: int, regions: Sequence[Region], made_by: str) -> dict[str, Any]:
    """A picture with predictions: polygons, and boxes of what has no mask. Its score is the least of its regions'.

    path: of the picture, relative to the folder that Label Studio serves.
    """
    size = np.array([width, height])
    results = []
    for number, region in enumerate(regions, 1):
        common: dict[str, Any] = {
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            **({} if region.score is None else {"score": region.score}),
        }
        for part, polygon in enumerate(region.polygons, 1):
            points = (polygon / size * 100).round(5).tolist()
            value = {"points": points, "closed": True, "polygonlabels": [region.name]}
            results.append({"id": f"{number}-{part}", "type": "polygonlabels", "value": value, **common})
        if not region.polygons:
            x, y, w, h = (100 * np.array(region.box) / np.tile(size, 2)).tolist()
            value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [region.name]}
            results.append({"id": f"{number}", "type": "rectanglelabels", "value": value, **common, "from_name": "box"})
    scores = [region.score for region in regions if region.score is not None]
    return {
        "data": {"image": f"/data/local-files/?d={quote(path)}"},
        "predictions": [{"model_version": made_by, "score": min(scores, default=0.0), "result": results}],
    }
