"""The main job on a GPU, held to what a CPU gives: `make test-gpu`.

The CPU's figures are the judge, in float32. Weights are not equal to the bit here: kernels add up in any order.
"""

import json
import signal
from collections.abc import Callable
from importlib.metadata import Distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import read_metrics
from kernel_cases import CASES, LOST, TOLERANCE, run_kernels
from run_folders import run_stopped, stop_in_step

from benchmarks.contestants import ours
from benchmarks.measure import waits
from benchmarks.pictures import draw_pictures
from benchmarks.sizes import TINY
from mask_frozen_detr import Instances, MaskFrozenDetr, load_detector
from mask_frozen_detr.cli import main
from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.demo.scenes import SCENE_DETECTOR
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.ops.deformable_attention import kernels_run
from mask_frozen_detr.training.run_folder import TRAINING_FILE

if not torch.cuda.is_available():
    pytest.skip("no GPU, or not run by `make test-gpu`", allow_module_level=True)

GPU = torch.device("cuda", 0)
OPTIONS = "--preset best --iterations 40 --log-every 10 --checkpoint-every 10 --no-report --log none --workers 2"


@pytest.fixture(scope="module")
def command(scenes_folder) -> Callable[..., list[str]]:
    def build(output: Path, *more: str) -> list[str]:
        return ["train", str(SCENE_DETECTOR), str(scenes_folder), "--output", str(output), *OPTIONS.split(), *more]

    return build


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory) -> Path:
    """A run of the deformable network, as the GPU trains it by itself: in bfloat16, by the kernels."""
    output = tmp_path_factory.mktemp("trained") / "run"
    assert main(command(output)) == 0
    return output


@pytest.fixture(scope="module")
def picture(scenes: tuple[CocoData, CocoData]) -> Path:
    return scenes[1].images[0].path


# Kernels


@pytest.fixture(scope="module")
def found() -> dict:
    assert kernels_run(GPU), "a warning above says why the kernels do not run"
    return run_kernels("cuda")


@pytest.mark.parametrize("name", [*CASES, "views"])
def test_kernels_equal_the_reference_in_float64(name, found):
    tolerance = TOLERANCE[CASES[name][5] if name in CASES else "float32"]
    assert max(found[name].values()) < tolerance, found[name]


def test_kernels_with_nothing_to_attend(found):
    assert found["empty"] == [[[0, 5, 16], True], [[2, 0, 16], True]]


@pytest.mark.parametrize("name", LOST)
def test_what_is_no_number_spreads_as_in_the_reference(name, found):
    assert found["lost"][name][0]["lost"] > 0
    assert all(part["same"] and part["close"] for part in found["lost"][name]), found["lost"][name]


def test_what_is_sent_arrives():
    assert send(torch.arange(3), GPU).tolist() == [0, 1, 2]


# Training


def test_training_takes_bfloat16_and_learns(trained):
    assert json.loads((trained / TRAINING_FILE).read_text())["precision"] == "bf16"
    losses = [line["loss"] for line in read_metrics(trained)]
    assert losses[-1] < losses[0]


def test_a_step_hardly_waits_for_the_gpu():
    """Twice: for the matches, which the host solves, and at most once to see whether a number is finite."""
    contestant = ours(TINY, draw_pictures(TINY, 2), GPU, "bf16")
    contestant.step()
    counted = waits(contestant.step, GPU)
    assert counted is not None
    assert counted <= 2


def test_a_stopped_run_goes_on_to_the_same_losses(command, trained, tmp_path):
    output = tmp_path / "run"
    assert run_stopped(command(output), stop_in_step, 15, signal.SIGINT, False) == 130
    assert main(command(output, "--resume")) == 0
    ours, theirs = ([(line["step"], line["loss"]) for line in read_metrics(run)] for run in (output, trained))
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    np.testing.assert_allclose([loss for _, loss in ours], [loss for _, loss in theirs], rtol=0.05)


