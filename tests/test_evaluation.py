"""COCO's figures: those of pycocotools to the last digit, box AP that no mask can change, memory that stays flat."""

import contextlib
import io
import json
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_frozen_detr import MaskFrozenDetr, UserError, load_detector
from mask_frozen_detr.data.classes import map_classes
from mask_frozen_detr.data.coco import Annotation, CocoData, ImageRecord
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.demo.scenes import SCENE_DETECTOR
from mask_frozen_detr.evaluation import (
    METRICS,
    Evaluation,
    _as_boxes,
    _score,
    _truth,
    evaluate,
    read_evaluation,
    write_evaluation,
)
from mask_frozen_detr.network import MaskNetworkConfig

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
            box = tuple(float(side) for side in coco_mask.toBbox(rle))
            area = float(coco_mask.area(rle))
            segmentation = rle if crowd or rng.random() < 0.4 else [polygon]
            annotations.append(Annotation(identity, category, box, segmentation, crowd, area))
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


@pytest.mark.parametrize("seed", range(3))
def test_all_figures_equal_pycocotools(seed):
    data, results = synthetic(seed)
    truth = _truth(data, map_classes(list(CATEGORIES.values()), CATEGORIES), set())
    assert any(annotation["iscrowd"] for annotation in truth["annotations"])
    for kind, entries in (("bbox", _as_boxes(results)), ("segm", results)):
        figures, by_class = _score(truth, entries, kind)
        stats, expected = reference(truth, entries, kind)
        assert list(figures) == list(METRICS)
        assert stats.min() > 0
        np.testing.assert_allclose(np.array(list(figures.values())) / 100, stats, rtol=0, atol=1e-6)
        assert by_class.keys() == expected.keys()
        np.testing.assert_allclose(
            np.array(list(by_class.values())) / 100, np.array(list(expected.values())), rtol=0, atol=1e-6
        )
        assert math.isnan(by_class["never there"])


def test_boxes_and_masks_are_ranked_by_their_own_scores():
    _, results = synthetic(0)
    assert [entry["score"] for entry in _as_boxes(results)] == [entry["class_score"] for entry in results]
    assert not any("segmentation" in entry for entry in _as_boxes(results))


def test_no_results_and_no_truth():
    data, results = synthetic(0)
    classes = map_classes(list(CATEGORIES.values()), CATEGORIES)
    figures, by_class = _score(_truth(data, classes, set()), [], "segm")
    assert figures["AP"] == figures["AR100"] == 0
    assert by_class["thing"] == 0
    bare = replace(data, images=[replace(record, annotations=()) for record in data.images])
    figures, by_class = _score(_truth(bare, classes, set()), results, "segm")
    assert all(math.isnan(value) for value in [*figures.values(), *by_class.values()])


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


def test_box_ap_is_the_detectors_own_whatever_the_masks(untrained, measured, scene_detector, scenes):
    with_masks = evaluate(untrained, scenes[1])
    assert with_masks.mask["AP"] != measured[0].mask["AP"]
    assert str(with_masks.box) == str(measured[0].box)  # as text: no nan equals another
    assert str(with_masks.box_by_class) == str(measured[0].box_by_class)
    data = scenes[1]
    truth = _truth(data, map_classes(scene_detector.info.class_names, data.categories), set())
    stats, _ = reference(truth, detector_alone(scene_detector, data), "bbox")
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


def test_the_results_file_is_coco_s(measured, scenes, scenes_folder):
    evaluation, path = measured
    results = json.loads(path.read_text())
    assert {tuple(sorted(entry)) for entry in results} == {("bbox", "category_id", "image_id", "score", "segmentation")}
    assert {entry["image_id"] for entry in results} == {record.id for record in scenes[1].images}
    assert {entry["category_id"] for entry in results} <= set(scenes[1].categories)
    truth = json.loads((scenes_folder / "annotations" / "instances_val2017.json").read_text())
    stats, by_class = reference(truth, results, "segm")  # `loadRes` takes it, and gives the same figures
    assert stats[0] > 0.005
    np.testing.assert_allclose(list(evaluation.mask.values()), np.where(stats < 0, np.nan, 100 * stats), atol=1e-4)
    np.testing.assert_allclose(
        [evaluation.mask_by_class[name] / 100 for name in by_class], list(by_class.values()), atol=1e-6
    )
    for entry in results[:20]:
        x, y, w, h = entry["bbox"]
        mask = coco_mask.decode(entry["segmentation"])
        rows, columns = np.nonzero(mask)
        if len(rows):  # masks lie in their boxes
            assert x - 1 <= columns.min() <= columns.max() <= x + w
            assert y - 1 <= rows.min() <= rows.max() <= y + h


def test_thresholds_and_counts(baseline, measured, scenes, tmp_path):
    everything = json.loads(measured[1].read_text())
    evaluate(baseline, scenes[1], max_detections=10, results_file=tmp_path / "ten.json")
    ten = json.loads((tmp_path / "ten.json").read_text())
    assert len(ten) == 50
    assert len(everything) == 500
    evaluate(baseline, scenes[1], score_threshold=0.5, results_file=tmp_path / "sure.json")
    assert 0 < len(json.loads((tmp_path / "sure.json").read_text())) < 100


def test_other_weights_in_the_networks_place(untrained, scenes):
    data = replace(scenes[1], images=scenes[1].images[:2])
    other = MaskFrozenDetr.build(untrained.detector, untrained.network.config)
    untrained.network.train()
    first, second = evaluate(untrained, data), evaluate(untrained, data, network=other.network)
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
    assert len(json.loads((tmp_path / "results.json").read_text())) == 200
    assert set(found.table().split("\n")[2].split()[1:]) == {"-"}


# --- what is shown and written ---


def test_json_and_table(measured, tmp_path):
    evaluation = measured[0]
    path = tmp_path / "val.json"
    write_evaluation(path, evaluation, model="runs/femto", split="val")
    saved = json.loads(path.read_text())
    assert set(saved) == {
        "model", "split", "box", "mask", "by_class", "images", "seconds", "classes", "problems"
    }  # fmt: skip
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
    assert len(evaluation.table().splitlines()) == 3


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
