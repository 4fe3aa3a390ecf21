"""A run that is killed at any moment goes on, and ends with the weights of the run that never was; nothing is lost.

The killed runs are real processes that end by SIGKILL.
"""

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from folders import contents, read_metrics
from nursery import NURSERY, run_main

from mask_frozen_detr import model
from mask_frozen_detr.cli import main
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.machine import files
from mask_frozen_detr.model import CONFIG_FILE, DETECTOR_FOLDER, WEIGHTS_FILE, MaskFrozenDetr
from mask_frozen_detr.run.transformers_names import TRANSFORMERS_FILES
from mask_frozen_detr.training import loop as training
from mask_frozen_detr.training import records, run_folder, step
from mask_frozen_detr.training.pseudo_masks.store import PseudoMasks
from mask_frozen_detr.training.run_folder import CHECKPOINT_FILE, METRICS_FILE, TRAINING_FILE

STEPS = 7
NETWORK = "--preset paper --image-layers 1 --box-layers 1 --mask-width 8 --roi-size 8 --no-report --log none"
TRAINING = f"--iterations {STEPS} --checkpoint-every 3 --log-every 1 --min-box-iou 0 --lr 1e-3 --precision fp32"
VARIANTS = {
    "plain": "--workers 0",
    "ema, accumulation, odd log": "--workers 0 --ema 0.9 --batch 4 --accumulate 2 --log-every 2",
    "a loader process": "--workers 1 --ema 0.5",
    "fine-tuning": "--workers 0 --finetune partial --ema 0.5",
    "pseudo-masks": "--workers 0 --masks-from boxes --rounds 2 --ema 0.5",
}
CLOCKS = {"images_per_second", "device_hours", "peak_memory_gb"}

Killer = Callable[[], None]


def die() -> None:
    for worker in multiprocessing.active_children():  # they would end by themselves, but only after some seconds
        worker.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def figures(output: Path) -> list[dict]:
    """The metrics without what the clock decides."""
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in read_metrics(output)]


def evaluation(output: Path) -> dict:
    saved = json.loads((output / f"evaluation-{STEPS}.json").read_text())
    del saved["seconds"]
    return saved


@pytest.fixture(scope="module")
def command(squashing_folder, few_scenes_folder) -> Callable[..., list[str]]:
    """The command line of a run: `command(output, variant, *more)`."""

    def build(output: Path, variant: str = "plain", *more: str) -> list[str]:
        start = ["train", str(squashing_folder), str(few_scenes_folder), "--output", str(output)]
        return [*start, *f"{NETWORK} {TRAINING} {VARIANTS[variant]}".split(), *more]

    return build


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory) -> Callable[[str], Path]:
    """The run folder of a variant's run that nobody killed."""
    runs: dict[str, Path] = {}

    def run(variant: str) -> Path:
        if variant not in runs:
            output = tmp_path_factory.mktemp("undisturbed") / "run"
            assert main(command(output, variant)) == 0
            runs[variant] = output
        return runs[variant]

    return run


# --- where a run is killed: each replaces a function, in the child alone, by one that dies ---


def at_call(owner: object, name: str, number: int, only: str = "") -> Killer:
    """Dies at the `number`-th call of `owner.name` (of those that name a file `only`)."""

    def patch() -> None:
        original, seen = getattr(owner, name), 0

        def counted(*args, **options):
            nonlocal seen
            seen += any(only in str(argument) for argument in args)
            if seen == number:
                die()
            return original(*args, **options)

        setattr(owner, name, counted)

    return patch


def in_the_midst_of_a_file(only: str) -> Killer:
    """Dies with half of the second such file written."""

    def patch() -> None:
        original, seen = os.fsync, 0

        def torn(descriptor: int) -> None:
            nonlocal seen
            seen += only in Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
            if seen == 2:
                os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
                die()
            original(descriptor)

        setattr(files.os, "fsync", torn)  # noqa: B010 - of another type

    return patch


