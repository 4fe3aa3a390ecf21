"""Label Studio's own json: every kind of region in percent, brush masks packed by hand, what names of pictures mean."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_samples import SQUARE, H, W, draw, mask_of, overlap, square_mask

from mask_frozen_detr.data.formats.label_studio_brush import decode_brush
from mask_frozen_detr.data.load import load_data, load_split
from mask_frozen_detr.data.validation import Broken
from mask_frozen_detr.errors import UserError

POINTS = [[100 * x / W, 100 * y / H] for x, y in zip(SQUARE[::2], SQUARE[1::2], strict=True)]
BOX = {"x": 5.0, "y": 10.0, "width": 25.0, "height": 50.0, "rotation": 0}  # 2, 3, 10 × 15


def region(kind: str, name: str | None, **value: Any) -> dict[str, Any]:
    labels = {} if name is None else {kind: [name]}
    size = {"original_width": W, "original_height": H}
    return {"id": "x", "type": kind, "from_name": "label", "to_name": "image", "value": value | labels, **size}


def task(*results: Any, image: str = "/data/upload/1/0a1b2c3d-a.png", **changes: Any) -> dict[str, Any]:
    made = {"was_cancelled": False, "updated_at": "2026-01-02", "result": list(results)}
    return {"id": 7, "data": {"image": image}, "annotations": [made], "predictions": []} | changes


def write(folder: Path, *tasks: Any, name: str = "project-1-at-2026.json") -> Path:
    draw(folder / "images" / "a.png")
    (folder / name).write_text(json.dumps(tasks))
    return folder


def pack(pixels: list[int], blocks: list[tuple[bool, int]]) -> list[int]:
    """Words as blocks of (one word that is repeated or not, length), by the format's description, as a text of bits."""
    bits = f"{len(pixels):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    place = 0
    for repeated, length in blocks:
        sort = next(sort for sort, width in enumerate((3, 4, 8, 16)) if length - 1 < 1 << width)
        bits += f"{repeated:d}{sort:02b}{length - 1:0{(3, 4, 8, 16)[sort]}b}"
        words = pixels[place : place + 1] if repeated else pixels[place : place + length]
        bits += "".join(f"{word:08b}" for word in words)
        place += length
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def packed(mask: np.ndarray) -> list[int]:
    """Runs of equal bytes as one word; single bytes four at a time."""
    pixels = np.repeat(mask.reshape(-1).astype(np.uint8) * 255, 4).tolist()
    blocks, place = [], 0
    while place < len(pixels):
        end = place
        while end < len(pixels) and pixels[end] == pixels[place]:
            end += 1
        blocks.append((place % 3 > 0 or end - place > 40, end - place))
        place = end
    return pack(pixels, blocks)


def test_regions_of_every_kind(tmp_path):
    rng = np.random.default_rng(0)
    brush = rng.random((H, W)) > 0.7
    turned = {"x": 50.0, "y": 20.0, "width": 100 * 8 / W, "height": 100 * 6 / H, "rotation": 90}  # about 20, 6
    write(
        tmp_path,
        task(
            region("polygonlabels", "cat", points=POINTS, closed=True),
            region("rectanglelabels", "dog", **BOX),
            region("rectanglelabels", "dog", **turned),
            region("ellipselabels", "dog", x=50.0, y=50.0, radiusX=20.0, radiusY=20.0, rotation=0),
            region("brushlabels", "cat", format="rle", rle=packed(brush)),
            region("keypointlabels", "cat", x=1, y=2, width=0.1),
        ),
    )
    data = load_data(tmp_path).train
    (record,) = data.images
    polygon, box, upright, ellipse, painted = record.annotations
    assert record.path == tmp_path / "images" / "a.png"
    assert [data.categories[a.category_id] for a in record.annotations] == ["cat", "dog", "dog", "dog", "cat"]
    assert (mask_of(polygon, record) == square_mask()).all()
    assert (box.segmentation, box.bbox) == (None, (2, 3, 10, 15))
    assert upright.bbox == pytest.approx((14, 6, 6, 8))
    y, x = np.mgrid[:H, :W] + 0.5
    assert overlap(mask_of(ellipse, record), ((x - 20) / 8) ** 2 + ((y - 15) / 6) ** 2 <= 1) > 0.95
    assert (mask_of(painted, record) == brush).all()
    assert "Label Studio, project-1-at-2026.json: 1 images" in data.summary()
    assert "note: 1 × region that outlines no object" in data.summary()


