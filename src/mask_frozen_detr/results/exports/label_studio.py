"""Label Studio: tasks.json with pre-annotations, to import into a project; label_config.xml for its interface.

Polygons in percent of the picture's sides; holes and further parts hang on seams of no width, so that an object is one
region. Pictures are named as local files: LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the folder that holds them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from mask_frozen_detr.results.exports.found import Files, Picture
from mask_frozen_detr.results.outlines import one_ring

MODEL = "mask-frozen-detr"


def files(pictures: Sequence[Picture], names: Mapping[int, str], folder: Path) -> Files:
    """Relative path to content."""
    tasks = []
    for picture in pictures:
        results = []
        for number, (one, parts) in enumerate(picture.outlined(), 1):
            points = one_ring(parts) / [picture.width, picture.height] * 100
            results.append(
                {
                    "id": f"{picture.name}-{number}",
                    "type": "polygonlabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": picture.width,
                    "original_height": picture.height,
                    "image_rotation": 0,
                    "score": one.score,
                    "value": {"points": points.round(5).tolist(), "closed": True, "polygonlabels": [one.name]},
                }
            )
        scores = [one.score for one in picture.objects]
        prediction = {"model_version": MODEL, "score": min(scores, default=0.0), "result": results}
        address = f"/data/local-files/?d={quote(picture.seen_from(folder.parent))}"
        tasks.append({"data": {"image": address}, "predictions": [prediction]})
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in dict.fromkeys(names.values()))
    config = (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <PolygonLabels name="label" toName="image">\n{labels}  </PolygonLabels>\n</View>\n'
    )
    return {
        "tasks.json": (json.dumps(tasks, ensure_ascii=False, indent=1) + "\n").encode(),
        "label_config.xml": config.encode(),
    }
