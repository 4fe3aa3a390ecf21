"""Synthetic scenes, their COCO files, and the tiny detector that ships for them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torchvision.ops import box_iou
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from mask_frozen_detr.demo import scenes, train_scene_detector
from mask_frozen_detr.demo.scenes import CLASSES, SCENE_DETECTOR, render_scene, render_scenes
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.results.contours import encode_mask, trace_contours


@pytest.fixture(scope="module")
def rendered():
    return [render_scene((5, 9, index)) for index in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return render_scenes(tmp_path_factory.mktemp("data") / "scenes", train=8, val=4, seed=3)


def decode(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return coco_mask.decode(segmentation).astype(bool)


def test_a_scene_is_a_function_of_its_seed():
    (image, objects), (again, same) = render_scene(11), render_scene(11)
    assert image.tobytes() == again.tobytes()
    assert [kind for kind, _ in objects] == [kind for kind, _ in same]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(objects, same, strict=True))
    other, _ = render_scene(12)
    assert image.size != other.size or image.tobytes() != other.tobytes()


def test_masks_lie_in_the_image_and_share_no_pixel(rendered):
    for image, objects in rendered:
        assert all(scenes.SIDES[0] <= side <= scenes.SIDES[1] for side in image.size)
        assert 1 <= len(objects) <= scenes.OBJECTS[1]
        assert all(mask.shape == (image.height, image.width) and mask.dtype == bool for _, mask in objects)
        assert all(mask.sum() >= scenes.MIN_VISIBLE_PIXELS for _, mask in objects)
        assert sum(mask.astype(int) for _, mask in objects).max() == 1


def test_the_mask_is_where_the_shape_was_painted():
    """A disc is the one shape without surprises: its mask is an ellipse about the middle of its own box."""
    error = []
    for index in range(30):
        image, objects = render_scene((5, 9, index))
        kind, mask = objects[-1]  # the last one drawn is not covered
        left, top, right, bottom = train_scene_detector.mask_box(mask)
        cut = left == 0 or top == 0 or right == image.width or bottom == image.height
        if CLASSES[kind] == "disc" and not cut:
            rows, columns = np.nonzero(mask)
            error.append(abs(columns.mean() + 0.5 - (left + right) / 2))
            error.append(abs(rows.mean() + 0.5 - (top + bottom) / 2))
    assert len(error) >= 4
    assert max(error) < 0.35


def test_pixels_change_at_the_mask_border(rendered):
    """Picture and masks agree: the step across a mask's edge outweighs the steps between its inner pixels."""
    across, within = [], []
    for image, objects in rendered:
        pixels = np.asarray(image, dtype=float)
        step = np.abs(np.diff(pixels, axis=1)).sum(2)
        for _, mask in objects:
            edge = mask[:, 1:] != mask[:, :-1]
            inner = mask[:, 1:] & mask[:, :-1]
            across.append(step[edge].mean())
            within.append(step[inner].mean())
    assert np.mean(across) > 3 * np.mean(within)


def test_all_classes_holes_and_sizes_occur(rendered):
    kinds = [kind for _, objects in rendered for kind, _ in objects]
    assert set(kinds) == set(range(len(CLASSES)))
    holed = [
        len(trace_contours(mask)[1]) for _, objects in rendered for kind, mask in objects if CLASSES[kind] == "ring"
    ]
    assert np.mean([count > 0 for count in holed]) > 0.3  # the others are covered or leave the image
    areas = np.array([mask.sum() for _, objects in rendered for _, mask in objects])
    assert (areas < 32**2).mean() > 0.2
    assert (areas > 48**2).mean() > 0.1


@pytest.mark.parametrize(
    ("rows", "parts", "holes"),
    [
        (["#"], 1, 0),
        (["##", "##"], 1, 0),  # touches all four borders
        (["#.", ".#"], 2, 0),  # corners touch: two parts
        ([".#", "#."], 2, 0),
        (["###", "#.#", "###"], 1, 1),
        (["#####", "#...#", "#.#.#", "#...#", "#####"], 2, 1),  # an island in the hole
        (["####", "#.##", "##.#", "####"], 1, 1),  # two cut-outs touch at a corner: one hole
        (["##.##", "##.##"], 2, 0),
    ],
)
def test_contours_of_small_masks(rows, parts, holes):
    mask = np.array([[cell == "#" for cell in row] for row in rows])
    outer, found = trace_contours(mask)
    assert (len(outer), len(found)) == (parts, holes)
    segmentation = encode_mask(mask)
    assert isinstance(segmentation, dict) == (holes > 0)
    assert np.array_equal(decode(segmentation, *mask.shape), mask)


def test_segmentations_decode_to_the_rendered_masks(rendered):
    kinds = set()
    for image, objects in rendered:
        for _, mask in objects:
            segmentation = json.loads(json.dumps(encode_mask(mask)))
            kinds.add(type(segmentation))
            assert np.array_equal(decode(segmentation, image.height, image.width), mask)
    assert kinds == {list, dict}  # polygons and run lengths


