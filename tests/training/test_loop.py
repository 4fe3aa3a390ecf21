"""The training loop: what learns and what stays, one step's losses, several processes, evaluation on the way."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folders import read_metrics
from narrow import gradient
from nursery import NURSERY, free_port, run_main
from safetensors.torch import load_file
from tiny_detectors import build_squashing_detector
from tiny_training import CONFIG, build

from mask_frozen_detr import MaskFrozenDetr, UserError, load_detector
from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.data.formats.coco import read_coco
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.demo.scenes import SCENE_DETECTOR
from mask_frozen_detr.detectors.base import hash_weights
from mask_frozen_detr.evaluation import evaluate
from mask_frozen_detr.model import WEIGHTS_FILE
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.training import run_folder
from mask_frozen_detr.training.config import AugmentConfig, LossConfig
from mask_frozen_detr.training.loop import train
from mask_frozen_detr.training.matching import Matcher
from mask_frozen_detr.training.samples import TrainingData, collate, no_targets
from mask_frozen_detr.training.step import step_losses


def samples(detector, data: CocoData, count: int, augment: AugmentConfig | None = None) -> list:
    """The first images as training samples, not augmented."""
    augment = augment or AugmentConfig(flip=False, multi_scale=False, crop=False)
    images = TrainingData(data, classes_of(data, detector.info.class_names), detector.info.preprocessing, augment, 0)
    return [images[index, index] for index in range(count)]


def losses_and_gradients(model: MaskFrozenDetr, pieces: list[list]) -> tuple[float, list[torch.Tensor]]:
    """Of the sum over `pieces`, each a forward pass of its own."""
    matcher = Matcher(model.detector.info.costs, model.detector.info.score_rule)
    config = LossConfig(sampled_points=False)
    model.network.zero_grad()
    total = 0.0
    for piece in pieces:
        found = step_losses(model, matcher, collate(piece), config, 0)
        loss = found["bce"] + found["dice"] + found["iou"]
        loss.backward()
        total += loss.item()
    return total, [gradient(parameter).clone() for parameter in model.network.parameters()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"query_o2o": True},
        {"head": "segmenter", "query_o2o": True},
        {"mask_scoring": False, "query_b2o": False},
        {"box_encoder": "convnext"},
        {"stem_from": "pixels"},
    ],
    ids=str,
)
def test_without_a_match_every_parameter_still_has_a_gradient(options, squashing, scenes, tiny_network):
    """Or the other processes of a run would wait for it: a gradient of zeros, and losses of 0."""
    model = build(squashing, replace(tiny_network, **options))
    batch = collate([replace(sample, targets=no_targets()) for sample in samples(squashing, scenes[0], 2)])
    matcher = Matcher(squashing.info.costs, squashing.info.score_rule)
    losses = step_losses(model, matcher, batch, LossConfig(), 0)
    total = torch.stack([losses[key] for key in ("bce", "dice", "iou") if key in losses]).sum()
    total.backward()
    assert total.item() == 0
    for name, parameter in model.network.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


# --- the detector stays as it is ---


@pytest.mark.parametrize("kind", ["squashing", "padding"])
def test_the_detector_is_bit_identical_and_not_saved(kind, request, scenes, tiny_network, tmp_path, monkeypatch):
    detector = request.getfixturevalue(kind)
    model = build(detector, tiny_network)
    before = hash_weights(detector.model)
    network_before = hash_weights(model.network)
    config = replace(CONFIG, augment=AugmentConfig(multi_scale=False), checkpoint_every=1)
    saved: list[dict] = []
    original = run_folder.save_checkpoint

    def note(path: Path, one: dict) -> None:
        saved.append(one)
        original(path, one)

    monkeypatch.setattr(run_folder, "save_checkpoint", note)
    train(model, scenes[0], None, tmp_path, config, quiet=True)
    assert hash_weights(detector.model) == before
    assert hash_weights(model.network) != network_before
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in detector.parameters())
    assert not any(module.training for module in detector.modules())
    expected = set(model.network.state_dict())
    assert set(load_file(tmp_path / WEIGHTS_FILE)) == expected
    assert saved
    assert all(set(state["learned"]) == {f"network.{key}" for key in expected} for state in saved)
    trained = sum(parameter.numel() for parameter in model.network.parameters())
    kept = saved[-1]["optimizer"]["state"].values()
    assert sum(entry["exp_avg"].numel() for entry in kept) == trained


# --- it learns ---


def test_tiny_overfit(scenes_folder, tmp_path):
    """Two scenes, the detector of the demo: the IoU of matched queries' masks rises far over that of their boxes."""
    data = load_split(scenes_folder, "train")
    data = replace(data, images=data.images[:2])
    model = build(
        load_detector(str(SCENE_DETECTOR)), MaskNetworkConfig(image_layers=1, box_layers=1, mask_width=32, roi_size=16)
    )
    augment = AugmentConfig(flip=False, crop=False)
    config = replace(CONFIG, iterations=16, lr=3e-3, min_box_iou=0.5, augment=augment)
    train(model, data, None, tmp_path, config, quiet=True)
    lines = read_metrics(tmp_path)
    assert lines[0]["matched_iou"] < 0.6
    assert lines[-1]["matched_iou"] > 0.75
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[-1]["loss"] == pytest.approx(sum(lines[-1][key] for key in ("bce", "dice", "iou")), abs=1e-5)


