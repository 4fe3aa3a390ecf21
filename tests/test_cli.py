"""The command line, whole: train, evaluate, predict; and every kind of bad input: one clear message, exit code 2,
no traceback, nothing half-written."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from mask_frozen_detr.cli import main
from mask_frozen_detr.model import CONFIG_FILE, WEIGHTS_FILE
from mask_frozen_detr.results import inference
from mask_frozen_detr.training.presets import preset

TINY = [
    *["--image-layers", "1", "--box-layers", "1", "--mask-width", "8", "--roi-size", "8", "--iterations", "2"],
    *["--preset", "paper", "--workers", "0", "--min-box-iou", "0", "--no-report", "--log", "none"],
]
COCO_549 = Path(__file__).parents[1].parent / "shared" / "data" / "coco-549"
FEMTO = Path(__file__).parents[1].parent / "shared" / "detectors" / "deimv2-femto-coco"


@pytest.fixture(scope="module")
def run(squashing_folder, scenes_folder, tmp_path_factory) -> Path:
    """A finished run."""
    output = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", str(squashing_folder), str(scenes_folder), "--output", str(output), *TINY]) == 0
    return output


@pytest.fixture
def refused(capfd) -> Callable[..., str]:
    """Runs a command line that must be refused; returns its message."""

    def refuse(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        shown = capfd.readouterr()
        assert "Traceback" not in shown.err + shown.out
        assert shown.err.strip()
        return shown.err

    return refuse


# --- the main job ---


def test_train_says_where_the_run_lies(run, squashing_folder, scenes_folder, tmp_path, capfd):
    arguments = ["train", squashing_folder, scenes_folder, "--output", tmp_path / "run", *TINY]
    assert main([str(argument) for argument in arguments]) == 0
    shown = capfd.readouterr()
    assert f"The mask network lies in {tmp_path / 'run'}" in shown.out
    assert "AP50" in shown.out
    for words in (
        "train: COCO, instances_train2017.json: 10 images",
        "val: COCO, instances_val2017.json: 5",
        "crescent, cross, bolt",
    ):
        assert words in shown.err
    assert (tmp_path / "run" / WEIGHTS_FILE).read_bytes() == (run / WEIGHTS_FILE).read_bytes(), "the seed decides"


def test_what_a_run_was_trained_on_is_what_it_is_measured_on(squashing_folder, scenes_folder, tmp_path, capfd):
    """Classes chosen and renamed and images held out are known to the run, and a contradiction is refused."""
    file, out = scenes_folder / "annotations" / "instances_train2017.json", tmp_path / "run"
    options = ["--val-fraction", "0.3", "--classes", "disc,ring", "--class-map", "crescent=ring"]
    arguments = ["train", squashing_folder, file, "--images", scenes_folder / "train2017", "--output", out]
    assert main([str(argument) for argument in [*arguments, *options, *TINY]]) == 0
    shown = capfd.readouterr()
    assert "3 of 10 images, held out from training" in shown.err
    assert "AP over 3 of 3 images" in shown.out
    arguments = ["evaluate", out, file, "--images", scenes_folder / "train2017", "--by-class"]
    assert main([str(argument) for argument in arguments]) == 0
    shown = capfd.readouterr()
    assert "AP over 3 of 3 images" in shown.out
    assert "2 classes of detector and data match by name" in shown.err
    assert "star" not in shown.out


def test_the_seed_decides_the_first_weights_too(run, squashing_folder, scenes_folder, tmp_path):
    start = ["train", str(squashing_folder), str(scenes_folder), "--output", str(tmp_path / "run")]
    torch.rand(3)  # whatever was drawn before
    assert main([*start, *TINY, "--seed", "1", "--lr", "1e-9"]) == 0
    one, other = (load_file(folder / WEIGHTS_FILE) for folder in (run, tmp_path / "run"))
    assert any((one[key] - other[key]).abs().max() > 0.05 for key in one)


def test_a_preset_gives_what_the_options_leave_open(squashing_folder, scenes_folder, tmp_path, capfd):
    """Chosen and named where none is asked for; --resume needs no option again."""
    start = ["train", str(squashing_folder), str(scenes_folder), "--output", str(tmp_path / "run")]
    assert main([*start, "--iterations", "2", "--lr", "1e-4", "--mask-width", "16", "--no-val"]) == 0
    assert "preset light: the detector takes" in capfd.readouterr().err
    network, training = preset("light", 10)
    saved = json.loads((tmp_path / "run" / "training.json").read_text())
    assert saved["network"] == {**asdict(network), "mask_width": 16}
    for key, value in asdict(training).items():
        if key not in ("iterations", "lr", "precision", "evaluate_every"):
            assert saved[key] == json.loads(json.dumps(value)), key
    assert (saved["iterations"], saved["lr"]) == (2, 1e-4)
    assert main([*start, "--resume", "--no-val"]) == 0
    shown = capfd.readouterr().err
    assert "those that the run was started with" in shown
    assert "finished" in shown


def test_a_preset_and_a_recipe(refused, squashing_folder, scenes_folder, tmp_path):
    arguments = ["train", squashing_folder, scenes_folder, "--output", tmp_path / "run", "--preset", "best"]
    assert "expected one of them" in refused(*arguments, "--recipe", "table5-ffn-b2o")
    assert "Error parsing command.network" in refused(*arguments, "--box-encoder", "none")
    assert not (tmp_path / "run").exists()


def test_training_without_a_val_split(squashing_folder, scenes_folder, tmp_path, capfd):
    file = scenes_folder / "annotations" / "instances_train2017.json"
    assert main(["train", str(squashing_folder), str(file), "--output", str(tmp_path / "run"), *TINY]) == 0
    assert (tmp_path / "run" / WEIGHTS_FILE).exists()
    assert not list((tmp_path / "run").glob("evaluation-*"))
    assert "AP50" not in capfd.readouterr().out


def test_evaluate_a_run(run, scenes_folder, tmp_path, capfd):
    json_file, results = tmp_path / "a" / "val.json", tmp_path / "b" / "results.json"
    arguments = ["evaluate", run, scenes_folder, "--json", json_file, "--results-file", results, "--by-class"]
    assert main([str(argument) for argument in arguments]) == 0
    shown = capfd.readouterr()
    assert "class" in shown.out
    assert "disc" in shown.out
    assert "left out of training and scores: crescent, cross, bolt" in shown.err
    saved = json.loads(json_file.read_text())
    assert (saved["model"], saved["split"], saved["images"]) == (str(run), "val", 5)
    for kind in ("bbox", "segm"):
        assert len(json.loads((tmp_path / "b" / f"results.{kind}.json").read_text())) == 300


def test_evaluate_a_detector_measures_the_baseline(squashing_folder, scenes_folder, capfd):
    assert main(["evaluate", str(squashing_folder), str(scenes_folder), "--no-roi-align", "--stem", "False"]) == 0
    assert "mask" in capfd.readouterr().out


def test_predict(run, scenes, tmp_path, capfd):
    picture = scenes[1].images[0].path
    arguments = ["predict", run, picture, "--output", tmp_path / "out", "--score-threshold", "0.01"]
    assert main([str(argument) for argument in arguments]) == 0
    assert "instances in 1 pictures" in capfd.readouterr().out
    assert (tmp_path / "out" / f"{picture.stem}.png").exists()


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_of_masks(precision, dtype, run, scenes_folder, scenes, tmp_path, monkeypatch):
    """What was asked for, wherever masks are made; without a word float32, so that boxes are the detector's own."""
    seen: set[torch.dtype] = set()
    segmenting: list[bool] = []

    def note(module, _inputs, output):
        if segmenting and isinstance(module, torch.nn.Linear):  # not while the detector is looked at
            seen.add(output.dtype)

    def segment(*arguments, **options):
        segmenting.append(True)
        try:
            return inference.segment(*arguments, **options)
        finally:
            segmenting.pop()

    monkeypatch.setattr("mask_frozen_detr.model.segment", segment)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    asked = [] if precision == "fp32" else ["--precision", precision]
    with torch.nn.modules.module.register_module_forward_hook(note):
        assert main(["evaluate", str(run), str(scenes_folder), *asked]) == 0
        assert seen == {dtype}
        seen.clear()
        picture = str(scenes[1].images[0].path)
        assert main(["predict", str(run), picture, "--output", str(tmp_path / "out"), *asked]) == 0
        assert seen == {dtype}