def test_the_newest_annotation_counts_and_predictions_where_there_is_none(tmp_path):
    draw(*(tmp_path / "images" / name for name in ("b.png", "c.png", "d.png")))
    polygon, box = region("polygonlabels", "cat", points=POINTS), region("rectanglelabels", "dog", **BOX)
    older = {"updated_at": "2026-01-01", "result": [polygon, polygon]}
    newer = {"updated_at": "2026-01-03", "result": [box]}
    cancelled = {"updated_at": "2026-01-04", "was_cancelled": True, "result": [polygon]}
    local = "/data/local-files/?d=images/c.png"
    write(
        tmp_path,
        task(annotations=[older, newer, cancelled]),
        task(annotations=[], predictions=[{"result": [box, polygon]}], image="http://host/b.png?x=1"),
        task(image=local),
        task(annotations=[cancelled], image="d.png"),
    )
    data = load_data(tmp_path).train
    assert [(record.path.name, len(record.annotations)) for record in data.images] == [
        ("a.png", 1),
        ("b.png", 2),
        ("c.png", 0),
    ]
    assert data.notes["picture that nobody annotated, its predictions used"] == 1
    assert data.notes["picture that nobody annotated, left out"] == 1


def test_names_beside_shapes(tmp_path):
    """<Labels> beside <Polygon> and <Brush>: two results of one id."""
    shape = region("polygon", None, points=POINTS)
    write(tmp_path, task(shape, region("labels", "cat")), name="train.json")
    data = load_split(tmp_path, "train")
    assert [data.categories[a.category_id] for a in data.images[0].annotations] == ["cat"]


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "pixels": (dict(points=[[5, 5], [150, 5], [15, 150]]), "coordinates outside 0 … 100 percent: 150"),
    "text": (dict(points=[["5", 5], [15, 5], [15, 15]]), "coordinates are no finite numbers"),
    "beyond all bounds": (dict(points=[[10**400, 5], [15, 5], [15, 15]]), "coordinates are no finite numbers"),
    "three numbers": (dict(points=[[5, 5, 5]]), "point is not two numbers"),
    "no points": (dict(points=[]), "point is not two numbers"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_regions_are_skipped_and_named(tmp_path, case):
    value, why = BROKEN[case]
    write(tmp_path, task(region("polygonlabels", "cat", points=POINTS), region("polygonlabels", "cat", **value)))
    data = load_data(tmp_path).train
    (skipped,) = data.skipped
    assert skipped.why.startswith(why)
    assert skipped.where == "project-1-at-2026.json, task 7, region 1"
    assert len(data.images[0].annotations) == 1


def test_broken_brushes():
    mask = np.zeros((2, 3), bool)
    mask[1, 1] = True
    good = packed(mask)
    assert (decode_brush(good, 3, 2) == mask).all()
    cases: list[tuple[list[Any], str]] = [
        (good[:-2], "too early"),
        ([], "too early"),
        ([1, 2, "x"], "expected a list of bytes"),
        ([256], "expected a list of bytes"),
        (pack([0] * 20, [(True, 20)]), "another size than the picture: 20 words"),
        (pack([0] * 24, [(True, 30)]), "runs are of more than 24 words"),
    ]
    for numbers, why in cases:
        with pytest.raises(Broken, match=why):
            decode_brush(numbers, 3, 2)


def test_two_exports_in_one_folder_are_an_error(tmp_path):
    write(tmp_path, task(), name="a.json")
    write(tmp_path, task(), name="b.json")
    with pytest.raises(UserError, match=r"a\.json and b\.json are both exports of Label Studio"):
        load_data(tmp_path)