def in_the_midst_of_a_line() -> None:
    """Dies with half of the fifth line of metrics written."""
    original, seen = run_folder.RunFolder.append_metrics, 0

    def torn(self: run_folder.RunFolder, line: dict) -> None:
        nonlocal seen
        seen += 1
        original(self, line)
        if seen == 5:
            path = self.path / METRICS_FILE
            path.write_text(path.read_text()[:-30])
            die()

    run_folder.RunFolder.append_metrics = torn  # type: ignore[method-assign]


MOMENTS: dict[str, Killer] = {
    "with half of the folder made": at_call(files.os, "fsync", 1),
    "before the first step": at_call(step, "step_losses", 1),
    "before the first checkpoint": at_call(step, "step_losses", 3),
    "in the step after a checkpoint": at_call(step, "step_losses", 4),
    "with half a checkpoint written": in_the_midst_of_a_file("checkpoint"),
    "before a checkpoint takes its place": at_call(files.os, "replace", 2, only=CHECKPOINT_FILE),
    "with half a line of metrics written": in_the_midst_of_a_line,
    "before the weights are written": at_call(model, "save_network_weights", 1),
    "in the last evaluation": at_call(records, "measure", 1),
    "in the write of that evaluation": at_call(files.os, "replace", 1, only=f"evaluation-{STEPS}"),
    "before the checkpoint is given up": at_call(Path, "unlink", 1, only=CHECKPOINT_FILE),
}
SLOW = {  # each like another one, or tried by the campaign's kills
    "before a checkpoint takes its place",
    "with half a line of metrics written",
    "in the write of that evaluation",
}
# Of the ten training scenes, and of a run in two rounds.
DRAWING: dict[str, Killer] = {
    "while masks are drawn": at_call(PseudoMasks, "write", 4),
    "while masks are drawn anew": at_call(PseudoMasks, "write", 14),
}


def be_killed(moment: str, arguments: list[str]) -> None:
    """What the child does."""
    {**MOMENTS, **DRAWING}[moment]()
    run_main(arguments, {})


def kill(arguments: list[str], moment: str) -> None:
    """Runs a command line up to a moment."""
    child = NURSERY.Process(target=be_killed, args=(moment, arguments))
    child.start()
    child.join(timeout=120)
    assert child.exitcode == -signal.SIGKILL, "the run ended before it could be killed"


def check_same_outcome(output: Path, expected: Path) -> None:
    assert (output / WEIGHTS_FILE).read_bytes() == (expected / WEIGHTS_FILE).read_bytes()
    assert figures(output) == figures(expected)
    for file in (expected / DETECTOR_FOLDER).glob("*"):
        assert (output / DETECTOR_FOLDER / file.name).read_bytes() == file.read_bytes()
    assert evaluation(output) == evaluation(expected)
    left = {path.name for path in output.iterdir()}
    assert left == {path.name for path in expected.iterdir()}, "an unfinished file or a checkpoint was left behind"
    assert CHECKPOINT_FILE not in left


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(moment, marks=pytest.mark.slow if moment in SLOW else [])
        for moment in MOMENTS
        if not moment.startswith("before the first")
    ],
)
def test_killed_at_any_moment(moment, command, undisturbed, tmp_path):
    kill(command(tmp_path / "run"), moment)
    assert main(command(tmp_path / "run", "plain", "--resume")) == 0
    check_same_outcome(tmp_path / "run", undisturbed("plain"))


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=[] if name == "a loader process" else pytest.mark.slow)
        for name in VARIANTS
        if name != "plain"
    ],
)
def test_killed_three_times(variant, command, undisturbed, tmp_path):
    output = tmp_path / "run"
    kill(command(output, variant), "with half a checkpoint written")
    kill(command(output, variant, "--resume"), "before the first step")
    kill(command(output, variant, "--resume"), "in the last evaluation")
    assert main(command(output, variant, "--resume")) == 0
    check_same_outcome(output, undisturbed(variant))