@pytest.mark.skipif(torch.cuda.is_available(), reason="works on a GPU")
def test_fp16_without_a_gpu(run, scenes_folder, capfd):
    assert main(["evaluate", str(run), str(scenes_folder), "--precision", "fp16"]) == 2
    assert "precision: found 'fp16', which needs a GPU; expected 'fp32' or 'bf16'" in capfd.readouterr().err


def test_a_moved_detector_is_named(run, squashing_folder, scenes_folder, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(squashing_folder)
    assert main(["evaluate", str(run), str(scenes_folder), "--detector", str(moved)]) == 0


@pytest.mark.skipif(not (COCO_549.exists() and FEMTO.exists()), reason="shared data are not beside the repository")
def test_real_photographs(tmp_path, capfd):
    """Two images of coco-549 with deimv2-femto-coco: train, evaluate, predict."""
    content = json.loads((COCO_549 / "annotations" / "instances_val2017.json").read_text())
    images = content["images"][:2]
    ids = {image["id"] for image in images}
    content["images"] = images
    content["annotations"] = [raw for raw in content["annotations"] if raw["image_id"] in ids]
    data = tmp_path / "data"
    (data / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (data / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
        (data / f"{split}2017").symlink_to(COCO_549 / "val2017")
    small = ["--image-layers", "1", "--box-layers", "1", "--mask-width", "16", "--roi-size", "8", "--workers", "0"]
    run = str(tmp_path / "run")
    assert main(["train", str(FEMTO), str(data), "--output", run, "--iterations", "1", "--batch", "1", *small]) == 0
    assert "80 classes of detector and data match by name" in capfd.readouterr().err
    saved = json.loads((tmp_path / "run" / "evaluation-1.json").read_text())
    assert saved["box"]["AP"] > 20
    assert main(["predict", run, str(data / "val2017" / images[0]["file_name"]), "--output", str(tmp_path / "o")]) == 0


# --- bad options ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--roi-size", "30"], "roi_size: found 30"),
        (["--batch", "0"], "batch: found 0"),
        (["--accumulate", "3"], "batch: found 2, expected a multiple"),
        (["--lr", "-1"], "lr: found"),
        (["--lr", "fast"], "fast"),
        (["--precision", "fp8"], "fp8"),
        (["--colour-jitter", "2"], "colour_jitter: found 2"),
        (["--point-fraction", "0"], "point_fraction: found 0"),
        (["--box-encoder", "none"], "box_encoder"),
        (["--encoder-layer", "0"], "encoder_layer: found 0"),
        (["--resume", "--overwrite"], "--overwrite"),
        (["--depth", "3"], "--depth"),
    ],
)
def test_train_options(options, words, refused, squashing_folder, scenes_folder, tmp_path):
    message = refused("train", squashing_folder, scenes_folder, "--output", tmp_path / "run", *options)
    assert words in " ".join(message.replace("│", " ").split())
    assert "tyro" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "0"], "batch: found 0"),
        (["--workers", "-1"], "workers: found -1"),
        (["--max-detections", "0"], "max_detections: found 0"),
        (["--score-threshold", "nan"], "score_threshold: found nan"),
        (["--device", "abacus"], "abacus"),
        (["--split", "test"], "no split 'test'; found: train"),
    ],
)
def test_evaluate_options(options, words, refused, run, scenes_folder):
    message = refused("evaluate", run, scenes_folder, *options)
    assert words in " ".join(message.replace("│", " ").split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(refused, run, scenes_folder):
    assert "device: found 'cuda', which cannot be used here" in refused(
        "evaluate", run, scenes_folder, "--device", "cuda"
    )


@pytest.mark.parametrize("arguments", [[], ["train"], ["dance"], ["evaluate", "x"], ["predict"]])
def test_incomplete_commands(arguments, refused):
    refused(*arguments)


def test_help(capfd):
    assert main(["--help"]) == 0
    assert main(["train", "--help"]) == 0
    shown = capfd.readouterr().out
    for word in ("evaluate", "predict", "--resume", "--overwrite", "--roi-size"):
        assert word in shown


def test_interrupted(run, scenes_folder, monkeypatch, capfd):
    def interrupt(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mask_frozen_detr.evaluation.measure", interrupt)
    assert main(["evaluate", str(run), str(scenes_folder)]) == 130
    assert "interrupted" in capfd.readouterr().err


# --- bad detectors ---


def vit(folder: Path) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, **sizes)).save_pretrained(folder)