# --- nothing to learn from ---


@pytest.mark.parametrize("empty", [[1], [0, 1]])
def test_images_without_ground_truth(empty, squashing, scenes, tiny_network):
    model = build(squashing, tiny_network)
    chosen = samples(squashing, scenes[0], 2)
    for index in empty:
        chosen[index] = replace(chosen[index], targets=no_targets())
    total, gradients = losses_and_gradients(model, [chosen])
    assert all(gradient.isfinite().all() for gradient in gradients), "every parameter has a gradient, for DDP"
    if len(empty) == 2:
        assert total == 0
        assert not any(gradient.any() for gradient in gradients)
    else:
        alone, expected = losses_and_gradients(model, [chosen[:1]])
        assert total == pytest.approx(alone, rel=1e-3)  # one image's convolutions may round otherwise than two's
        for found, reference in zip(gradients, expected, strict=True):
            torch.testing.assert_close(found, reference, rtol=1e-2, atol=1e-3 * max(1.0, reference.abs().max().item()))


def test_a_run_in_which_no_box_overlaps(squashing, scenes, tiny_network, tmp_path):
    """Every step has nothing to learn: it goes on, with zeros that are numbers."""
    model = build(squashing, tiny_network)
    train(model, scenes[0], None, tmp_path, replace(CONFIG, min_box_iou=0.99, weight_decay=0.0), quiet=True)
    assert [line["loss"] for line in read_metrics(tmp_path)] == [0.0, 0.0]
    assert all(parameter.isfinite().all() for parameter in model.network.parameters())


@pytest.mark.parametrize("change", ["no annotation", "crowds only", "other classes only"])
def test_nothing_to_learn_from_is_an_error(change, squashing, scenes, tiny_network, tmp_path):
    def changed(annotations: tuple) -> tuple:
        if change == "no annotation":
            return ()
        if change == "crowds only":
            return tuple(replace(annotation, iscrowd=True) for annotation in annotations)
        return tuple(replace(annotation, category_id=5) for annotation in annotations)  # a cross

    images = [replace(record, annotations=changed(record.annotations)) for record in scenes[0].images]
    data = replace(scenes[0], images=images)
    with pytest.raises(UserError, match=r"instances_train2017.*no image has an annotation to learn from"):
        train(build(squashing, tiny_network), data, None, tmp_path / "run", CONFIG, quiet=True)
    assert not (tmp_path / "run").exists()


