"""Two processes do what one does: the same curve at the same global batch, the same files, each image once.

Quick ones are forks with the environment that `torchrun` and `accelerate launch` give; slow ones are started by these.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders import read_metrics
from nursery import NURSERY, free_port, run_main
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging

from mask_frozen_detr.cli import main
from mask_frozen_detr.demo.scenes import SCENE_DETECTOR
from mask_frozen_detr.model import WEIGHTS_FILE
from mask_frozen_detr.prediction.files import PREDICTIONS_FILE
from mask_frozen_detr.training import step
from mask_frozen_detr.training.checkpoint import load_checkpoint
from mask_frozen_detr.training.run_folder import CHECKPOINT_FILE

STEPS = 5
OPTIONS = f"--preset paper --image-layers 1 --box-layers 1 --mask-width 8 --roi-size 8 --workers 0 --batch 4 \
--iterations {STEPS} --log-every 1 --precision fp32 --min-box-iou 0 --lr 1e-3 --max-detections 20 --no-report \
--log none"


def die_together(shown: Path) -> None:
    """Once both are here: one that waits for a dead one would not be killed but fail, in its own time."""
    shown.with_suffix(".dying").touch()
    while len(list(shown.parent.glob("*.dying"))) < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def stop(call: int, at: int) -> None:
    if call == at:
        os.kill(os.getpid(), signal.SIGTERM)


def one_of_them(arguments: list[str], environment: dict[str, str], shown: Path, dies_at: int, stops_at: int) -> None:
    """What a child does; its output goes to a file, without that of libraries, which they give in every process."""
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", module="mask_frozen_detr")  # of what this project calls, and how
    if dies_at:
        original, calls = step.step_losses, iter(range(1, dies_at))

        def last(*parts: Any) -> dict[str, Tensor]:
            if not next(calls, 0):
                die_together(shown)
            return original(*parts)

        setattr(step, "step_losses", last)  # noqa: B010 - of a looser type
    if stops_at and environment["RANK"] == "1":
        losses, steps = step.step_losses, itertools.count(1)

        def stopped(*parts: Any) -> dict[str, Tensor]:
            stop(next(steps), stops_at)
            return losses(*parts)

        setattr(step, "step_losses", stopped)  # noqa: B010 - of a looser type
    with open(shown, "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        run_main(arguments, environment)


def run_two(arguments: list[str], folder: Path, expected: int = 0, dies_at: int = 0, stops_at: int = 0) -> list[str]:
    """The command line in two processes; what each of them printed. In a step both may die, or one get SIGTERM."""
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    shown = [folder / f"shown-{rank}.txt" for rank in (0, 1)]
    children = []
    for rank in (0, 1):
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        children.append(
            NURSERY.Process(target=one_of_them, args=(arguments, environment, shown[rank], dies_at, stops_at))
        )
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=120)
        if child.exitcode is None:
            child.kill()
            child.join()
    texts = [path.read_text() for path in shown]
    assert [child.exitcode for child in children] == [expected, expected], "\n".join(texts)
    return texts


@pytest.fixture(scope="module")
def train_command(squashing_folder, scenes_folder) -> Callable[..., list[str]]:
    def build(output: Path, *more: str) -> list[str]:
        return ["train", str(squashing_folder), str(scenes_folder), "--output", str(output), *OPTIONS.split(), *more]

    return build


@pytest.fixture(scope="module")
def alone(train_command, tmp_path_factory) -> Path:
    """The run of one process."""
    output = tmp_path_factory.mktemp("alone") / "run"
    assert main(train_command(output)) == 0
    return output


LOGGED = ["--log-every", "2", "--checkpoint-every", "3"]


@pytest.fixture(scope="module")
def undisturbed(train_command, tmp_path_factory) -> Path:
    """The run of two processes that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_two(train_command(folder / "run", *LOGGED), folder)
    return folder / "run"


def lines(output: Path) -> list[dict]:
    """Metrics without the memory, which is the process's own affair."""
    return [{key: value for key, value in line.items() if key != "peak_memory_gb"} for line in read_metrics(output)]


