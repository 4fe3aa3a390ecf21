"""Figures equal to those of pycocotools, whatever is found."""

import importlib.metadata
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_reference import H, W, found, mask_of, plain, reference
from PIL import Image
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.coco import Annotation, CocoData, ImageRecord
from mask_frozen_detr.evaluation import (
    METRICS,
    Evaluation,
    evaluate,
)
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.paste import Crop

CATEGORIES = {2: "small fry", 3: "thing", 7: "whale", 9: "never there"}


# --- parity ---


def ellipse(rng: np.random.Generator, centre: np.ndarray, radii: np.ndarray) -> list[float]:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * radii * rng.uniform(0.8, 1, (24, 1)) + centre
    return points.clip(0, [W - 0.5, H - 0.5]).ravel().tolist()


def synthetic(seed: int) -> tuple[CocoData, list[dict]]:
    """Random truth (polygons, RLE, crowds, images without any) and results: near misses, doubles, strays, ties."""
    rng = np.random.default_rng(seed)
    records, results = [], []
    identity = 0
    for image in range(1, 25):
        annotations = []
        for _ in range(0 if image % 6 == 0 else rng.integers(1, 9)):
            identity += 1
            category = int(rng.choice([2, 3, 7], p=[0.3, 0.5, 0.2]))
            radii = np.exp(rng.uniform(np.log(5), np.log(110), 2)) if category == 3 else np.full(2, 9.0 * category)
            polygon = ellipse(rng, rng.uniform(20, [W - 20, H - 20]), radii)
            rle, crowd = mask_of(polygon), bool(rng.random() < 0.15)
            x, y, w, h = map(float, coco_mask.toBbox(rle))
            area = float(coco_mask.area(rle))
            segmentation = rle if crowd or rng.random() < 0.4 else [polygon]
            annotations.append(Annotation(identity, category, (x, y, w, h), segmentation, crowd, area))
            for _ in range(rng.integers(0, 4)):  # found, found twice, or missed
                shift = rng.normal(0, 4, 2)
                other = (np.array(polygon).reshape(-1, 2) * rng.uniform(0.85, 1.15) + shift).clip(0, [W - 1, H - 1])
                results.append(found(rng, image, category if rng.random() < 0.9 else 3, other.ravel().tolist()))
        for _ in range(rng.integers(0, 6)):
            polygon = ellipse(rng, rng.uniform(20, [W - 20, H - 20]), rng.uniform(4, 60, 2))
            results.append(found(rng, image, int(rng.choice([2, 3, 7, 9])), polygon))
        records.append(ImageRecord(image, Path(f"{image}.jpg"), W, H, tuple(annotations)))
    return CocoData(Path("synthetic.json"), records, CATEGORIES, []), results


def built_truth(data: CocoData, kind: str) -> dict:
    """COCO's ground truth by hand: of masks, an object without one is a crowd on the pixels of its box."""
    annotations: list[dict[str, Any]] = []
    for record in data.images:
        for a in record.annotations:
            entry: dict[str, Any] = {"id": len(annotations) + 1, "image_id": record.id, "category_id": a.category_id}
            entry |= {"bbox": list(a.bbox), "area": a.area, "iscrowd": int(a.iscrowd)}
            if kind == "segm" and a.segmentation is None:
                x, y, w, h = a.bbox
                region = np.zeros((H, W), np.uint8, order="F")
                region[int(y) : math.ceil(y + h), int(x) : math.ceil(x + w)] = 1
                entry |= {"segmentation": plain(coco_mask.encode(region)), "iscrowd": 1}
            elif kind == "segm":
                entry["segmentation"] = plain(a.segmentation) if isinstance(a.segmentation, dict) else a.segmentation
            annotations.append(entry)
    images = [{"id": record.id, "width": W, "height": H} for record in data.images]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in data.categories.items()],
    }


def built_entries(found: list[dict], kind: str) -> list[dict]:
    """What COCO's server takes, by hand: boxes with the detector's score, masks without boxes."""
    if kind == "bbox":
        return [
            {"image_id": e["image_id"], "category_id": e["category_id"], "bbox": e["bbox"], "score": e["class_score"]}
            for e in found
        ]
    return [{key: e[key] for key in ("image_id", "category_id", "segmentation", "score")} for e in found]


