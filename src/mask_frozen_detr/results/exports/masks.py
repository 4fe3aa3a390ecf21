"""A PNG a mask, white on black, as large as its picture: NAME.001.png; masks.json says what each is of."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mask_frozen_detr.machine.files import encode_json
from mask_frozen_detr.results.exports.found import Files, Picture


def files(pictures: Sequence[Picture], names: Mapping[int, str], folder: Path) -> Files:
    """Relative path to content."""
    made: Files = {}
    listed = []
    for picture in pictures:
        for number, one in enumerate(picture.objects, 1):
            file = f"{picture.name}.{number:03d}.png"
            mask = one.crop.full(picture.height, picture.width).astype(bool)
            buffer = io.BytesIO()
            Image.fromarray(mask.astype(np.uint8) * 255).convert("1").save(buffer, "PNG")
            made[file] = buffer.getvalue()
            listed.append(
                {
                    "file": file,
                    "image": picture.seen_from(folder),
                    "class": one.name,
                    "score": one.score,
                    "bbox": one.box,
                }
            )
    made["masks.json"] = encode_json(listed, indent=1)
    return made
