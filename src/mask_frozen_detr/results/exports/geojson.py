"""GeoJSON (RFC 7946), a collection a picture, in pixels of the picture, y downwards, as QuPath and others import it.

Holes are rings within their part, parts of one object a MultiPolygon.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mask_frozen_detr.machine.files import encode_json
from mask_frozen_detr.results.exports.found import Files, Picture


def files(pictures: Sequence[Picture], names: Mapping[int, str], folder: Path) -> Files:
    """Relative path to content."""
    made: Files = {}
    for picture in pictures:
        features = []
        for one, parts in picture.outlined():
            polygons = [[_closed(ring) for ring in (part.outer, *part.holes)] for part in parts]
            several = len(polygons) > 1
            geometry = {
                "type": "MultiPolygon" if several else "Polygon",
                "coordinates": polygons if several else polygons[0],
            }
            properties = {
                "objectType": "annotation",
                "classification": {"name": one.name},
                "measurements": {"score": one.score},
            }
            features.append({"type": "Feature", "geometry": geometry, "properties": properties})
        content = {"type": "FeatureCollection", "features": features}
        made[f"{picture.name}.geojson"] = encode_json(content, indent=None)
    return made


def _closed(ring: np.ndarray) -> list[list[float]]:
    return np.concatenate([ring, ring[:1]]).astype(float).tolist()