def resnet(folder: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(folder)


def copied(source: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


DETECTORS: dict[str, tuple[Callable[[Path, Path], object], list[str]]] = {
    "an empty folder": (lambda source, folder: folder.mkdir(), ["config.json"]),
    "a folder of other things": (lambda source, folder: os.makedirs(folder / "x"), ["config.json"]),
    "nothing": (lambda source, folder: None, ["no such folder or hub model"]),
    "a ViT": (lambda source, folder: vit(folder), ["'vit'", "expected one of", "deformable_detr"]),
    "a ResNet": (lambda source, folder: resnet(folder), ["'resnet'", "expected one of", "rt_detr"]),
    "without weights": (
        lambda source, folder: (copied(source, folder) / "model.safetensors").unlink(),
        ["found no weights, expected model.safetensors"],
    ),
    "weights cut short": (
        lambda source, folder: os.truncate(copied(source, folder) / "model.safetensors", 5000),
        ["weights cannot be read"],
    ),
    "without a processor": (
        lambda source, folder: (copied(source, folder) / "preprocessor_config.json").unlink(),
        ["preprocessor_config.json"],
    ),
    "a configuration cut short": (
        lambda source, folder: os.truncate(copied(source, folder) / "config.json", 50),
        ["config.json"],
    ),
}


@pytest.mark.parametrize("kind", DETECTORS)
def test_bad_detectors(kind, refused, squashing_folder, scenes_folder, tmp_path):
    make, words = DETECTORS[kind]
    folder = tmp_path / "detector"
    make(squashing_folder, folder)
    message = refused("train", folder, scenes_folder, "--output", tmp_path / "run")
    for word in [str(folder), *words]:
        assert word in message
    assert not (tmp_path / "run").exists()


def test_weights_of_a_model_without_a_head(refused, squashing_folder, scenes_folder, tmp_path):
    from safetensors.torch import save_file

    copied(squashing_folder, tmp_path / "detector")
    path = tmp_path / "detector" / "model.safetensors"
    weights = {key: value for key, value in load_file(path).items() if "class_embed" not in key}
    save_file(weights, path, metadata={"format": "pt"})
    message = refused("train", tmp_path / "detector", scenes_folder, "--output", tmp_path / "run")
    assert "weights are missing from the file" in message
    assert "class_embed" in message


def test_a_detector_of_other_classes(refused, scenes_folder, tmp_path):
    from conftest import build_squashing_detector

    folder = build_squashing_detector(tmp_path / "detector", names={0: "cat", 1: "dog", 2: "cow"})
    message = refused("train", folder, scenes_folder, "--output", tmp_path / "run")
    for word in ("instances_train2017.json", "disc, ring", "cat, dog, cow"):
        assert word in message
    assert not (tmp_path / "run").exists()


# --- bad runs ---


def test_a_run_whose_detector_is_gone(refused, run, scenes_folder, tmp_path):
    copied_run = tmp_path / "run"
    copied_run.mkdir()
    content = json.loads((run / CONFIG_FILE).read_text())
    content["detector"]["name"] = str(tmp_path / "gone")
    content["detector_place"] = {"absolute": str(tmp_path / "gone"), "relative": "../gone"}
    (copied_run / CONFIG_FILE).write_text(json.dumps(content))
    (copied_run / WEIGHTS_FILE).write_bytes((run / WEIGHTS_FILE).read_bytes())
    for command in (["evaluate", copied_run, scenes_folder], ["predict", copied_run, scenes_folder / "val2017"]):
        more = ["--output", tmp_path / "out"] if command[0] == "predict" else []
        message = refused(*command, *more)
        for word in (str(copied_run), str(tmp_path / "gone"), "--detector"):
            assert word in message
    assert not (tmp_path / "out").exists()


def test_a_run_with_another_detector(refused, run, padding_folder, scenes_folder):
    message = refused("evaluate", run, scenes_folder, "--detector", padding_folder)
    assert "has other weights" in message


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_damaged_run(name, refused, run, scenes_folder, tmp_path):
    for path in (run / CONFIG_FILE, run / WEIGHTS_FILE):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    os.truncate(tmp_path / name, 100)
    assert str(tmp_path / name) in refused("evaluate", tmp_path, scenes_folder)


def test_what_is_neither_run_nor_detector(refused, scenes_folder, tmp_path):
    for place in (tmp_path, tmp_path / "nowhere", "some/typo"):
        message = refused("evaluate", place, scenes_folder)
        assert str(place) in message
        assert "no run folder" in message


# --- bad data ---


GOOD = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [5, 5, 30, 30],
            "segmentation": [[5, 5, 35, 5, 35, 35, 5, 35]],
            "area": 900,
            "iscrowd": 0,
        }
    ],
    "categories": [{"id": 1, "name": "disc"}],
}