def as_instances(entries: list[dict], class_of: dict[int, int], names: list[str]) -> Instances:
    """The entries of one image as the model would have found them, in their order."""
    boxes = np.array([e["bbox"] for e in entries], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([class_of[e["category_id"]] for e in entries], np.int64)
    return Instances(
        boxes=boxes,
        scores=np.array([e["score"] for e in entries], np.float32),
        class_scores=np.array([e["class_score"] for e in entries], np.float32),
        labels=labels,
        names=[names[label] for label in labels],
        crops=[Crop.of_mask(coco_mask.decode(e["segmentation"]).astype(bool)) for e in entries],
        height=H,
        width=W,
    )


@pytest.fixture
def canned(baseline, monkeypatch, tmp_path):
    """`evaluate` of results that are given: pictures are blank, and the model finds just these."""
    blank = tmp_path / "blank.png"
    Image.new("RGB", (W, H)).save(blank)
    names = list(CATEGORIES.values())
    class_of = {category: index for index, category in enumerate(CATEGORIES)}

    def run(data: CocoData, results: list[dict], **options: Any) -> Evaluation:
        info = replace(baseline.detector.info, class_names=names)
        monkeypatch.setattr(baseline.detector, "info", info)
        ids = iter([record.id for record in data.images])

        def found(_detector, _network, _pixels, _mask, sizes, *_options):
            return [
                as_instances([e for e in results if e["image_id"] == image], class_of, names)
                for image in [next(ids) for _ in sizes]
            ]

        monkeypatch.setattr("mask_frozen_detr.model.segment", found)
        images = [replace(record, path=blank) for record in data.images]
        return evaluate(baseline, replace(data, images=images), batch=6, **options)

    return run


def rounded(results: list[dict]) -> list[dict]:
    """Scores and boxes as float32 holds them: what the model gives."""
    return [
        entry
        | {key: float(np.float32(entry[key])) for key in ("score", "class_score")}
        | {"bbox": [float(np.float32(side)) for side in entry["bbox"]]}
        for entry in results
    ]


def without_masks(data: CocoData, every: int) -> CocoData:
    """Each `every`th object keeps its box alone."""
    images = [
        replace(
            record,
            annotations=tuple(
                replace(a, segmentation=None) if a.id % every == 0 and not a.iscrowd else a for a in record.annotations
            ),
        )
        for record in data.images
    ]
    return replace(data, images=images)


@pytest.mark.parametrize(("seed", "every"), [(0, 0), (1, 0), (2, 4)])
def test_all_figures_equal_pycocotools(seed, every, canned):
    """Of entries built by hand, masks without boxes; with `every`, some objects without a mask."""
    data, results = synthetic(seed)
    data = without_masks(data, every) if every else data
    results = rounded(results)
    measured = canned(data, results)
    assert measured.scorer.startswith("hotcoco")
    for kind, figures, by_class in (
        ("bbox", measured.box, measured.box_by_class),
        ("segm", measured.mask, measured.mask_by_class),
    ):
        stats, expected = reference(built_truth(data, kind), built_entries(results, kind), kind)
        assert list(figures) == list(METRICS)
        assert stats.min() > 0
        np.testing.assert_allclose(np.array(list(figures.values())) / 100, stats, rtol=0, atol=1e-6)
        assert by_class.keys() == expected.keys()
        np.testing.assert_allclose(
            np.array(list(by_class.values())) / 100, np.array(list(expected.values())), rtol=0, atol=1e-6
        )
        assert math.isnan(by_class["never there"])


def test_sizes_are_those_of_masks(canned):
    """With boxes in the entries, as a careless results file has them, the splits would be others."""
    data, results = synthetic(0)
    results = rounded(results)
    mask = canned(data, results).mask
    entries = [{key: e[key] for key in e if key != "class_score"} for e in results]
    by_box, _ = reference(built_truth(data, "segm"), entries, "segm")
    assert mask["AP"] == pytest.approx(100 * by_box[0], abs=1e-4)
    assert any(abs(mask[name] - 100 * by_box[k]) > 0.5 for k, name in ((3, "APs"), (4, "APm"), (5, "APl")))


def of_wrong_figures(monkeypatch) -> None:
    """hotcoco's only version that reads compressed masks wrongly."""
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0.0" if name == "hotcoco" else version(name))


@pytest.mark.parametrize(
    ("seed", "hide"),
    [
        (0, lambda monkeypatch: monkeypatch.setitem(sys.modules, "hotcoco", None)),
        (1, of_wrong_figures),
    ],
    ids=["missing", "1.0.0"],
)
def test_pycocotools_scores_where_hotcoco_is_missing_or_wrong(seed, hide, canned, monkeypatch):
    data, results = synthetic(seed)
    first = canned(data, rounded(results), max_detections=300)
    hide(monkeypatch)
    second = canned(data, rounded(results), max_detections=300)
    assert second.scorer.startswith("pycocotools")
    for name in ("box", "mask", "box_by_class", "mask_by_class"):
        assert getattr(second, name) == pytest.approx(getattr(first, name), abs=1e-4, nan_ok=True)
    assert canned(data, []).mask["AP"] == 0


def test_more_than_100_detections_are_counted(canned):
    """One image, 150 objects, all found: COCO's 100 would leave a third of them out."""
    rng = np.random.default_rng(0)
    annotations, results = [], []
    for k in range(150):
        x, y = 4.0 + 15 * (k % 20), 4.0 + 20 * (k // 20)
        polygon = [x, y, x + 10, y, x + 10, y + 10, x, y + 10]
        annotations.append(Annotation(k + 1, 3, (x, y, 10.0, 10.0), [polygon], False, 100.0))
        results.append(found(rng, 1, 3, polygon))
    data = CocoData(Path("dense.json"), [ImageRecord(1, Path("1.jpg"), W, H, tuple(annotations))], CATEGORIES, [])
    few, many = canned(data, results), canned(data, results, max_detections=300)
    assert few.mask["AR100"] == pytest.approx(100 * 100 / 150, abs=0.1)
    assert many.mask["AR300"] == many.mask["AP"] == pytest.approx(100)
    assert "AR300" in many.table()
    assert "AR100" not in many.table()
    assert "up to 300 detections each" in many.table()
    assert many.as_dict()["max_detections"] == 300


@pytest.mark.parametrize("shift", [0, 7])
def test_what_is_found_on_an_object_without_a_mask_is_not_punished(shift, canned):
    """Any mask within its box, even two; one that reaches far out of it is a false alarm, as a crowd's is."""
    rng = np.random.default_rng(0)

    def square(x: float, y: float, side: float) -> list[float]:
        return [x, y, x + side, y, x + side, y + side, x, y + side]

    known = Annotation(1, 3, (10.0, 10.0, 40.0, 40.0), [square(10, 10, 40)], False, 1600.0)
    unknown = Annotation(2, 3, (100.0, 100.0, 50.0, 50.0), None, False, 2500.0)
    data = CocoData(Path("x.json"), [ImageRecord(1, Path("1.jpg"), W, H, (known, unknown))], CATEGORIES, [])
    results = [found(rng, 1, 3, square(*place)) for place in ((10, 10, 40), (105, 105, 30), (100 - shift, 110, 20))]
    for entry, score in zip(results, (0.5, 0.9, 0.8), strict=True):
        entry["score"] = entry["class_score"] = score
    measured = canned(data, results)
    assert measured.mask["AP"] == pytest.approx(100) if not shift else measured.mask["AP"] < 90
    assert measured.mask["AR100"] == pytest.approx(100), "it is no object that could be missed"
    assert measured.box["AR100"] < 60, "as a box it is one"
    assert measured.left_out.objects_without_mask == 1
    assert "1 objects have a box and no mask" in measured.table()


def test_no_results_and_no_truth(canned):
    data, results = synthetic(0)
    nothing = canned(data, [])
    assert nothing.mask["AP"] == nothing.mask["AR100"] == 0
    assert nothing.mask_by_class["thing"] == 0
    bare = replace(data, images=[replace(record, annotations=()) for record in data.images])
    measured = canned(bare, results)
    assert all(math.isnan(value) for value in [*measured.mask.values(), *measured.mask_by_class.values()])
