"""The command line, whole: train, evaluate, predict; and options that will not do."""

import contextlib
import json
import signal
import sys
import time
import weakref
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file

from mask_frozen_detr.cli import main
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.model import WEIGHTS_FILE
from mask_frozen_detr.results import inference
from mask_frozen_detr.training.presets import preset

COCO_549 = Path(__file__).parents[1].parent / "shared" / "data" / "coco-549"
FEMTO = Path(__file__).parents[1].parent / "shared" / "detectors" / "deimv2-femto-coco"


# --- the main job ---


def test_train_says_where_the_run_lies(tiny_run, squashing_folder, scenes_folder, tmp_path, capfd):
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
    assert (tmp_path / "run" / WEIGHTS_FILE).read_bytes() == (tiny_run / WEIGHTS_FILE).read_bytes(), "the seed decides"


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


def test_the_seed_decides_the_first_weights_too(tiny_run, squashing_folder, scenes_folder, tmp_path):
    start = ["train", str(squashing_folder), str(scenes_folder), "--output", str(tmp_path / "run")]
    torch.rand(3)  # whatever was drawn before
    assert main([*start, *TINY, "--seed", "1", "--lr", "1e-9"]) == 0
    one, other = (load_file(folder / WEIGHTS_FILE) for folder in (tiny_run, tmp_path / "run"))
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


def test_evaluate_a_run(tiny_run, scenes_folder, tmp_path, capfd):
    json_file, results = tmp_path / "a" / "val.json", tmp_path / "b" / "results.json"
    arguments = ["evaluate", tiny_run, scenes_folder, "--json", json_file, "--results-file", results, "--by-class"]
    assert main([str(argument) for argument in arguments]) == 0
    shown = capfd.readouterr()
    assert "class" in shown.out
    assert "disc" in shown.out
    assert "left out of training and scores: crescent, cross, bolt" in shown.err
    saved = json.loads(json_file.read_text())
    assert (saved["model"], saved["split"], saved["images"]) == (str(tiny_run), "val", 5)
    for kind in ("bbox", "segm"):
        assert len(json.loads((tmp_path / "b" / f"results.{kind}.json").read_text())) == 300


def test_evaluate_a_detector_measures_the_baseline(squashing_folder, scenes_folder, capfd):
    assert main(["evaluate", str(squashing_folder), str(scenes_folder), "--no-roi-align", "--stem", "False"]) == 0
    assert "mask" in capfd.readouterr().out


def test_predict(tiny_run, scenes, tmp_path, capfd):
    picture = scenes[1].images[0].path
    arguments = ["predict", tiny_run, picture, "--output", tmp_path / "out", "--score-threshold", "0.01"]
    assert main([str(argument) for argument in arguments]) == 0
    assert "instances in 1 pictures" in capfd.readouterr().out
    assert (tmp_path / "out" / f"{picture.stem}.png").exists()


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_of_masks(precision, dtype, tiny_run, scenes_folder, scenes, tmp_path, monkeypatch):
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
        assert main(["evaluate", str(tiny_run), str(scenes_folder), *asked]) == 0
        assert seen == {dtype}
        seen.clear()
        picture = str(scenes[1].images[0].path)
        assert main(["predict", str(tiny_run), picture, "--output", str(tmp_path / "out"), *asked]) == 0
        assert seen == {dtype}


def test_fp16_without_a_gpu(tiny_run, scenes_folder, capfd):
    assert main(["evaluate", str(tiny_run), str(scenes_folder), "--precision", "fp16"]) == 2
    assert "precision: found 'fp16', which needs a GPU; expected 'fp32' or 'bf16'" in capfd.readouterr().err


def test_a_moved_detector_is_named(tiny_run, squashing_folder, scenes_folder, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(squashing_folder)
    assert main(["evaluate", str(tiny_run), str(scenes_folder), "--detector", str(moved)]) == 0


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
        (["--copy-paste", "2"], "copy_paste: found 2"),
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
def test_evaluate_options(options, words, refused, tiny_run, scenes_folder):
    message = refused("evaluate", tiny_run, scenes_folder, *options)
    assert words in " ".join(message.replace("│", " ").split())


def test_a_gpu_that_is_not_there(refused, tiny_run, scenes_folder):
    assert "device: found 'cuda', which cannot be used here" in refused(
        "evaluate", tiny_run, scenes_folder, "--device", "cuda"
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


@pytest.mark.parametrize("made_of_it", [ValueError("no shape"), UserError("weights cannot be read")])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_of_which_a_library_makes_another_exception(number, code, made_of_it, monkeypatch, capfd):
    def swallow(*_args: object, **_options: object) -> None:
        with contextlib.suppress(BaseException):
            signal.raise_signal(number)
        raise made_of_it

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("mask_frozen_detr.cli.recipes.Recipes.run", swallow)
    assert main(["recipes"]) == code
    assert "Traceback" not in capfd.readouterr().err
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_amid_a_callback_is_obeyed(number, code, monkeypatch, capfd):
    """Python ignores what a weak reference's callback raises, and goes on."""

    def swallow(*_args: object, **_options: object) -> None:
        referred = [set[int]()]
        watched = weakref.ref(referred[0], lambda _: signal.raise_signal(number))
        del referred[0]
        assert watched() is None
        time.sleep(20)

    before = sys.unraisablehook
    monkeypatch.setattr("mask_frozen_detr.cli.recipes.Recipes.run", swallow)
    began = time.monotonic()
    assert main(["recipes"]) == code
    assert time.monotonic() - began < 15
    assert "ignored" not in capfd.readouterr().err
    assert sys.unraisablehook is before


def test_interrupted(tiny_run, scenes_folder, monkeypatch, capfd):
    def interrupt(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mask_frozen_detr.evaluation.measure", interrupt)
    assert main(["evaluate", str(tiny_run), str(scenes_folder)]) == 130
    assert "interrupted" in capfd.readouterr().err
