"""COCO's figures: those of pycocotools to the last digit, box AP that no mask can change, memory that stays flat."""

import contextlib
import io
import json
import math
import os
import signal
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils.data import get_worker_info

from mask_frozen_detr import MaskFrozenDetr, UserError, load_detector
from mask_frozen_detr.data.coco import Annotation, CocoData, ImageRecord, Skipped
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.demo.scenes import SCENE_DETECTOR
from mask_frozen_detr.evaluation import (
    METRICS,
    Evaluation,
    check_evaluation_file,
    evaluate,
    read_evaluation,
    results_files,
    write_evaluation,
)
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.results.inference import segment
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.results.scoring import scorer_name

H, W = 240, 320
CATEGORIES = {2: "small fry", 3: "thing", 7: "whale", 9: "never there"}


# --- parity ---


def ellipse(rng: np.random.Generator, centre: np.ndarray, radii: np.ndarray) -> list[float]:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * radii * rng.uniform(0.8, 1, (24, 1)) + centre
    return points.clip(0, [W - 0.5, H - 0.5]).ravel().tolist()


def mask_of(polygon: list[float]) -> dict:
    return coco_mask.frPyObjects([polygon], H, W)[0]


def plain(rle: dict) -> dict:
    return {"size": rle["size"], "counts": rle["counts"].decode()}


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


def found(rng: np.random.Generator, image: int, category: int, polygon: list[float]) -> dict:
    rle = mask_of(polygon)
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [float(side) for side in coco_mask.toBbox(rle)],
        "score": float(rng.choice([0.5, rng.random()], p=[0.1, 0.9])),
        "class_score": float(rng.random()),
        "segmentation": plain(rle),
    }


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


def reference(truth: dict, results: list[dict], kind: str) -> tuple[np.ndarray, dict[str, float]]:
    """pycocotools' 12 figures and AP by class."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = json.loads(json.dumps(truth))
        ground.createIndex()
        scorer = COCOeval(ground, ground.loadRes(json.loads(json.dumps(results))), kind)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    names = {category["id"]: category["name"] for category in truth["categories"]}
    by_class = {}
    for k, category in enumerate(scorer.params.catIds):
        values = scorer.eval["precision"][:, :, k, 0, -1]
        by_class[names[category]] = float(values[values > -1].mean()) if (values > -1).any() else math.nan
    return scorer.stats, by_class


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


@pytest.mark.parametrize("seed", [0, 1])
def test_pycocotools_scores_where_hotcoco_is_missing(seed, canned, monkeypatch):
    data, results = synthetic(seed)
    first = canned(data, rounded(results), max_detections=300)
    monkeypatch.setitem(sys.modules, "hotcoco", None)
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


# --- the whole, with the detector of the demo ---


@pytest.fixture(scope="module")
def scene_detector():
    return load_detector(str(SCENE_DETECTOR))


@pytest.fixture(scope="module")
def untrained(scene_detector) -> MaskFrozenDetr:
    torch.manual_seed(0)
    return MaskFrozenDetr.build(
        scene_detector, MaskNetworkConfig(image_layers=1, box_layers=1, mask_width=8, roi_size=8)
    )


@pytest.fixture(scope="module")
def baseline(scene_detector) -> MaskFrozenDetr:
    return MaskFrozenDetr.training_free(scene_detector)


@pytest.fixture(scope="module")
def measured(baseline, scenes, tmp_path_factory) -> tuple[Evaluation, Path]:
    """The baseline's figures and results file."""
    path = tmp_path_factory.mktemp("results") / "results.json"
    return evaluate(baseline, scenes[1], results_file=path), path


