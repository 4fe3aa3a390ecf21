"""YOLO-seg: data.yaml, images/NAME.jpg, labels/NAME.txt with a polygon a line.

An object is one line: holes and further parts hang on seams of no width, as Ultralytics' own converter joins them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from mask_frozen_detr.results.exports.found import Files, Picture
from mask_frozen_detr.results.outlines import one_ring


def files(pictures: Sequence[Picture], names: Mapping[int, str], folder: Path) -> Files:
    """Relative path to content; pictures are links to where they lie, so that the folder can be trained on as it is."""
    made: Files = {}
    for picture in pictures:
        lines = []
        for one, parts in picture.outlined():
            ring = one_ring(parts) / [picture.width, picture.height]
            lines.append(" ".join([str(one.category), *(f"{value:.6f}" for value in ring.ravel())]))
        made[f"labels/{picture.name}.txt"] = "".join(f"{line}\n" for line in lines).encode()
        made[f"images/{picture.name}{picture.path.suffix}"] = picture.path
    settings = {"path": ".", "train": "images", "names": {number: name for number, name in sorted(names.items())}}
    made["data.yaml"] = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False).encode()
    return made