# --- one step ---


def test_accumulation_equals_the_bigger_batch(padding, scenes, tiny_network):
    """Of a detector that pads: pieces are padded less than the whole, so their images are of one size here."""
    model = build(padding, tiny_network)
    chosen = samples(padding, scenes[0], 4)
    size = chosen[0].image.shape[1:]
    chosen = [
        replace(sample, image=torch.nn.functional.interpolate(sample.image[None], size=size)[0]) for sample in chosen
    ]
    whole, expected = losses_and_gradients(model, [chosen])
    split, gradients = losses_and_gradients(model, [chosen[:1], chosen[1:3], chosen[3:]])
    assert whole > 1
    assert split == pytest.approx(whole, rel=1e-5)
    for found, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-3, atol=1e-5 * max(1.0, reference.abs().max().item()))


def test_accumulation_in_the_loop(squashing, scenes, tiny_network, tmp_path):
    """All through `train`: the same weights, up to rounding, from 4 images at once and from 4 times one."""
    weights = []
    for accumulate in (1, 4):
        model = build(squashing, tiny_network)
        config = replace(
            CONFIG, batch=4, accumulate=accumulate, lr=1e-2, weight_decay=0.0, loss=LossConfig(sampled_points=False)
        )
        train(model, scenes[0], None, tmp_path / str(accumulate), config, quiet=True)
        weights.append(torch.cat([parameter.flatten() for parameter in model.network.parameters()]).detach())
    first, second = (read_metrics(tmp_path / str(accumulate)) for accumulate in (1, 4))
    for a, b in zip(first, second, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["matched_iou"] == pytest.approx(b["matched_iou"], abs=1e-3)
    start = torch.cat([parameter.flatten() for parameter in build(squashing, tiny_network).network.parameters()])
    moved = (weights[0] - start).norm()
    assert (weights[0] - weights[1]).norm() < 0.05 * moved


def test_accumulation_that_does_not_divide_the_batch(squashing, scenes, tiny_network, tmp_path):
    with pytest.raises(UserError, match="batch: found 2, expected a multiple"):
        train(build(squashing, tiny_network), scenes[0], None, tmp_path, replace(CONFIG, accumulate=3), quiet=True)


def test_the_loss_is_that_of_a_mean_over_objects(squashing, scenes, tiny_network, tmp_path):
    """Logged: sums over matched masks, by the number of objects in the step."""
    model = build(squashing, tiny_network)
    plain = AugmentConfig(flip=False, multi_scale=False, crop=False)
    config = replace(CONFIG, iterations=1, batch=10, augment=plain, loss=LossConfig(sampled_points=False))
    chosen = samples(
        squashing,
        scenes[0],
        len(
            TrainingData(
                scenes[0], classes_of(scenes[0], squashing.info.class_names), squashing.info.preprocessing, plain, 0
            )
        ),
    )
    config = replace(config, batch=len(chosen))
    total, _ = losses_and_gradients(model, [chosen])
    objects = sum(len(sample.targets.labels) for sample in chosen)
    train(model, scenes[0], None, tmp_path, config, quiet=True)
    assert read_metrics(tmp_path)[0]["loss"] == pytest.approx(total / objects, rel=1e-4)


# --- several processes ---


@pytest.mark.slow  # `machine/test_two_processes.py` has runs of two processes as well
def test_two_processes_train_what_one_does(squashing_folder, scenes_folder, tiny_network, tmp_path):
    """The same batches, shared out; in some steps one process has no matched query and the other has."""
    options = (
        "--preset paper --image-layers 1 --box-layers 1 --mask-width 8 --roi-size 8 --iterations 5 --batch 4"
        " --workers 0 --log-every 1 --lr 1e-3 --min-box-iou 0.3 --no-sampled-points --evaluate-every 3 --no-report"
    )
    for world in (1, 2):
        output, port = tmp_path / str(world), free_port()
        arguments = ["train", str(squashing_folder), str(scenes_folder), "--output", str(output), *options.split()]
        children = []
        for rank in range(world):
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
            environment = {key: str(value) for key, value in places.items()} if world > 1 else {}
            environment |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
            children.append(NURSERY.Process(target=run_main, args=(arguments, environment)))
        for child in children:
            child.start()
        for child in children:
            child.join(timeout=100)
            assert child.exitcode == 0
    one, two = (read_metrics(tmp_path / str(world)) for world in (1, 2))
    assert any(line["matched_iou"] > 0 for line in one)
    for a, b in zip(one, two, strict=True):
        for key in ("loss", "bce", "dice", "iou", "matched_iou"):
            assert a[key] == pytest.approx(b[key], rel=2e-3, abs=1e-5), key
    single, shared = (load_file(tmp_path / str(world) / WEIGHTS_FILE) for world in (1, 2))
    start = build(load_detector(str(squashing_folder)), tiny_network).network.state_dict()
    moved, apart = (
        sum((a[key] - b[key]).square().sum() for key in start) ** 0.5 for a, b in ((single, start), (single, shared))
    )
    assert apart < 0.05 * moved  # Adam makes much of the rounding of gradients next to nothing
    first, second = (json.loads((tmp_path / str(world) / "evaluation-3.json").read_text()) for world in (1, 2))
    assert first["images"] == second["images"] == 5


# --- evaluation on the way ---


def test_periodic_evaluation(squashing, scenes, tiny_network, tmp_path):
    config = replace(CONFIG, iterations=4, evaluate_every=2)
    found = train(build(squashing, tiny_network), scenes[0], scenes[1], tmp_path, config, quiet=True)
    assert found is not None
    assert found.images == len(scenes[1].images)
    assert {path.name for path in tmp_path.glob("evaluation-*.json")} == {"evaluation-2.json", "evaluation-4.json"}
    assert json.loads((tmp_path / "evaluation-4.json").read_text())["step"] == 4
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]