@pytest.fixture
def data(tmp_path) -> Callable[..., Path]:
    """Makes a data set of one image: `data(content)`, or `data(text)` for an annotation file that is no JSON."""

    def make(content: dict | str, image: bytes | None = None) -> Path:
        folder = tmp_path / "data"
        (folder / "annotations").mkdir(parents=True)
        (folder / "train2017").mkdir()
        if image is None:
            Image.new("RGB", (64, 48), "blue").save(folder / "train2017" / "a.jpg")
        else:
            (folder / "train2017" / "a.jpg").write_bytes(image)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "annotations" / "instances_train2017.json").write_text(text)
        return folder

    return make


def changed(**changes: object) -> dict:
    """`GOOD` with its one annotation changed."""
    return {**GOOD, "annotations": [GOOD["annotations"][0] | changes]}


ANNOTATIONS: dict[str, tuple[dict | str, str]] = {
    "no polygon": (changed(segmentation=[]), "no segmentation"),
    "a polygon too short": (changed(segmentation=[[5, 5, 35, 5]]), "fewer than 3 points"),
    "a polygon outside": (changed(segmentation=[[500, 5, 530, 5, 530, 30]]), "outside the image"),
    "RLE of the wrong size": (changed(segmentation={"size": [64, 48], "counts": [3072]}), "another size"),
    "an unknown category": (changed(category_id=9), "unknown category"),
    "an unknown image": (changed(image_id=9), "unknown image"),
    "crowds alone": (changed(iscrowd=1), "no image has an annotation to learn from"),
    "no annotations": ({**GOOD, "annotations": []}, "no image has an annotation to learn from"),
    "no images": ({**GOOD, "images": [], "annotations": []}, "'images' is empty"),
    "no categories": ({**GOOD, "categories": []}, "'categories' is empty"),
    "image ids twice": (
        {**GOOD, "images": [*GOOD["images"], {**GOOD["images"][0], "file_name": "b.jpg"}]},
        "id 1 is taken",
    ),
    "files that are not there": (
        {**GOOD, "images": [{**GOOD["images"][0], "file_name": "z.jpg"}]},
        "none of its 1 image files",
    ),
    "no JSON": ("eggs, flour, a pound of butter", "is not JSON"),
    "JSON cut short": ('{"images": [', "truncated?"),
    "an empty file": ("", "is empty"),
    "a key missing": ({"images": []}, "no key 'annotations'"),
}


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_bad_annotation_files(kind, refused, data, squashing_folder, tmp_path):
    content, words = ANNOTATIONS[kind]
    message = refused("train", squashing_folder, data(content), "--output", tmp_path / "run")
    assert "instances_train2017.json" in message
    assert words in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_folder_without_data(command, refused, squashing_folder, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        more = ["--output", tmp_path / "run"] if command == "train" else []
        assert str(folder) in refused(command, squashing_folder, folder, *more)
    assert not (tmp_path / "run").exists()


def test_broken_annotations_beside_good_ones(data, squashing_folder, tmp_path, capfd):
    """Self-crossing polygons and doubled ids are used, a broken polygon leaves its box; what is broken is named and
    counted, before and after."""
    good = GOOD["annotations"][0]
    content = {
        **GOOD,
        "annotations": [
            good,
            good | {"category_id": 1},  # of the same id
            good | {"id": 2, "segmentation": [[5, 5, 35, 35, 35, 5, 5, 35]]},  # crosses itself
            good | {"id": 3, "segmentation": [[1, 2]]},
            good | {"id": 4, "category_id": 77},
            good | {"id": 5, "iscrowd": 1},
        ],
    }
    arguments = ["train", squashing_folder, data(content), "--output", tmp_path / "run", *TINY]
    assert main([str(argument) for argument in arguments]) == 0
    shown = capfd.readouterr().err
    for words in (
        "annotation id missing, used twice",
        "fewer than 3 points",
        "unknown category",
        "crosses itself",
        "annotation 4",
    ):
        assert words in shown
    assert "1 entries of instances_train2017.json were broken and have been skipped" in shown


@pytest.mark.parametrize("content", [b"", b"hello", None], ids=["empty", "text", "cut short"])
def test_no_training_image_can_be_read(content, refused, data, squashing_folder, scenes, tmp_path):
    image = scenes[0].images[0].path.read_bytes()[:2000] if content is None else content
    message = refused("train", squashing_folder, data(GOOD, image), "--output", tmp_path / "run", *TINY)
    assert "not one training image can be read" in message
    assert "a.jpg" in message
    assert not (tmp_path / "run" / WEIGHTS_FILE).exists()


def test_no_val_image_can_be_read(refused, data, squashing_folder):
    folder = data(GOOD, b"hello")
    assert "not one image can be read" in refused("evaluate", squashing_folder, folder, "--split", "train")


# --- bad pictures ---


@pytest.mark.parametrize("kind", ["missing", "an empty folder", "a pattern without match", "text", "cut short"])
def test_bad_pictures(kind, refused, run, scenes, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "text.png").write_text("hello")
    (folder / "cut.jpg").write_bytes(scenes[0].images[0].path.read_bytes()[:2000])
    (folder / "none").mkdir()
    place = {
        "missing": folder / "gone.jpg",
        "an empty folder": folder / "none",
        "a pattern without match": f"{folder}/*.webp",
        "text": folder / "text.png",
        "cut short": folder / "cut.jpg",
    }[kind]
    assert str(place) in refused("predict", run, place, "--output", tmp_path / "out")
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_one_bad_picture_among_good_ones(run, scenes, tmp_path, capfd):
    bad = tmp_path / "cut.jpg"
    bad.write_bytes(scenes[0].images[0].path.read_bytes()[:2000])
    arguments = ["predict", run, bad, scenes[0].images[1].path, "--output", tmp_path / "out"]
    assert main([str(argument) for argument in arguments]) == 0
    shown = capfd.readouterr().out
    assert "in 1 pictures" in shown
    assert f"skipped: {bad}" in shown


# --- nowhere to write ---


def test_a_file_where_a_folder_should_be(refused, run, squashing_folder, scenes_folder, tmp_path):
    place = tmp_path / "file"
    place.write_text("mine")
    picture = next((scenes_folder / "val2017").iterdir())
    for arguments in (
        ["train", squashing_folder, scenes_folder, "--output", place, *TINY],
        ["train", squashing_folder, scenes_folder, "--output", place / "run", *TINY],
        ["predict", run, picture, "--output", place],
        ["evaluate", run, scenes_folder, "--json", place / "val.json"],
        ["evaluate", run, scenes_folder, "--results-file", place / "results.json"],
    ):
        assert str(place) in refused(*arguments)
    assert place.read_text() == "mine"


def test_a_folder_where_a_file_should_be(refused, run, scenes_folder, tmp_path):
    assert "is a folder" in refused("evaluate", run, scenes_folder, "--json", tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_no_space_and_no_permission(code, refused, run, squashing_folder, scenes_folder, tmp_path, monkeypatch):
    def fail(*_args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("mask_frozen_detr.machine.files.os.fsync", fail)
    picture = next((scenes_folder / "val2017").iterdir())
    for arguments, name in (
        (["train", squashing_folder, scenes_folder, "--output", tmp_path / "run", *TINY], "training.json"),
        (["predict", run, picture, "--output", tmp_path / "out"], picture.stem),
        (["evaluate", run, scenes_folder, "--json", tmp_path / "val.json"], "val.json"),
    ):
        message = refused(*arguments)
        assert name in message
        assert os.strerror(code) in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing half-written"


def test_an_error_of_the_system_elsewhere(refused, run, scenes_folder, monkeypatch):
    """Not every write is ours: TensorBoard's, for one."""

    def fail(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events.out")

    monkeypatch.setattr("mask_frozen_detr.evaluation.measure", fail)
    assert "events.out: No space left on device" in refused("evaluate", run, scenes_folder)


def test_complexity_replaces_its_own_figures_alone(refused, tmp_path):
    file = tmp_path / "figures.json"
    for content in ('{"mine": 1}', "[]", "text", '[{"table": 1}]'):
        file.write_text(content)
        assert "holds no figures" in refused("complexity", "--table", "1", "--json", file)
        assert file.read_text() == content
    file.unlink()
    for _ in range(2):
        assert main(["complexity", "--table", "1", "--json", str(file)]) == 0
    assert {row["table"] for row in json.loads(file.read_text())} == {1}


def test_escapes_of_names_never_reach_the_terminal(squashing_folder, scenes_folder, tmp_path, capfd):
    """Of files, categories and pictures, in what training says of its data."""
    data = tmp_path / "data"
    source = json.loads((scenes_folder / "annotations" / "instances_train2017.json").read_text())
    source["categories"].append({"id": 99, "name": "red\x1b[31m\x9bname\u202e"})
    source["images"].append({"id": 99, "file_name": "../\x9b31m\x1b]0;x\x07.png", "width": 9, "height": 9})
    (data / "annotations").mkdir(parents=True)
    (data / "train2017").symlink_to(scenes_folder / "train2017")
    (data / "annotations" / "instances_train2017.json").write_text(json.dumps(source))
    assert main(["train", str(squashing_folder), str(data), "--output", str(tmp_path / "run"), *TINY]) == 0
    shown = capfd.readouterr()
    assert "image file is missing" in shown.err
    assert not set("\x1b\x9b\x07\u202e") & set(shown.err + shown.out)