def detector_alone(detector, data: CocoData) -> list[dict]:
    """The 100 best (query, class) pairs of each image: what a detector is evaluated by without any of our code."""
    results = []
    for record in data.images:
        pixels = detector.info.preprocessing(read_image(record.path))[None]
        output = detector.model(pixel_values=pixels)
        scores, pairs = output.logits[0].sigmoid().flatten().topk(100)
        classes = output.logits.shape[2]
        for score, pair in zip(scores.tolist(), pairs.tolist(), strict=True):
            cx, cy, w, h = output.pred_boxes[0, pair // classes].tolist()
            box = [(cx - w / 2) * record.width, (cy - h / 2) * record.height, w * record.width, h * record.height]
            category = pair % classes + 1
            results.append({"image_id": record.id, "category_id": category, "bbox": box, "score": score})
    return results


def test_box_ap_is_the_detectors_own_whatever_the_masks(untrained, measured, scene_detector, scenes, scenes_folder):
    with_masks = evaluate(untrained, scenes[1])
    assert with_masks.mask["AP"] != measured[0].mask["AP"]
    assert str(with_masks.box) == str(measured[0].box)  # as text: no nan equals another
    assert str(with_masks.box_by_class) == str(measured[0].box_by_class)
    truth = json.loads((scenes_folder / "annotations" / "instances_val2017.json").read_text())
    stats, _ = reference(truth, detector_alone(scene_detector, scenes[1]), "bbox")
    assert stats[0] > 0.3
    np.testing.assert_allclose(
        np.array(list(with_masks.box.values())) / 100, np.where(stats < 0, np.nan, stats), atol=1e-4
    )


def test_batches_and_loader_processes_change_nothing(baseline, measured, scenes):
    other = evaluate(baseline, scenes[1], batch=2, workers=1)
    for kind in ("box", "mask"):
        np.testing.assert_allclose(
            list(getattr(other, kind).values()), list(getattr(measured[0], kind).values()), atol=0.2
        )
    assert other.images == measured[0].images == 5


def test_the_results_files_are_coco_s(measured, scenes, scenes_folder):
    """Boxes and masks apart: `loadRes` takes each, and pycocotools gives the very figures from them."""
    evaluation, path = measured
    truth = json.loads((scenes_folder / "annotations" / "instances_val2017.json").read_text())
    boxes, masks = (json.loads(file.read_text()) for file in results_files(path))
    assert [file.name for file in results_files(path)] == ["results.bbox.json", "results.segm.json"]
    assert not path.exists()
    for results, kind, key, figures in (
        (boxes, "bbox", "bbox", evaluation.box),
        (masks, "segm", "segmentation", evaluation.mask),
    ):
        assert {tuple(sorted(entry)) for entry in results} == {tuple(sorted(["category_id", "image_id", "score", key]))}
        assert {entry["image_id"] for entry in results} == {record.id for record in scenes[1].images}
        assert {entry["category_id"] for entry in results} <= set(scenes[1].categories)
        stats, _ = reference(truth, results, kind)
        assert stats[0] > 0.005
        np.testing.assert_allclose(list(figures.values()), np.where(stats < 0, np.nan, 100 * stats), atol=1e-4)
    for box, mask in list(zip(boxes, masks, strict=True))[:20]:
        x, y, w, h = box["bbox"]
        rows, columns = np.nonzero(coco_mask.decode(mask["segmentation"]))
        if len(rows):  # masks lie in their boxes
            assert x - 1 <= columns.min() <= columns.max() <= x + w
            assert y - 1 <= rows.min() <= rows.max() <= y + h


def test_results_files_replace_nothing_foreign(baseline, scenes, tmp_path):
    data = replace(scenes[1], images=scenes[1].images[:1])
    for _ in range(2):  # its own are
        evaluate(baseline, data, results_file=tmp_path / "r.json")
    foreign = tmp_path / "x.segm.json"
    foreign.write_text('{"images": []}')
    with pytest.raises(UserError, match=r"x\.segm\.json: is there already and was not written by `evaluate`"):
        evaluate(baseline, data, results_file=tmp_path / "x.json")
    assert foreign.read_text() == '{"images": []}'
    assert not (tmp_path / "x.bbox.json").exists()


def test_thresholds_and_counts(baseline, measured, scenes, tmp_path):
    def count(name: str) -> int:
        return len(json.loads((tmp_path / f"{name}.segm.json").read_text()))

    evaluate(baseline, scenes[1], max_detections=10, results_file=tmp_path / "ten.json")
    assert count("ten") == 50
    assert len(json.loads(results_files(measured[1])[1].read_text())) == 500
    evaluate(baseline, scenes[1], score_threshold=0.5, results_file=tmp_path / "sure.json")
    assert 0 < count("sure") < 100


@pytest.mark.parametrize(
    "options", [{"score_threshold": math.nan}, {"score_threshold": 1.5}, {"score_threshold": -1}, {"max_detections": 0}]
)
def test_thresholds_without_sense(options, baseline, scenes):
    with pytest.raises(UserError, match=f"{next(iter(options))}: found .*expected"):
        evaluate(baseline, scenes[1], **options)


def test_other_weights_make_other_masks_and_a_training_goes_on(untrained, scenes):
    data = replace(scenes[1], images=scenes[1].images[:2])
    other = MaskFrozenDetr.build(untrained.detector, untrained.network.config)
    untrained.network.train()
    first, second = evaluate(untrained, data), evaluate(other, data)
    assert untrained.network.training, "as it was"
    assert str(first.box) == str(second.box)
    assert str(first.mask) != str(second.mask)
    untrained.network.eval()


# --- classes ---


def test_classes_that_do_not_match_are_named_and_left_out(baseline, measured, scenes):
    names = {1: "disc", 2: "ring", 3: "unicorn", 4: "crescent", 5: "gnome", 6: "bolt"}
    found = evaluate(baseline, replace(scenes[1], categories=names))
    assert set(found.box_by_class) == {"disc", "ring", "crescent", "bolt"}
    for word in ("4 classes", "unicorn, gnome", "star, cross"):
        assert word in found.classes
    for name in ("disc", "ring", "crescent", "bolt"):
        for kind in ("box_by_class", "mask_by_class"):
            expected = getattr(measured[0], kind)[name]
            assert getattr(found, kind)[name] == pytest.approx(expected, nan_ok=True)
    values = [value for value in found.mask_by_class.values() if not math.isnan(value)]
    assert found.mask["AP"] == pytest.approx(np.mean(values))


def test_nothing_in_common(baseline, scenes):
    with pytest.raises(UserError, match=r"instances_val2017\.json: no category of the data is a class"):
        evaluate(baseline, replace(scenes[1], categories={1: "unicorn"}))


# --- images that cannot be read, data without truth ---


def test_unreadable_images_are_named_and_left_out(baseline, scenes, tmp_path):
    broken = tmp_path / "cut.jpg"
    broken.write_bytes(scenes[1].images[1].path.read_bytes()[:-2500])
    images = list(scenes[1].images)
    images[1] = replace(images[1], path=broken)
    images[3] = replace(images[3], path=tmp_path / "gone.jpg")
    found = evaluate(baseline, replace(scenes[1], images=images), batch=2)
    assert found.images == 3
    assert len(found.problems) == 2
    assert str(broken) in found.problems[0]
    assert "gone.jpg" in found.problems[1]
    rest = evaluate(baseline, replace(scenes[1], images=[images[0], images[2], images[4]]))
    assert found.box["AP"] == pytest.approx(rest.box["AP"], abs=0.2)
    assert found.mask["AP"] == pytest.approx(rest.mask["AP"], abs=0.5)


@pytest.mark.parametrize("what", ["pre-processing", "segmenting", "memory"])
def test_whatever_fails_on_an_image_is_one_line(what, baseline, scenes, monkeypatch):
    """The others of its batch are measured."""
    bad = scenes[1].images[2]
    error: Exception = MemoryError() if what == "memory" else RuntimeError("height and width must be > 0\nat line 3")
    if what == "segmenting":
        real = segment

        def fail(detector, network, pixels, mask, sizes, *options):
            if (bad.height, bad.width) in sizes:
                raise error
            return real(detector, network, pixels, mask, sizes, *options)

        images = [replace(r, annotations=()) if r is not bad else r for r in scenes[1].images]
        sizes = [(r.height, r.width) for r in images]
        assert sizes.count((bad.height, bad.width)) < 5
        monkeypatch.setattr("mask_frozen_detr.model.segment", fail)
    else:
        target = type(baseline.detector.info.preprocessing)
        real_call, calls = target.__call__, iter(range(5))

        def fail_once(self, image, resize=True):
            if next(calls) == 2:
                raise error
            return real_call(self, image, resize)

        monkeypatch.setattr(target, "__call__", fail_once)
    measured = evaluate(baseline, scenes[1], batch=5)
    lost = [record for record in scenes[1].images if str(record.path) in " ".join(measured.problems)]
    assert bad in lost
    assert measured.images == 5 - len(lost) > 0
    assert all(len(problem.splitlines()) == 1 for problem in measured.problems)
    assert ("not enough memory" if what == "memory" else "RuntimeError: height and width") in measured.problems[0]


def test_a_loading_process_that_is_killed_is_one_line(baseline, scenes, monkeypatch):
    """The system does that where its memory is full; what was being loaded is named."""
    target = type(baseline.detector.info.preprocessing)
    real_call, calls = target.__call__, iter(range(5))

    def be_killed(self, image, resize=True):
        if get_worker_info() is not None and next(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return real_call(self, image, resize)

    monkeypatch.setattr(target, "__call__", be_killed)
    with pytest.raises(UserError, match=r"a process that loads pictures was killed.*fewer --workers") as told:
        evaluate(baseline, scenes[1], workers=1)
    assert str(told.value).startswith(str(scenes[1].images[2].path))
    assert "\n" not in str(told.value)


def test_an_interruption_is_no_bad_image(baseline, scenes, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("mask_frozen_detr.model.segment", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(baseline, scenes[1])


def test_scores_that_are_no_numbers_are_told(baseline, scenes):
    head = [p for n, p in baseline.detector.model.named_parameters() if "class_embed" in n and n.endswith("bias")]
    kept = [p.detach().clone() for p in head]
    for p in head:
        p.fill_(math.nan)
    try:
        with pytest.raises(UserError, match=r"not one image can be read.*class scores are not numbers"):
            evaluate(baseline, scenes[1])
    finally:
        for p, value in zip(head, kept, strict=True):
            p.copy_(value)


def test_not_one_readable_image(baseline, scenes, tmp_path):
    images = [replace(record, path=tmp_path / f"gone-{record.id}.jpg") for record in scenes[1].images]
    with pytest.raises(UserError, match=r"instances_val2017\.json: not one image can be read.*gone-"):
        evaluate(baseline, replace(scenes[1], images=images), results_file=tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()


def test_data_without_truth_still_gives_a_results_file(baseline, scenes, tmp_path):
    """As COCO's test-dev, which the server scores."""
    bare = replace(scenes[1], images=[replace(record, annotations=()) for record in scenes[1].images[:2]])
    found = evaluate(baseline, bare, results_file=tmp_path / "results.json")
    assert all(math.isnan(value) for value in found.mask.values())
    assert all(len(json.loads(file.read_text())) == 200 for file in results_files(tmp_path / "results.json"))
    assert set(found.table().split("\n")[2].split()[1:]) == {"-"}


# --- what is shown and written ---


def test_json_and_table(measured, tmp_path):
    evaluation = measured[0]
    path = tmp_path / "val.json"
    write_evaluation(path, evaluation, model="runs/femto", split="val")
    saved = json.loads(path.read_text())
    assert set(saved) == {
        *("model", "split", "format", "box", "mask", "by_class", "images", "images_in_all", "left_out", "seconds"),
        *("categories_without_class", "classes", "problems", "max_detections", "score_threshold", "scorer"),
        "supervision",
    }
    assert list(saved["box"]) == list(saved["mask"]) == list(METRICS)
    assert saved["box"]["APl"] is None, "no object is as large: null, for JSON has no nan"
    assert saved["mask"]["AP"] == pytest.approx(evaluation.mask["AP"], abs=1e-4)
    assert set(saved["by_class"]) == set(evaluation.box_by_class)
    assert set(saved["by_class"]["disc"]) == {"box", "mask"}
    again = read_evaluation(path)
    assert again.as_dict() == evaluation.as_dict()
    table = evaluation.table(by_class=True)
    assert f"{evaluation.mask['AP']:.1f}" in table
    assert "crescent" in table
    assert "crescent" not in evaluation.table()
    assert evaluation.table().splitlines()[3:] == ["AP over 5 of 5 images"]
    assert (saved["images"], saved["images_in_all"], saved["scorer"]) == (5, 5, scorer_name())


def test_evaluations_of_older_versions_are_read(measured, tmp_path):
    path = tmp_path / "evaluation-3.json"
    old = {key: measured[0].as_dict()[key] for key in ("box", "mask", "by_class", "images", "seconds", "classes")}
    path.write_text(json.dumps({"step": 3, **old, "problems": []}))
    again = read_evaluation(path)
    assert again.mask == pytest.approx(measured[0].mask, abs=1e-4, nan_ok=True)
    assert (again.format, again.images_in_all) == (1, None)
    assert "mask" in again.table()


def test_an_annotation_file_is_not_replaced_by_figures(measured, scenes_folder, tmp_path):
    path = tmp_path / "instances_val2017.json"
    content = (scenes_folder / "annotations" / path.name).read_bytes()
    path.write_bytes(content)
    for write in (check_evaluation_file, lambda place: write_evaluation(place, measured[0])):
        with pytest.raises(UserError, match="is there already and holds no evaluation"):
            write(path)
    assert path.read_bytes() == content


def test_what_is_left_out_is_told(baseline, scenes, tmp_path):
    """In the table and in JSON: missing and unreadable images, broken annotations, categories without a class."""
    images = list(scenes[1].images)
    images[1] = replace(images[1], path=tmp_path / "gone.jpg")
    skipped = [
        Skipped("val.json, image 77 (x.jpg)", "image file is missing: not in val2017, 3 annotations dropped with it"),
        Skipped("val.json, annotation 5", "polygon with fewer than 3 points: part 0 has 1"),
        Skipped("val.json, annotation 6", "polygon with fewer than 3 points: part 0 has 2"),
    ]
    names = scenes[1].categories | {6: "\x1b[31mgnome"}
    measured = evaluate(baseline, replace(scenes[1], images=images, skipped=skipped, categories=names))
    table = measured.table()
    for words in (
        "AP over 4 of 6 images",
        "left out: 1 images are missing",
        "left out: 1 images cannot be used",
        "left out: 2 annotations are broken: polygon with fewer than 3 points",
        "annotations are of categories that the detector lacks",
        "?[31mgnome",
    ):
        assert words in table
    assert "\x1b" not in table
    saved = measured.as_dict()
    assert (saved["images"], saved["images_in_all"]) == (4, 6)
    assert saved["left_out"]["missing_images"] == saved["left_out"]["unreadable_images"] == 1
    assert saved["left_out"]["broken_annotations"] == {"polygon with fewer than 3 points": 2}
    of_class = [a for i, r in enumerate(images) if i != 1 for a in r.annotations if a.category_id == 6]
    assert saved["left_out"]["annotations_without_class"] == len(of_class) > 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"box": 1}', "nothing"])
def test_a_damaged_evaluation_is_a_clear_error(text, tmp_path):
    path = tmp_path / "evaluation-3.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"evaluation-3\.json: is no evaluation"):
        read_evaluation(path)


def test_nothing_is_printed(baseline, scenes, capfd):
    """hotcoco prints tables of its own."""
    evaluate(baseline, replace(scenes[1], images=scenes[1].images[:1]))
    shown = capfd.readouterr()
    assert shown.out == ""


# --- memory ---


def peak(work: Callable[[], object]) -> float:
    """Of what numpy and Python hold while `work` runs, megabytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_images_nor_hold_full_masks(squashing, tiny_network, scenes, tmp_path):
    """Images of 6 megapixels: a stack of one's 60 masks would be 360 MB, of 20 queries' probabilities 480 MB."""
    side_h, side_w = 2000, 3000
    Image.new("RGB", (side_w, side_h), (90, 120, 150)).save(tmp_path / "large.jpg")
    model = MaskFrozenDetr.build(squashing, tiny_network)

    def of(images: int) -> CocoData:
        records = [
            ImageRecord(k, tmp_path / "large.jpg", side_w, side_h, scenes[1].images[0].annotations)
            for k in range(images)
        ]
        return replace(scenes[1], images=records)

    two = peak(lambda: evaluate(model, of(2)))
    four = peak(lambda: evaluate(model, of(4)))
    assert two < 10 * side_h * side_w / 2**20, "half of a bool stack of one mask a query"
    assert four - two < 0.1 * two
