"""One image's instances in every form: arrays, run lengths, polygons, `supervision`, COCO results."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.results.rle import rle_to_mask

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def instances() -> Instances:
    rng = np.random.default_rng(0)
    maps = [
        Crop(2, 3, rng.random((20, 15), dtype=np.float32)),
        Crop(30, 0, rng.random((40, 30), dtype=np.float32)),
        Crop(60, 10, np.zeros((5, 0), np.float32)),
        Crop(10, 20, rng.random((9, 14), dtype=np.float32)),
    ]
    return Instances(
        boxes=np.array([[2, 3, 17, 23], [30, 0, 60, 40], [59.8, 10, 60.1, 15], [10, 20, 24, 29]], np.float32),
        scores=np.array([0.9, 0.5, 0.3, 0.7], np.float32),
        class_scores=np.array([0.95, 0.6, 0.8, 0.75], np.float32),
        labels=np.array([2, 0, 1, 2]),
        names=["dog", "person", "cat", "dog"],
        crops=[crop.above() for crop in maps],
        height=HEIGHT,
        width=WIDTH,
        probability_crops=maps,
    )


def test_masks_and_probabilities_at_full_resolution(instances):
    masks, probabilities = instances.masks, instances.probabilities
    assert masks.shape == probabilities.shape == (4, HEIGHT, WIDTH)
    assert (masks.dtype, probabilities.dtype) == (np.bool_, np.float32)
    np.testing.assert_array_equal(masks, probabilities > 0.5)
    np.testing.assert_array_equal(probabilities[1, :, 30:], instances.probability_crops[1].values)
    assert masks[0].any()
    assert not masks[2].any()
    assert not masks[0, :3].any()


def test_probabilities_that_were_not_kept_are_an_error(instances):
    bare = replace(instances, probability_crops=None)
    with pytest.raises(ValueError, match="not kept"):
        bare.probabilities  # noqa: B018
    assert bare[[0]].probability_crops is None


SELECTIONS = [
    (1, [1], "a number"),
    (-1, [3], "from the end"),
    (np.int64(2), [2], "numpy's number"),
    (slice(1, 3), [1, 2], "a slice"),
    (slice(9, None), [], "an empty slice"),
    ([3, 0], [3, 0], "an order"),
    ([], [], "an empty list"),
    (np.array([True, False, False, True]), [0, 3], "a bool array"),
    ([False] * 4, [], "a list of bools, all off"),
    (np.array([2, 2]), [2, 2], "twice the same"),
]


@pytest.mark.parametrize(("index", "rows", "reason"), SELECTIONS, ids=[reason for *_, reason in SELECTIONS])
def test_indexing(instances, index, rows, reason):
    part = instances[index]
    assert len(part) == len(rows), reason
    np.testing.assert_array_equal(part.boxes, instances.boxes[rows])
    np.testing.assert_array_equal(part.scores, instances.scores[rows])
    np.testing.assert_array_equal(part.class_scores, instances.class_scores[rows])
    np.testing.assert_array_equal(part.labels, instances.labels[rows])
    assert part.names == [instances.names[row] for row in rows]
    np.testing.assert_array_equal(part.masks, instances.masks[rows])
    np.testing.assert_array_equal(part.probabilities, instances.probabilities[rows])
    assert (part.height, part.width) == (HEIGHT, WIDTH)


def test_iteration_ends(instances):
    with pytest.raises(IndexError):
        instances[4]
    assert [one.names for one in instances] == [["dog"], ["person"], ["cat"], ["dog"]]


def test_above_keeps_the_threshold_itself(instances):
    assert instances.above(0.5).names == ["dog", "person", "dog"]
    assert len(instances.above(0.99)) == 0


def test_unequal_lengths_are_an_error(instances):
    with pytest.raises(ValueError, match="'names': 2"):
        replace(instances, names=["person", "dog"])
    with pytest.raises(ValueError, match="'probability_crops': 1"):
        replace(instances, probability_crops=instances.probability_crops[:1])


def test_rle_of_shared_crops(instances):
    shared = instances[[0, 0, 1, 2]]
    rles = shared.to_rle()
    for rle, mask in zip(rles, shared.masks, strict=True):
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle == {"size": [HEIGHT, WIDTH], "counts": expected["counts"].decode()}


def test_polygons_give_the_mask_back(instances):
    smooth = np.zeros((12, 20), bool)
    smooth[1:8, 2:9] = smooth[5:12, 7:18] = True
    smooth[0:3, 15:18] = True  # a second part
    one = replace(instances[0], crops=[Crop(25, 14, smooth)], probability_crops=None)
    [polygons] = one.to_polygons()
    assert len(polygons) == 2
    flat = [polygon.astype(float).ravel().tolist() for polygon in polygons]
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, HEIGHT, WIDTH)))
    np.testing.assert_array_equal(drawn.astype(bool), one.masks[0])
    assert instances[2].to_polygons() == [[]]


def test_supervision(instances):
    pytest.importorskip("supervision")
    detections = instances.to_supervision()
    assert type(detections).__name__ == "Detections"
    np.testing.assert_array_equal(detections.xyxy, instances.boxes)
    np.testing.assert_array_equal(detections.mask, instances.masks)
    np.testing.assert_array_equal(detections.confidence, instances.scores)
    np.testing.assert_array_equal(detections.class_id, instances.labels)
    assert detections["class_name"].tolist() == instances.names
    assert detections[detections.confidence > 0.6]["class_name"].tolist() == ["dog", "dog"]
    assert len(Instances.empty(HEIGHT, WIDTH).to_supervision()) == 0


def test_without_supervision_its_extra_is_named(instances, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'mask-frozen-detr\[supervision\]'"):
        instances.to_supervision()


CATEGORY_IDS = [
    (None, [2, 0, 1, 2], "class indices stand"),
    ([7, 8, 9], [9, 7, 8, 9], "by position"),
    ([7, None, 9], [9, 7, 9], "None leaves out"),
    ([7], [7], "classes beyond the list are left out"),
    ({2: 90, 1: 1}, [90, 1, 90], "by key"),
]


@pytest.mark.parametrize(("ids", "expected", "reason"), CATEGORY_IDS, ids=[row[-1] for row in CATEGORY_IDS])
def test_coco_categories(instances, ids, expected, reason):
    entries = instances.to_coco(11, ids)
    assert [entry["category_id"] for entry in entries] == expected, reason
    assert all(type(entry["category_id"]) is int for entry in entries)


def test_coco_entries(instances):
    entries = json.loads(json.dumps(instances.to_coco(11)))
    for entry, box, score, mask in zip(entries, instances.boxes, instances.scores, instances.masks, strict=True):
        assert set(entry) == {"image_id", "category_id", "bbox", "score", "segmentation"}
        assert entry["image_id"] == 11
        x, y, w, h = entry["bbox"]
        np.testing.assert_array_equal(np.array([x, y, x + w, y + h], np.float32), box)
        assert np.float32(entry["score"]) == score
        np.testing.assert_array_equal(rle_to_mask(entry["segmentation"]), mask)
    own = [np.float32(entry["score"]) for entry in instances.to_coco(11, class_scores=True)]
    assert own == instances.class_scores.tolist()


def test_coco_results_file_loads_and_scores(instances, tmp_path):
    """The truth against itself: AP 1 for masks and boxes."""
    truth = instances[[0, 1, 3]]
    boxes = truth.boxes.astype(float)
    data = {
        "images": [{"id": 11, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 90, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            entry | {"id": i + 1, "iscrowd": 0, "area": float(box[2:].prod()), "segmentation": entry["segmentation"]}
            for i, (entry, box) in enumerate(zip(truth.to_coco(11, [1, None, 90]), boxes, strict=True))
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(data))
    (tmp_path / "results.json").write_text(json.dumps(instances.to_coco(11, [1, None, 90])))
    coco = COCO(tmp_path / "truth.json")
    for kind in ("segm", "bbox"):
        evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)


def test_summary(instances):
    assert instances.summary() == "2 dog, 1 person, 1 cat"
    assert Instances.empty(HEIGHT, WIDTH).summary() == "no instance"


def test_empty():
    nothing = Instances.empty(HEIGHT, WIDTH)
    assert nothing.masks.shape == nothing.probabilities.shape == (0, HEIGHT, WIDTH)
    assert nothing.boxes.shape == (0, 4)
    assert nothing.to_coco(1) == nothing.to_rle() == nothing.to_polygons() == []
    assert len(nothing.above(0.0)) == 0