# --- which class is which category ---


def test_val_and_later_evaluations_take_the_classes_of_the_training_data(tmp_path, scenes_folder, tiny_network):
    """A detector without class names; training data that fits by order, val data alone would fit by category id."""
    folder = build_squashing_detector(tmp_path / "detector", names=dict.fromkeys(range(6), ""))
    ids = {1: 3, 2: 4, 3: 5, 4: 7, 5: 8, 6: 9}
    for split in ("train", "val"):
        file = scenes_folder / "annotations" / f"instances_{split}2017.json"
        content = json.loads(file.read_text())
        for entry in content["annotations"]:
            entry["category_id"] = ids[entry["category_id"]]
        for entry in content["categories"]:
            entry["id"] = ids[entry["id"]]
        if split == "val":  # only what occurs, and of that only what could be taken for class indices
            content["categories"] = [entry for entry in content["categories"] if entry["id"] <= 5]
            content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] <= 5]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    train_data = read_coco(tmp_path / "train.json", scenes_folder / "train2017")
    val_data = read_coco(tmp_path / "val.json", scenes_folder / "val2017")
    model = build(load_detector(folder), tiny_network)
    assert classes_of(val_data, model.class_names).by == "category id", "this is what went wrong"
    found = train(model, train_data, val_data, tmp_path / "run", replace(CONFIG, evaluate_every=0), quiet=True)
    names = ["disc", "ring", "star"]
    assert found is not None
    assert found.classes.startswith("3 classes of detector and data match by name.")
    loaded = MaskFrozenDetr.from_pretrained(tmp_path / "run")
    assert loaded.class_names[:3] == names
    assert classes_of(val_data, model.detector.info.class_names, loaded.classes).index_of == {3: 0, 4: 1, 5: 2}
    again = evaluate(loaded, val_data)
    assert again.as_dict() | {"seconds": 0} == found.as_dict() | {"seconds": 0}
