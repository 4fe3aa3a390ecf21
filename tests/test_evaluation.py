"""Evaluation as a whole, with the detector of the demo; classes, and images that cannot be read."""

import json
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from coco_reference import reference
from pycocotools import mask as coco_mask
from torch.utils.data import get_worker_info

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.evaluation import (
    evaluate,
    results_files,
)
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.results.inference import segment


@pytest.fixture(scope="module")
def untrained(scene_detector) -> MaskFrozenDetr:
    torch.manual_seed(0)
    return MaskFrozenDetr.build(
        scene_detector, MaskNetworkConfig(image_layers=1, box_layers=1, mask_width=8, roi_size=8)
    )


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


def test_box_ap_is_the_detectors_own_whatever_the_masks(
    untrained, measured_baseline, scene_detector, scenes, scenes_folder
):
    with_masks = evaluate(untrained, scenes[1])
    assert with_masks.mask["AP"] != measured_baseline[0].mask["AP"]
    assert str(with_masks.box) == str(measured_baseline[0].box)  # as text: no nan equals another
    assert str(with_masks.box_by_class) == str(measured_baseline[0].box_by_class)
    truth = json.loads((scenes_folder / "annotations" / "instances_val2017.json").read_text())
    stats, _ = reference(truth, detector_alone(scene_detector, scenes[1]), "bbox")
    assert stats[0] > 0.3
    np.testing.assert_allclose(
        np.array(list(with_masks.box.values())) / 100, np.where(stats < 0, np.nan, stats), atol=1e-4
    )


def test_batches_and_loader_processes_change_nothing(baseline, measured_baseline, scenes):
    other = evaluate(baseline, scenes[1], batch=2, workers=1)
    for kind in ("box", "mask"):
        np.testing.assert_allclose(
            list(getattr(other, kind).values()), list(getattr(measured_baseline[0], kind).values()), atol=0.2
        )
    assert other.images == measured_baseline[0].images == 5


def test_the_results_files_are_coco_s(measured_baseline, scenes, scenes_folder):
    """Boxes and masks apart: `loadRes` takes each, and pycocotools gives the very figures from them."""
    evaluation, path = measured_baseline
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


def test_thresholds_and_counts(baseline, measured_baseline, scenes, tmp_path):
    def count(name: str) -> int:
        return len(json.loads((tmp_path / f"{name}.segm.json").read_text()))

    evaluate(baseline, scenes[1], max_detections=10, results_file=tmp_path / "ten.json")
    assert count("ten") == 50
    assert len(json.loads(results_files(measured_baseline[1])[1].read_text())) == 500
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


def test_classes_that_do_not_match_are_named_and_left_out(baseline, measured_baseline, scenes):
    names = {1: "disc", 2: "ring", 3: "unicorn", 4: "crescent", 5: "gnome", 6: "bolt"}
    found = evaluate(baseline, replace(scenes[1], categories=names))
    assert set(found.box_by_class) == {"disc", "ring", "crescent", "bolt"}
    for word in ("4 classes", "unicorn, gnome", "star, cross"):
        assert word in found.classes
    for name in ("disc", "ring", "crescent", "bolt"):
        for kind in ("box_by_class", "mask_by_class"):
            expected = getattr(measured_baseline[0], kind)[name]
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
    with pytest.raises(UserError, match=r"a process that works on pictures was killed.*fewer --workers") as told:
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