@pytest.mark.parametrize("moment", DRAWING)
def test_killed_while_masks_are_drawn(moment, command, undisturbed, tmp_path):
    output = tmp_path / "run"
    kill(command(output, "pseudo-masks"), moment)
    drawn = {path.name for path in output.glob("pseudo-masks/round-1/*.npz")}
    assert drawn, "nothing was drawn before"
    assert main(command(output, "pseudo-masks", "--resume")) == 0
    check_same_outcome(output, undisturbed("pseudo-masks"))


@pytest.mark.slow
def test_variants_differ(undisturbed):
    """Or equal weights would show nothing."""
    weights = {(undisturbed(variant) / WEIGHTS_FILE).read_bytes() for variant in VARIANTS}
    assert len(weights) == len(VARIANTS)


def test_killed_from_outside(command, undisturbed, tmp_path):
    output = tmp_path / "run"
    child = NURSERY.Process(target=run_main, args=(command(output), {}))
    child.start()
    metrics = output / METRICS_FILE
    while child.is_alive() and not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
        time.sleep(0.005)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL, "the run ended before it could be killed"
    assert main(command(output, "plain", "--resume")) == 0
    check_same_outcome(output, undisturbed("plain"))


# --- what --resume refuses, and what a fresh start does ---


@pytest.fixture(scope="module")
def killed_once(command, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("killed") / "run"
    kill(command(output), "in the step after a checkpoint")
    return output


@pytest.fixture
def killed(killed_once, tmp_path) -> Path:
    """A run folder with a checkpoint of step 3."""
    return shutil.copytree(killed_once, tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--lr 2e-3", ["lr", "0.001", "0.002"]),
        ("--seed 1", ["seed"]),
        ("--iterations 9", ["iterations", "7", "9"]),
        ("--precision bf16", ["precision"]),
        ("--ema 0.5", ["ema"]),
        ("--no-flip", ["augment"]),
        ("--mask-width 16", ["mask_width", "8", "16"]),
    ],
)
def test_other_options_are_refused(more, words, command, killed, capsys):
    before = contents(killed)
    assert main(command(killed, "plain", "--resume", *more.split())) == 2
    message = capsys.readouterr().err
    for word in [CHECKPOINT_FILE, *words]:
        assert word in message
    assert contents(killed) == before


def test_other_data_and_other_detectors_are_refused(
    command, killed, few_scenes_folder, padding_folder, capsys, tmp_path
):
    arguments = command(killed, "plain", "--resume")
    fewer = tmp_path / "data"
    (fewer / "annotations").mkdir(parents=True)
    (fewer / "train2017").symlink_to(few_scenes_folder / "train2017")
    content = json.loads((few_scenes_folder / "annotations" / "instances_train2017.json").read_text())
    known = next(raw for raw in content["annotations"] if raw["category_id"] == 1)
    content["annotations"].remove(known)
    (fewer / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    assert main([*arguments[:2], str(fewer), *arguments[3:]]) == 2
    assert "instances" in capsys.readouterr().err
    assert main([arguments[0], str(padding_folder), *arguments[2:]]) == 2
    assert "detector" in capsys.readouterr().err


def test_what_does_not_decide_the_weights_may_change(command, killed, undisturbed):
    more = ["--workers", "1", "--log-every", "4", "--checkpoint-every", "2"]
    assert main(command(killed, "plain", "--resume", *more)) == 0
    assert (killed / WEIGHTS_FILE).read_bytes() == (undisturbed("plain") / WEIGHTS_FILE).read_bytes()
    assert [line["step"] for line in read_metrics(killed)] == [1, 2, 3, 4, 7]


def test_a_finished_run_is_only_loaded(command, undisturbed, capsys, monkeypatch):
    before = contents(undisturbed("plain"))
    monkeypatch.setattr(records, "measure", None)  # calling it would fail
    assert main(command(undisturbed("plain"), "plain", "--resume")) == 0
    shown = capsys.readouterr()
    assert "finished" in shown.err
    assert "box" in shown.out  # the table of its last evaluation
    assert contents(undisturbed("plain")) == before
    assert main(command(undisturbed("plain"), "plain", "--resume", "--iterations", "9")) == 2
    assert "iterations" in capsys.readouterr().err


def test_a_finished_run_resumed_in_python_has_its_weights(undisturbed, few_scenes_folder, tiny_network, squashing):
    saved = json.loads((undisturbed("plain") / TRAINING_FILE).read_text())
    trained = MaskFrozenDetr.build(squashing, tiny_network)
    config = training.TrainConfig(
        iterations=STEPS,
        checkpoint_every=3,
        log_every=1,
        min_box_iou=0,
        lr=saved["lr"],
        precision=saved["precision"],
        workers=0,
    )
    train_data, val_data = (load_split(few_scenes_folder, split) for split in ("train", "val"))
    found = training.train(trained, train_data, val_data, undisturbed("plain"), config, resume=True, quiet=True)
    assert found is not None
    written = json.loads((undisturbed("plain") / f"evaluation-{STEPS}.json").read_text())
    assert {"step": STEPS, **found.as_dict()} == written
    expected = MaskFrozenDetr.from_pretrained(undisturbed("plain"), squashing).network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in trained.network.state_dict().items())


