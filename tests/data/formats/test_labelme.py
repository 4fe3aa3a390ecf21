"""LabelMe: shapes of every type, groups as one object, and what is broken in a json."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_samples import SQUARE, TRIANGLE, H, W, draw, mask_of, overlap, square_mask, triangle_mask
from PIL import Image

from mask_frozen_detr import UserError, load_data
from mask_frozen_detr.data.load import load_split


def shape(points, label="cat", kind="polygon", group=None, **more) -> dict:
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}} | more


def pairs(points: list[int]) -> list[list[int]]:
    return [list(point) for point in zip(points[::2], points[1::2], strict=True)]


def write(folder: Path, *shapes, name: str = "a", **changes) -> Path:
    draw(folder / f"{name}.png")
    content: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": f"{name}.png",
        "imageData": None,
        "imageHeight": H,
        "imageWidth": W,
    }
    file = folder / f"{name}.json"
    file.write_text(json.dumps(content | changes))
    return file


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert("1").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_shapes(tmp_path):
    piece = square_mask()[4:18, 3:20]
    write(
        tmp_path,
        shape(pairs(SQUARE)),
        shape([[3, 4], [19, 17]], "dog", "mask", mask=png(piece)),
        shape([[2, 3], [12, 23]], "dog", "rectangle"),
        shape([[20, 15], [26, 15]], "dog", "circle"),
        shape([[20, 15]], "dog", "point"),
        shape(pairs(SQUARE), "__ignore__"),
    )
    data = load_data(tmp_path).train
    (record,) = data.images
    polygon, mask, box, circle = record.annotations
    assert [data.categories[a.category_id] for a in record.annotations] == ["cat", "dog", "dog", "dog"]
    assert (mask_of(polygon, record) == square_mask()).all()
    assert (mask_of(mask, record) == square_mask()).all()
    assert (box.segmentation, box.bbox) == (None, (2, 3, 10, 20))
    y, x = np.mgrid[:H, :W] + 0.5
    assert overlap(mask_of(circle, record), (x - 20) ** 2 + (y - 15) ** 2 <= 36) > 0.95
    assert "LabelMe" in data.summary()
    assert [note for note in data.notes if "left out" in note] == [
        "shape that outlines nothing (a point or a line), left out",
        "shape called __ignore__, left out",
    ]


def test_a_group_is_one_object(tmp_path):
    write(
        tmp_path,
        shape(pairs(SQUARE), group=1),
        shape(pairs(TRIANGLE), "dog", group=1),
        shape(pairs(TRIANGLE), group=1),
        shape(pairs(SQUARE), group=2),
    )
    (record,) = (data := load_split(tmp_path, "train")).images
    assert [(data.categories[a.category_id], len(a.segmentation or ())) for a in record.annotations] == [
        ("cat", 2),
        ("dog", 1),
        ("cat", 1),
    ]
    assert overlap(mask_of(record.annotations[0], record), square_mask() | triangle_mask()) > 0.95


def test_splits_names_and_sizes(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        write(tmp_path / split, shape(pairs(SQUARE), "zebra"), imageWidth=None, imagePath="..\\photos\\a.png")
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nzebra\ncat\n")
    data = load_data(tmp_path)
    assert data.val is not None
    assert data.train.categories == data.val.categories == {1: "zebra", 2: "cat"}
    assert [(r.path, r.width) for r in data.val.images] == [(tmp_path / "val/a.png", W)]


BROKEN = {
    "two points": (shape([[1, 1], [5, 5]]), "polygon with fewer than 3 points"),
    "no points": (shape([]), "shape without points"),
    "points of three": (shape([[1, 1, 1]] * 3), "point is not two numbers"),
    "words": (shape([["1", "1"]] * 3), "point is not two numbers"),
    "an unknown type": (shape(pairs(SQUARE), kind="cuboid"), "shape of an unknown type"),
    "no base64": (shape([[0, 0], [5, 5]], kind="mask", mask="é"), "mask cannot be read"),
    "no mask": (shape([[0, 0], [5, 5]], kind="mask"), "mask cannot be read"),
    "out of the picture": (shape([[35, 0], [50, 9]], kind="mask", mask=png(np.ones((9, 15)))), "mask reaches out"),
    "no label": ({"points": pairs(SQUARE)}, "shape without a label"),
    "no object": (5, "shape without a label"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_shapes_are_skipped_and_named(case, tmp_path):
    broken, why = BROKEN[case]
    write(tmp_path, shape(pairs(SQUARE)), broken)
    data = load_split(tmp_path, "train")
    assert len(data.images[0].annotations) == 1
    (skipped,) = data.skipped
    assert skipped.where == "a.json, shape 1"
    assert skipped.why.startswith(why)


def test_broken_files_are_named(tmp_path):
    write(tmp_path, shape(pairs(SQUARE)))
    write(tmp_path, shape(pairs(SQUARE)), name="b", imageData="xyz")
    (tmp_path / "b.png").unlink()
    (tmp_path / "c.json").write_text('{"shapes": [')
    (tmp_path / "d.json").write_text('{"other": 1}')
    data = load_split(tmp_path, "train")
    assert len(data.images) == 1
    assert data.left_out() == {
        "json file cannot be read": 1,
        "json without a list 'shapes', not LabelMe's": 1,
        "image file is missing": 1,
    }
    assert "it is embedded in the json" in data.summary()


def test_one_json_given_directly_is_an_error(tmp_path):
    with pytest.raises(UserError, match="one picture's LabelMe file; give the folder"):
        load_data(write(tmp_path, shape(pairs(SQUARE))))
