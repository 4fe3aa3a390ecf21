"""VIA's own json: projects and exports of both versions, every shape, classes in attributes of any name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_samples import SQUARE, H, W, draw, mask_of, overlap, square_mask

from mask_frozen_detr import UserError, load_data
from mask_frozen_detr.data.load import load_split

POLYGON = {"name": "polygon", "all_points_x": SQUARE[::2], "all_points_y": SQUARE[1::2]}


def region(shape: dict, **attributes) -> dict:
    return {"shape_attributes": shape, "region_attributes": attributes}


def write(folder: Path, regions, project: bool = False) -> Path:
    draw(folder / "a.png")
    entries = {"a.png123": {"filename": "a.png", "size": 123, "regions": regions, "file_attributes": {}}}
    content = {"_via_settings": {}, "_via_img_metadata": entries} if project else entries
    file = folder / "via_region_data.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("project", [False, True])
def test_shapes_and_classes(project, tmp_path):
    write(
        tmp_path / "train",
        [
            region(POLYGON, type="cat", note="x"),
            region({"name": "rect", "x": 2, "y": 3, "width": 10, "height": 20}, type="dog"),
            region({"name": "ellipse", "cx": 20, "cy": 15, "rx": 9, "ry": 5, "theta": 0.0}, type={"dog": True}),
            region({"name": "point", "cx": 2, "cy": 3}, type="dog"),
        ],
        project,
    )
    data = load_data(tmp_path).train
    (record,) = data.images
    polygon, box, ellipse = record.annotations
    assert [data.categories[a.category_id] for a in record.annotations] == ["cat", "dog", "dog"]
    assert (mask_of(polygon, record) == square_mask()).all()
    assert (box.segmentation, box.bbox) == (None, (2, 3, 10, 20))
    y, x = np.mgrid[:H, :W] + 0.5
    assert overlap(mask_of(ellipse, record), ((x - 20) / 9) ** 2 + ((y - 15) / 5) ** 2 <= 1) > 0.95
    assert "VIA, via_region_data.json" in data.summary()


def test_version_1_without_attributes(tmp_path):
    data = load_data(write(tmp_path, {"0": region(POLYGON)})).train
    assert data.categories == {1: "object"}
    assert len(data.images[0].annotations) == 1


BROKEN: dict[str, tuple[Any, str]] = {
    "lists of two lengths": (POLYGON | {"all_points_x": [1, 2]}, "polygon whose x and y are not two lists"),
    "an unknown shape": ({"name": "spiral"}, "shape of an unknown type"),
    "a box of words": ({"name": "rect", "x": "2", "y": 3, "width": 1, "height": 2}, "x, y, width, height are no"),
    "no shape": (None, "region without a shape"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_regions_are_named(case, tmp_path):
    shape, why = BROKEN[case]
    write(tmp_path, [region(POLYGON, name="cat"), region(shape, name="cat")])
    data = load_split(tmp_path, "train")
    assert len(data.images[0].annotations) == 1
    assert [skipped.why.startswith(why) for skipped in data.skipped] == [True]


def test_a_region_without_a_class(tmp_path):
    write(tmp_path, [region(POLYGON, name="cat"), region(POLYGON)])
    assert load_split(tmp_path, "train").left_out() == {"region without a class": 1}


def test_nothing_else_is_taken_for_it(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "via_export_coco.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png", "width": W, "height": H}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE]}],
                "categories": [{"id": 1, "name": "cat"}],
            }
        )
    )
    assert load_data(tmp_path).train.format == "COCO"


@pytest.mark.parametrize("folder", [".", "train"])
def test_two_files_in_one_folder_are_an_error(folder, tmp_path):
    first = write(tmp_path / folder, [region(POLYGON)])
    first.with_name("via_project.json").write_text(first.read_text())
    with pytest.raises(UserError, match=r"via_project\.json and .*via_region_data\.json are both exports of VIA"):
        load_data(tmp_path)
    assert len(load_data(first, no_val=True).train.images) == 1