@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_a_fresh_start_destroys_nothing(state, command, undisturbed, killed, capsys):
    output = undisturbed("plain") if state == "finished" else killed
    before = contents(output)
    assert main(command(output)) == 2
    message = capsys.readouterr().err
    for word in (str(output), state, "--resume", "--overwrite", "--output"):
        assert word in message
    assert contents(output) == before


def test_overwrite_starts_anew(command, killed, undisturbed, capsys):
    arguments = command(killed, "plain", "--overwrite")
    assert main([*arguments, "--resume"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    (killed / METRICS_FILE).write_text("of the old run\n")
    assert main(arguments) == 0
    check_same_outcome(killed, undisturbed("plain"))


def test_an_overwrite_that_is_killed_never_mixes_runs(command, killed, undisturbed):
    """The new run has other options: were it to go on from the old checkpoint, --resume would say so."""
    kill(command(killed, "a loader process", "--overwrite"), "before the first checkpoint")
    assert main(command(killed, "a loader process", "--resume")) == 0
    check_same_outcome(killed, undisturbed("a loader process"))


def test_resume_without_a_run_says_so(command, tmp_path, capsys):
    for output in (tmp_path / "none", tmp_path):
        assert main(command(output, "plain", "--resume")) == 2
        assert f"{output}: found no run to go on with; without --resume it is started" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- checkpoints that are none ---


class Runs:
    """Unpickling it would create a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["noise", "empty", "cut short", "code", "another dictionary", "a tensor"])
def test_bad_checkpoints_are_refused(kind, command, killed, capsys, tmp_path):
    path, ran = killed / CHECKPOINT_FILE, tmp_path / "ran"
    if kind == "noise":
        path.write_bytes(b"not a checkpoint at all")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut short":
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "code":
        torch.save({"step": 1, "network": Runs(ran)}, path)
    else:
        torch.save({"model": torch.zeros(1)} if kind == "another dictionary" else torch.zeros(1), path)
    before = contents(killed)
    assert main(command(killed, "plain", "--resume")) == 2
    assert str(path) in capsys.readouterr().err
    assert not ran.exists()
    assert contents(killed) == before


def test_the_folder_says_what_made_it(undisturbed, squashing_folder):
    names = {path.name for path in undisturbed("plain").iterdir()}
    evaluation = {f"evaluation-{STEPS}.json", f"evaluation-{STEPS}.jpg"}
    model = {CONFIG_FILE, WEIGHTS_FILE, *TRANSFORMERS_FILES}
    assert names == {*model, TRAINING_FILE, METRICS_FILE, "best", *evaluation}
    saved = json.loads((undisturbed("plain") / CONFIG_FILE).read_text())
    assert saved["detector"]["name"] == str(squashing_folder)
    resolved = json.loads((undisturbed("plain") / TRAINING_FILE).read_text())
    assert resolved["iterations"] == resolved["steps"] == STEPS
    assert resolved["augment"]["flip"] is True
    assert [line["step"] for line in read_metrics(undisturbed("plain"))] == list(range(1, STEPS + 1))
