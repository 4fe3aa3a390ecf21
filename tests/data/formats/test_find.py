"""Which format is found, several at once, and one that is insisted on; real exports, where they are at hand."""

from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from format_samples import draw
from pycocotools import mask as coco_mask

from mask_frozen_detr import UserError, load_data
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.results.rle import segmentation_to_rle

EXPORTS = Path(__file__).parents[3].parent / "shared" / "data" / "exports"
COCO_549 = EXPORTS.with_name("coco-549")


@pytest.fixture
def both(scenes_folder, tmp_path) -> Path:
    """COCO and YOLO in one folder."""
    for name in ("annotations", "train2017", "val2017"):
        (tmp_path / name).symlink_to(scenes_folder / name)
    draw(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"names": ["cat"], "train": "images"}))
    return tmp_path


def test_several_formats_in_one_folder_are_an_error_that_names_them(both):
    with pytest.raises(UserError, match=r"COCO \(.*instances_train2017\.json\) and YOLO-seg \(.*images\).*--format"):
        load_data(both)
    assert load_data(both, format="coco").train.format == "COCO"
    assert load_data(both, format="yolo").train.format == "YOLO-seg"


def test_a_format_that_is_not_there(scenes_folder):
    with pytest.raises(UserError, match=r"(?s)no data of a known format.*Pascal VOC: JPEGImages"):
        load_data(scenes_folder, format="voc")
    with pytest.raises(UserError, match="format: found 'csv', expected 'coco', 'yolo'"):
        load_data(scenes_folder, format=cast(Any, "csv"))


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "labels.csv").write_text("a,b")
    with pytest.raises(UserError, match=r"labels\.csv: no data of a known format"):
        load_data(tmp_path / "labels.csv")


@pytest.mark.skipif(not EXPORTS.is_dir(), reason=f"real exports of annotation tools are not in {EXPORTS}")
@pytest.mark.parametrize(
    ("folder", "format", "images", "objects"),
    [
        ("cvat", "COCO", 6, 29),
        ("labelme", "LabelMe", 3, 12),
        ("yolo-seg", "YOLO-seg", 24, 155),
        ("voc", "Pascal VOC", 16, 39),
        ("panoptic", "COCO panoptic", 10, 49),
    ],
)
def test_real_exports(folder, format, images, objects):
    data = load_data(EXPORTS / folder, no_val=True).train
    assert (data.format, len(data.images)) == (format, images)
    assert sum(len(record.annotations) for record in data.images) == objects
    assert not data.skipped
    if folder not in ("yolo-seg", "panoptic"):
        return
    coco = load_split(COCO_549, "train")
    truth = {record.path.name: record for record in coco.images}
    overlaps = []
    for record in data.images:
        mates = truth[record.path.name].annotations
        masks = [segmentation_to_rle(cast(list, a.segmentation), record.height, record.width) for a in mates]
        for a in record.annotations:
            rle = segmentation_to_rle(cast(list, a.segmentation), record.height, record.width)
            ious = coco_mask.iou([rle], masks, [0] * len(masks))[0]
            overlaps.append(ious.max())
            assert coco.categories[mates[ious.argmax()].category_id] == data.categories[a.category_id]
    # The export simplified its polygons; in panoptic annotations nearer objects cover others.
    assert sum(overlaps) / len(overlaps) > (0.85 if folder == "yolo-seg" else 0.95)