@pytest.mark.parametrize("more", [("--masks-from", "boxes", "--rounds", "2"), ("--cache",), ("--finetune", "partial")])
def test_other_ways_to_train(more, command, tmp_path):
    extra = (*more, str(tmp_path / "cache")) if more == ("--cache",) else more
    assert main(command(tmp_path / "run", *extra, "--iterations", "4")) == 0
    assert all(np.isfinite(line["loss"]) for line in read_metrics(tmp_path / "run"))


def test_more_processes_than_gpus_are_refused(command, tmp_path, monkeypatch, capsys):
    count = str(torch.cuda.device_count() + 1)
    for name, value in {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(command(tmp_path / "run")) == 2
    assert f"LOCAL_WORLD_SIZE: found {count} processes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# Use


def check_same(ours: Instances, theirs: Instances) -> None:
    """Boxes, scores and labels."""
    assert len(theirs.scores) > 1
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.2)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=2e-3)
    np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_masks_are_those_of_a_cpu(trained, picture):
    gpu, cpu = (MaskFrozenDetr.from_pretrained(trained, device=kind).predict(picture, 0.2) for kind in ("cuda", "cpu"))
    check_same(gpu, cpu)
    assert (gpu.masks & cpu.masks).sum() / (gpu.masks | cpu.masks).sum() > 0.99


def test_a_finer_look_is_that_of_a_cpu(command, picture, tmp_path):
    """The larger picture travels beside the usual one, and both are pre-processed where the detector lies."""
    assert main(command(tmp_path / "run", "--finer-look", "--iterations", "4")) == 0
    models = (MaskFrozenDetr.from_pretrained(tmp_path / "run", device=kind) for kind in ("cuda", "cpu"))
    gpu, cpu = (model.predict(picture, 0.2) for model in models)
    check_same(gpu, cpu)
    assert (gpu.masks ^ cpu.masks).mean() < 0.01


def test_a_network_goes_where_its_detector_lies(trained, picture):
    """As after a training in Python, which leaves the detector on the GPU."""
    detector = load_detector(SCENE_DETECTOR).to(GPU)
    for model in (MaskFrozenDetr.build(detector), MaskFrozenDetr.from_pretrained(trained, detector)):
        assert len(model.predict(picture).scores)


def test_evaluation_is_that_of_a_cpu(trained, scenes_folder, tmp_path):
    figures = []
    for device in ("cuda", "cpu"):
        file = tmp_path / f"{device}.json"
        assert main(["evaluate", str(trained), str(scenes_folder), "--device", device, "--json", str(file)]) == 0
        figures.append(json.loads(file.read_text()))
    for kind in ("box", "mask"):
        assert figures[0][kind]["AP"] == pytest.approx(figures[1][kind]["AP"], abs=0.5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_command_predicts_and_measures(precision, trained, picture, tmp_path, capsys):
    more = ["--device", "cuda", "--precision", precision]
    assert main(["predict", str(trained), str(picture.parent), "--output", str(tmp_path / "o"), *more]) == 0
    assert json.loads((tmp_path / "o" / "predictions.json").read_text())["annotations"]
    assert main(["benchmark", str(trained), str(picture), *more]) == 0
    assert torch.cuda.get_device_name() in capsys.readouterr().out


def test_a_gpu_without_memory_is_one_line_a_picture(trained, picture, tmp_path, capsys):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(60e6 / torch.cuda.get_device_properties(0).total_memory)
    try:
        code = main(["predict", str(trained), str(picture), "--output", str(tmp_path / "o"), "--device", "cuda"])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    shown = capsys.readouterr().err
    assert code == 2, shown
    assert "not enough memory" in shown
    assert "Traceback" not in shown


@pytest.mark.skipif(not list(Distribution.discover(name="mask-frozen-detr")), reason="the package is not installed")
def test_a_model_on_a_gpu_is_exported(trained, picture, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from mask_frozen_detr.runtime import OnnxModel

    assert main(["export", str(trained), "--output", str(tmp_path / "model")]) == 0
    check_same(
        MaskFrozenDetr.from_pretrained(trained, device="cuda").predict(picture, 0.2),
        OnnxModel(tmp_path / "model").predict(picture, 0.2),
    )