def test_folder_has_cocos_layout(folder):
    seen_images: set[int] = set()
    for code, split, count in ((0, "train2017", 8), (1, "val2017", 4)):
        truth = COCO(folder / "annotations" / f"instances_{split}.json")
        assert [c["name"] for c in truth.dataset["categories"]] == list(CLASSES)
        assert len({c["id"] for c in truth.dataset["categories"]}) == len(CLASSES)
        identities = [a["id"] for a in truth.dataset["annotations"]]
        assert len(set(identities)) == len(identities)
        assert min(identities) >= 1  # COCOeval takes an id of 0 for "not matched"
        assert len(truth.imgs) == count
        assert seen_images.isdisjoint(truth.imgs)
        seen_images |= set(truth.imgs)
        assert sorted(path.name for path in (folder / split).iterdir()) == sorted(
            image["file_name"] for image in truth.dataset["images"]
        )
        for index, (identity, record) in enumerate(sorted(truth.imgs.items())):
            picture, objects = render_scene((3, code, index))
            with Image.open(folder / split / record["file_name"]) as stored:
                assert stored.size == (record["width"], record["height"]) == picture.size
                assert np.abs(np.asarray(stored, float) - np.asarray(picture, float)).mean() < 6
            annotations = truth.imgToAnns[identity]
            assert len(annotations) == len(objects)
            for annotation, (kind, mask) in zip(annotations, objects, strict=True):
                assert truth.cats[annotation["category_id"]]["name"] == CLASSES[kind]
                assert np.array_equal(truth.annToMask(annotation).astype(bool), mask)
                assert annotation["area"] == mask.sum()
                assert annotation["iscrowd"] == 0
                left, top, width, height = annotation["bbox"]
                assert [left, top, left + width, top + height] == list(train_scene_detector.mask_box(mask))


def test_seed_decides_the_files(folder, tmp_path):
    again = render_scenes(tmp_path / "again", train=8, val=4, seed=3)
    other = render_scenes(tmp_path / "other", train=8, val=4, seed=4)
    name = "annotations/instances_train2017.json"
    assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert (other / name).read_bytes() != (folder / name).read_bytes()


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def stop_at_third(seed):
        if seed[-1] == 2:
            raise KeyboardInterrupt
        return render_scene(seed)

    monkeypatch.setattr(scenes, "render_scene", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        render_scenes(tmp_path / "scenes", train=4, val=1)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_a_full_one_kept(tmp_path):
    render_scenes(tmp_path, train=1, val=1)
    (tmp_path / "annotations" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        render_scenes(tmp_path, train=1, val=1)
    assert (tmp_path / "annotations" / "note.txt").read_text() == "mine"
    with pytest.raises(UserError, match="val: found 0"):
        render_scenes(tmp_path / "none", train=1, val=0)


def test_the_shipped_detector_finds_the_larger_objects():
    """Measured when it was trained: see TRAINING.json."""
    model = AutoModelForObjectDetection.from_pretrained(SCENE_DETECTOR).eval()
    processor = AutoImageProcessor.from_pretrained(SCENE_DETECTOR)
    assert [model.config.id2label[k] for k in range(len(CLASSES))] == list(CLASSES)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(path.stat().st_size for path in SCENE_DETECTOR.iterdir()) <= 3 * 2**20

    hits = []
    for index in range(10):
        image, objects = render_scene((17, train_scene_detector.HELD_OUT_STREAM, index))
        with torch.no_grad():
            outputs = model(**processor(images=image, return_tensors="pt"))
        size = torch.tensor([[image.height, image.width]])
        found = processor.post_process_object_detection(outputs, threshold=0.3, target_sizes=size)[0]
        for kind, mask in objects:
            if mask.sum() >= 32**2:
                box = torch.tensor([train_scene_detector.mask_box(mask)], dtype=torch.float32)
                right_class = found["boxes"][found["labels"] == kind]
                hits.append(bool((box_iou(box, right_class) >= 0.5).any()))
    assert len(hits) >= 15
    assert np.mean(hits) >= 0.85


@pytest.fixture
def tiny() -> train_scene_detector.Schedule:
    return train_scene_detector.Schedule(seed=1, steps=2, batch=2, warmup=1, held_out=1)


@pytest.mark.slow
def test_detector_training_goes_on_where_it_stopped(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(train_scene_detector, "SAVE_EVERY", 1)
    whole, _ = train_scene_detector.train(tiny)
    step = train_scene_detector.training_batch

    def break_at_second(seed, number, batch):
        if number == 1:
            raise KeyboardInterrupt
        return step(seed, number, batch)

    monkeypatch.setattr(train_scene_detector, "training_batch", break_at_second)
    with pytest.raises(KeyboardInterrupt):
        train_scene_detector.train(tiny, tmp_path / "run.pt")
    monkeypatch.setattr(train_scene_detector, "training_batch", step)
    resumed, _ = train_scene_detector.train(tiny, tmp_path / "run.pt")
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    start = train_scene_detector.build_detector(tiny.seed).state_dict()
    assert any(not torch.equal(value, start[key]) for key, value in whole.state_dict().items())
    with pytest.raises(UserError, match="belongs to the schedule"):
        train_scene_detector.train(train_scene_detector.Schedule(steps=3), tmp_path / "run.pt")


def test_detector_round_trip(tmp_path):
    model = train_scene_detector.build_detector(0).eval()
    reloaded, processor = train_scene_detector.save(model, tmp_path)
    image, _ = render_scene(7)
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels[0], train_scene_detector.to_pixels(image), atol=2 / 255)  # training saw the same
    model.load_state_dict({key: value.half().to(value.dtype) for key, value in model.state_dict().items()})
    with torch.no_grad():
        expected, found = model(pixels), reloaded(pixels)
    assert torch.equal(expected.logits, found.logits)
    assert torch.equal(expected.pred_boxes, found.pred_boxes)
