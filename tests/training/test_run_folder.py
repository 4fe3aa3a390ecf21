"""A run folder belongs to one run: nothing else is removed, no other works there, damage and changes are told."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import contents, read_metrics
from nursery import NURSERY, run_main

from mask_frozen_detr.cli import main
from mask_frozen_detr.machine.locks import LOCK_FILE
from mask_frozen_detr.model import CONFIG_FILE, WEIGHTS_FILE
from mask_frozen_detr.run.transformers_names import TRANSFORMERS_FILES
from mask_frozen_detr.training import records, step
from mask_frozen_detr.training.run_folder import CHECKPOINT_FILE, METRICS_FILE, TRAINING_FILE

NETWORK = "--preset paper --image-layers 1 --box-layers 1 --mask-width 8 --roi-size 8 --no-report"
TRAINING = "--iterations 4 --checkpoint-every 2 --log-every 1 --min-box-iou 0 --lr 1e-3 --precision fp32 --workers 0"
Command = Callable[..., list[str]]


@pytest.fixture(scope="module")
def data(few_scenes_folder, tmp_path_factory) -> Path:
    """A copy, whose files tests may change."""
    return shutil.copytree(few_scenes_folder, tmp_path_factory.mktemp("data") / "scenes")


@pytest.fixture(scope="module")
def detector(squashing_folder, tmp_path_factory) -> Path:
    """A copy, whose files tests may change."""
    return shutil.copytree(squashing_folder, tmp_path_factory.mktemp("detectors") / "copy")


@pytest.fixture(scope="module")
def command(detector, data) -> Command:
    def build(output: Path, *more: str) -> list[str]:
        start = ["train", str(detector), str(data), "--output", str(output)]
        return [*start, *f"{NETWORK} {TRAINING}".split(), *more]

    return build


def stop_in_step(number: int, kind: signal.Signals, waits: bool) -> None:
    """The forward pass of that step sends a signal; with `waits` it does not come to an end."""
    original = step.step_losses
    seen: list[None] = []

    def losses(*parts, **options):
        seen.append(None)
        if len(seen) == number:
            os.kill(os.getpid(), kind)
            while waits:
                time.sleep(0.01)
        return original(*parts, **options)

    step.step_losses = losses


def stop_in_evaluation(kind: signal.Signals) -> None:
    original = records.measure

    def evaluate(*parts, **options):
        os.kill(os.getpid(), kind)
        return original(*parts, **options)

    records.measure = evaluate


def stopped(arguments: list[str], patch: Callable, *options: object) -> None:
    patch(*options)
    run_main(arguments, {})


def run_stopped(arguments: list[str], patch: Callable, *options: object) -> int | None:
    child = NURSERY.Process(target=stopped, args=(arguments, patch, *options))
    child.start()
    child.join(timeout=120)
    return child.exitcode


@pytest.fixture(scope="module")
def finished_once(command, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "run"
    assert main(command(output)) == 0
    return output


@pytest.fixture(scope="module")
def stopped_once(command, tmp_path_factory) -> Path:
    """Ctrl-C came in its third step."""
    output = tmp_path_factory.mktemp("stopped") / "run"
    assert run_stopped(command(output), stop_in_step, 3, signal.SIGINT, False) == 130
    return output


@pytest.fixture
def finished(finished_once, tmp_path) -> Path:
    return shutil.copytree(finished_once, tmp_path / "run")


@pytest.fixture
def unfinished(stopped_once, tmp_path) -> Path:
    return shutil.copytree(stopped_once, tmp_path / "run")


def refused(arguments: list[str], capsys) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err


# --- signals ---


def check_goes_on(output: Path, command: Command, expected: Path) -> None:
    assert main(command(output, "--resume")) == 0
    assert (output / WEIGHTS_FILE).read_bytes() == (expected / WEIGHTS_FILE).read_bytes()
    assert [line["step"] for line in read_metrics(output)] == [1, 2, 3, 4]
    assert not (output / LOCK_FILE).exists()


def test_ctrl_c_loses_no_step(unfinished, command, finished_once):
    """The third step, after which no checkpoint was due, is neither lost nor done twice."""
    assert len((unfinished / METRICS_FILE).read_text().splitlines()) == 3
    assert not (unfinished / LOCK_FILE).exists()
    check_goes_on(unfinished, command, finished_once)


@pytest.mark.parametrize(
    ("patch", "options", "code"),
    [
        (stop_in_step, (1, signal.SIGTERM, False), 143),
        (stop_in_step, (4, signal.SIGTERM, False), 143),
        (stop_in_evaluation, (signal.SIGINT,), 130),
        (stop_in_evaluation, (signal.SIGTERM,), 143),
    ],
    ids=["the first step", "the last step", "Ctrl-C in an evaluation", "SIGTERM in an evaluation"],
)
def test_a_stopped_run_goes_on(patch, options, code, command, finished_once, tmp_path):
    more = ["--evaluate-every", "3"]
    output = tmp_path / "run"
    assert run_stopped(command(output, *more), patch, *options) == code
    assert (output / CHECKPOINT_FILE).exists()
    check_goes_on(output, lambda output, *rest: command(output, *more, *rest), finished_once)
    assert {path.name for path in output.glob("evaluation-*.json")} == {"evaluation-3.json", "evaluation-4.json"}


def test_a_second_signal_ends_at_once(command, tmp_path):
    """Also where the first waits for a step that never ends."""
    output = tmp_path / "run"
    child = NURSERY.Process(target=stopped, args=(command(output), stop_in_step, 3, signal.SIGINT, True))
    child.start()
    try:
        wait_for_lines(output, 2)
        time.sleep(0.5)  # into the third step
        assert child.is_alive(), "the first signal waits for the step"
        os.kill(child.pid or 0, signal.SIGINT)
        child.join(timeout=30)
        assert child.exitcode == 130
    finally:
        child.kill()


def wait_for_lines(output: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (output / METRICS_FILE).exists() and (output / METRICS_FILE).read_text().count("\n") >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"{output}: the run did not get to iteration {count}")


# --- one run at a time ---


@pytest.mark.parametrize("more", [["--resume"], ["--overwrite"]])
def test_a_second_run_is_refused_while_the_first_lives(more, command, tmp_path, capsys):
    output = tmp_path / "run"
    child = NURSERY.Process(target=stopped, args=(command(output), stop_in_step, 3, signal.SIGINT, True))
    child.start()
    try:
        wait_for_lines(output, 2)
        while not (output / CHECKPOINT_FILE).exists():  # of the second step, the last thing before the third
            time.sleep(0.02)
        before = contents(output)
        assert f"{output}: another run or `predict` is working in it" in refused(command(output, *more), capsys)
        assert contents(output) == before
    finally:
        child.kill()
        child.join()
    assert main(command(output, *more)) == 0, "a dead run holds nothing"


def test_a_folder_that_is_removed_during_the_run_is_an_error(command, tmp_path, capsys, monkeypatch):
    output = tmp_path / "run"
    original = step.step_losses
    seen: list[None] = []

    def losses(*parts, **options):
        seen.append(None)
        if len(seen) == 3:
            shutil.rmtree(output)
        return original(*parts, **options)

    monkeypatch.setattr(step, "step_losses", losses)
    assert f"{output}: the folder was removed, moved or replaced" in refused(command(output), capsys)


# --- what is not the run's stays ---

FOREIGN = ["detector/model.safetensors", "tensorboard/events.out.tfevents.1", "evaluation-3.json", ".notes.part.txt"]


def plant(folder: Path, names: list[str]) -> dict[str, bytes]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("of the user")
    return dict.fromkeys(names, b"of the user")


@pytest.mark.parametrize("name", [*FOREIGN, METRICS_FILE, WEIGHTS_FILE, "notes.txt"])
@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--resume"]])
def test_no_run_starts_in_a_folder_of_others(name, more, command, tmp_path, capsys):
    mine = plant(tmp_path, [name])
    message = refused(command(tmp_path, *more), capsys)
    assert str(tmp_path) in message
    assert name.split("/")[0] in message
    assert contents(tmp_path) == mine


def test_overwrite_removes_what_the_run_wrote_and_nothing_else(finished, command):
    mine = plant(finished, FOREIGN)
    theirs = set(contents(finished)) - set(mine)
    assert main(command(finished, "--overwrite", "--iterations", "2", "--seed", "1")) == 0
    left = contents(finished)
    assert mine.items() <= left.items()
    assert {name for name in theirs if name.startswith("tensorboard/")}.isdisjoint(left)
    assert "evaluation-4.json" not in left
    assert json.loads(left[TRAINING_FILE])["seed"] == 1


@pytest.mark.parametrize("name", ["evaluation-2.json", "evaluation-2.jpg", "detector/config.json"])
def test_overwrite_that_would_replace_a_users_file_is_refused(name, finished, command, capsys):
    plant(finished, [name])
    before = contents(finished)
    more = ["--overwrite", "--iterations", "2", "--finetune", "full"]
    assert f"{finished / name.split('/')[0]}: no run wrote it" in refused(command(finished, *more), capsys)
    assert contents(finished) == before


def test_a_folder_of_an_older_version_is_known_by_its_names(finished, command, finished_once, capsys):
    """It has no list of files, no checksums, no digests, nothing for transformers, no best weights, no pictures."""
    shutil.rmtree(finished / "best")
    for picture in finished.glob("evaluation-*.jpg"):
        picture.unlink()
    for name in TRANSFORMERS_FILES:
        (finished / name).unlink()
    training = json.loads((finished / TRAINING_FILE).read_text())
    for key in ("files", "checksum", "run", "class_names", "preprocessing", "network"):
        del training[key]
    for key in ("annotations", "pictures"):
        del training["data"][key]
    (finished / TRAINING_FILE).write_text(json.dumps(training))
    edit(finished / CONFIG_FILE, lambda config: config.pop("checksums"))
    mine = plant(finished, ["detector/config.json", "notes.txt"])
    assert main(command(finished, "--resume")) == 0
    assert "finished" in capsys.readouterr().err
    assert main(command(finished, "--overwrite")) == 0
    left = contents(finished)
    assert mine.items() <= left.items()
    assert left[WEIGHTS_FILE] == (finished_once / WEIGHTS_FILE).read_bytes()
    assert len([name for name in left if name.startswith("tensorboard/")]) == 1


@pytest.mark.parametrize("place", ["detector", "data", "annotations", "pictures", "cache", "within the cache"])
def test_output_into_what_is_read_is_refused(place, detector, data, command, tmp_path, capsys):
    cache = tmp_path / "cache"
    output = {
        "detector": detector,
        "data": data,
        "annotations": data / "annotations",
        "pictures": data / "train2017",
        "cache": cache,
        "within the cache": cache / "run",
    }[place]
    before = contents(detector), contents(data)
    for more in ([], ["--overwrite"]):
        assert str(output) in refused(command(output, "--cache", str(cache), *more), capsys)
    assert (contents(detector), contents(data)) == before
    assert not cache.exists()


# --- what is damaged, and what has changed ---


def flip(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("name", [CHECKPOINT_FILE, TRAINING_FILE, METRICS_FILE])
def test_a_flipped_bit_is_noticed_when_a_run_goes_on(name, share, unfinished, command, capsys):
    flip(unfinished / name, share)
    assert name in refused(command(unfinished, "--resume"), capsys)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("name", [WEIGHTS_FILE, TRAINING_FILE])
def test_a_flipped_bit_is_noticed_in_a_finished_run(name, share, finished, command, data, capsys):
    flip(finished / name, share)
    assert name in refused(command(finished, "--resume"), capsys)
    if name == WEIGHTS_FILE:
        assert "damaged" in refused(["evaluate", str(finished), str(data)], capsys)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first_disc(content: dict) -> dict:
    return next(one for one in content["annotations"] if one["category_id"] == 1)


def move_a_corner(content: dict) -> None:
    first_disc(content)["segmentation"][0][0] += 1


def swap_names(content: dict) -> None:
    swapped = {"disc": "ring", "ring": "disc"}
    for category in content["categories"]:
        category["name"] = swapped.get(category["name"], category["name"])


@pytest.mark.parametrize(
    "change",
    [
        move_a_corner,
        swap_names,
        lambda content: first_disc(content).update(category_id=2),
        lambda content: content["images"].reverse(),
    ],
    ids=["a polygon", "names of classes", "a class", "the order of images"],
)
def test_changed_annotations_are_noticed(change, unfinished, command, data, capsys):
    path = data / "annotations" / "instances_train2017.json"
    before = path.read_bytes()
    try:
        edit(path, change)
        assert "annotations (polygons" in refused(command(unfinished, "--resume"), capsys)
    finally:
        path.write_bytes(before)


def test_a_changed_picture_of_the_same_size_is_noticed(unfinished, command, data, capsys):
    content = json.loads((data / "annotations" / "instances_train2017.json").read_text())
    shown = first_disc(content)["image_id"]
    name = next(image["file_name"] for image in content["images"] if image["id"] == shown)
    path = data / "train2017" / name
    before = path.read_bytes()
    try:
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert "content of the training pictures" in refused(command(unfinished, "--resume"), capsys)
    finally:
        path.write_bytes(before)


def test_other_pre_processing_is_noticed(unfinished, command, detector, capsys):
    path = detector / "preprocessor_config.json"
    before = path.read_bytes()
    try:
        edit(path, lambda content: content.update(rescale_factor=0.005))
        assert "another pre-processing" in refused(command(unfinished, "--resume"), capsys)
    finally:
        path.write_bytes(before)