def check_same_run(output: Path, expected: Path) -> None:
    """Up to rounding: sums are taken in another order."""
    assert {path.name for path in output.iterdir()} == {path.name for path in expected.iterdir()}
    found, reference = lines(output), lines(expected)
    assert [line["step"] for line in found] == list(range(1, STEPS + 1)), "one process writes"
    for ours, theirs in zip(found, reference, strict=True):
        for key in ("loss", "bce", "dice", "iou", "matched_iou", "lr"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5), key
    weights, theirs = load_file(output / WEIGHTS_FILE), load_file(expected / WEIGHTS_FILE)
    distance = sum(float((weights[key] - theirs[key]).square().sum()) for key in theirs) ** 0.5
    norm = sum(float(value.square().sum()) for value in theirs.values()) ** 0.5
    assert distance < 1e-3 * norm
    figures, expected_figures = (
        json.loads((folder / f"evaluation-{STEPS}.json").read_text()) for folder in (output, expected)
    )
    assert figures["images"] == expected_figures["images"] == 5
    assert figures["box"] == expected_figures["box"]
    for key, value in expected_figures["mask"].items():
        assert figures["mask"][key] == (None if value is None else pytest.approx(value, abs=0.5)), key


# --- the same as one ---


@pytest.mark.parametrize("cached", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_same_curve_and_ap(cached, train_command, alone, tmp_path):
    """Points, views and order of the samples do not depend on who takes them."""
    more: list[str] = []
    if cached:
        more = ["--cache", str(tmp_path / "cache")]
        alone = tmp_path / "alone"
        assert main(train_command(alone, "--cache", str(tmp_path / "other"))) == 0
    shown = run_two(train_command(tmp_path / "run", *more), tmp_path)
    check_same_run(tmp_path / "run", alone)
    assert shown[0].count("The mask network lies in") == 1
    assert not shown[1].strip(), "one process speaks"


@pytest.mark.parametrize(
    "more",
    [["--query-o2o"], pytest.param(["--no-mask-scoring", "--head", "segmenter"], marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_a_process_without_a_single_match(more, scenes_folder, squashing_folder, tmp_path):
    """One of two pictures cannot be read, so one process never has anything to learn from: as with one alone."""
    annotations = json.loads((scenes_folder / "annotations" / "instances_train2017.json").read_text())
    known = {a["image_id"] for a in annotations["annotations"] if a["category_id"] <= 3}
    annotations["images"] = [image for image in annotations["images"] if image["id"] in known][:2]
    chosen = {image["id"] for image in annotations["images"]}
    annotations["annotations"] = [a for a in annotations["annotations"] if a["image_id"] in chosen]
    data = tmp_path / "data"
    (data / "annotations").mkdir(parents=True)
    (data / "annotations" / "instances_train2017.json").write_text(json.dumps(annotations))
    (data / "train2017").mkdir()
    read, broken = (image["file_name"] for image in annotations["images"])
    shutil.copy(next(scenes_folder.rglob(read)), data / "train2017" / read)
    (data / "train2017" / broken).write_bytes(b"no picture")

    def command(output: Path) -> list[str]:
        options = [*OPTIONS.replace("--batch 4", "--batch 2").split(), *more]
        json_file = data / "annotations" / "instances_train2017.json"
        return ["train", str(squashing_folder), str(json_file), "--output", str(output), *options]

    assert main(command(tmp_path / "alone")) == 0
    run_two(command(tmp_path / "run"), tmp_path)
    found, expected = lines(tmp_path / "run"), lines(tmp_path / "alone")
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], rel=1e-3)
    weights, reference = (load_file(tmp_path / name / WEIGHTS_FILE) for name in ("run", "alone"))
    distance = sum(float((weights[key] - reference[key]).square().sum()) for key in reference) ** 0.5
    assert distance < 5e-3 * sum(float(value.square().sum()) for value in reference.values()) ** 0.5


def test_killed_and_resumed(train_command, undisturbed, tmp_path):
    """In the midst of a line of metrics, of which each process has its share: to the very weights, as with one."""
    run_two(train_command(tmp_path / "run", *LOGGED), tmp_path, expected=-signal.SIGKILL, dies_at=5)
    assert [line["step"] for line in lines(tmp_path / "run")] == [2, 4]
    run_two(train_command(tmp_path / "run", *LOGGED, "--resume"), tmp_path)
    assert (tmp_path / "run" / WEIGHTS_FILE).read_bytes() == (undisturbed / WEIGHTS_FILE).read_bytes()
    clocks = {"images_per_second": 0, "device_hours": 0}
    found, expected = ([{**line, **clocks} for line in lines(folder)] for folder in (tmp_path / "run", undisturbed))
    assert found == expected


def test_a_signal_to_one_stops_both_after_the_same_step(train_command, undisturbed, tmp_path):
    options = ["--log-every", "2", "--checkpoint-every", "5"]
    run_two(train_command(tmp_path / "run", *options), tmp_path, expected=143, stops_at=2)
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT_FILE)["step"] == 3, "when the other has heard of it"
    run_two(train_command(tmp_path / "run", *options, "--resume"), tmp_path)
    assert (tmp_path / "run" / WEIGHTS_FILE).read_bytes() == (undisturbed / WEIGHTS_FILE).read_bytes()


def test_evaluate(scenes_folder, tmp_path):
    """Three images and two, of the demo's detector: files equal to the last byte, so no image counts twice."""

    def arguments(name: str) -> list[str]:
        json_file, results = tmp_path / f"{name}.json", tmp_path / f"{name}-results.json"
        more = ["--workers", "0", "--json", str(json_file), "--results-file", str(results)]
        return ["evaluate", str(SCENE_DETECTOR), str(scenes_folder), *more]

    assert main(arguments("one")) == 0
    shown = run_two(arguments("two"), tmp_path)
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["images"] == 5
    assert one["box"]["AP"] > 20
    assert {**one, "seconds": 0} == {**two, "seconds": 0}
    for kind in ("bbox", "segm"):
        one_file, two_file = (tmp_path / f"{name}-results.{kind}.json" for name in ("one", "two"))
        assert one_file.read_bytes() == two_file.read_bytes()
        assert len(json.loads(two_file.read_text())) > 20
    assert shown[0].count("\nmask") == 1
    assert not shown[1].strip(), "one process speaks"


@pytest.mark.parametrize("pictures", [pytest.param("all of them", marks=pytest.mark.slow), "fewer than processes"])
def test_predict(pictures, alone, scenes, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for record in scenes[1].images[: 1 if pictures == "fewer than processes" else 5]:
        shutil.copy(record.path, folder)
    if pictures == "all of them":
        (folder / "0-broken.jpg").write_bytes(b"no picture")

    def arguments(name: str) -> list[str]:
        return ["predict", str(alone), str(folder), "--output", str(tmp_path / name), "--score-threshold", "0.01"]

    assert main(arguments("one")) == 0
    shown = run_two(arguments("two"), tmp_path)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert len(one) == (3 if pictures == "fewer than processes" else 7)
    saved = json.loads(one[PREDICTIONS_FILE])
    assert len({entry["file_name"] for entry in saved["images"]}) == len(saved["images"]) == len(one) - 2
    assert len(saved["annotations"]) > 5
    assert shown[0].count("instances in") == 1
    assert ("0-broken.jpg" in shown[0]) == (pictures == "all of them")
    assert not shown[1].strip(), "one process speaks"


def test_what_the_user_can_mend_ends_both(alone, train_command, tmp_path):
    shown = run_two(train_command(tmp_path / "run", "--batch", "3"), tmp_path, expected=2)
    assert all("batch: found 3, expected a multiple of processes × accumulate = 2 × 1" in text for text in shown)
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    arguments = ["predict", str(alone), str(tmp_path / "text.jpg"), "--output", str(tmp_path / "out")]
    assert all("no picture could be read" in text for text in run_two(arguments, tmp_path, expected=2))


# --- as a user starts them ---


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_launchers(launcher, train_command, alone, tmp_path):
    start = {
        "accelerate": "accelerate.commands.launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no",
        "torchrun": "torch.distributed.run --nproc-per-node 2",
    }[launcher]
    port = ["--main_process_port" if launcher == "accelerate" else "--master-port", free_port()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(tmp_path)}
    subprocess.run(
        [
            # torchrun would take `--log` for the beginning of an option of its own
            *[sys.executable, "-m", *start.split(), *port, "-m", *["--"][launcher == "accelerate" :]],
            "mask_frozen_detr.cli",
            *train_command(tmp_path / "run"),
        ],
        check=True,
        env=environment,
        timeout=280,
    )
    check_same_run(tmp_path / "run", alone)
