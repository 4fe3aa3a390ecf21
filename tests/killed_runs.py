"""Runs that real processes begin and that end by SIGKILL, at a moment of which each has a name."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

from folders import read_metrics
from nursery import NURSERY, run_main

from mask_frozen_detr import model
from mask_frozen_detr.machine import files
from mask_frozen_detr.model import CONFIG_FILE, DETECTOR_FOLDER, WEIGHTS_FILE
from mask_frozen_detr.training import records, run_folder, step
from mask_frozen_detr.training.pseudo_masks.store import PseudoMasks
from mask_frozen_detr.training.run_folder import CHECKPOINT_FILE, METRICS_FILE

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


# Each moment replaces a function, in the child alone, by one that dies.


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
    "with one of two descriptions written": at_call(files.os, "replace", 1, only=CONFIG_FILE),
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
