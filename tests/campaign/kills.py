"""Runs that are killed and resumed, at any moment and by any signal: the weights of the run that never was."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

from campaign.bench import STEPS, VARIANTS, Bench, Try, outcome
from campaign.commands import Command, Ran, command_line, manners, run

SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
SPAN = 1.5  # seconds that a run takes, or a little more


def killed_and_resumed(bench: Bench, random: Random, folder: Path) -> Try:
    variant = random.choice(list(VARIANTS))
    expected = bench.undisturbed(variant)
    output, story = folder / "run", [variant]
    faults: list[str] = []
    for _ in range(random.choice([1, 1, 2, 3])):
        number = random.choice(list(SIGNALS))
        # At the start, or about the end of a step: of so many, that the machine's pace decides nothing.
        steps, later, group = random.choice([None, *range(STEPS + 1)]), random.uniform(0, 0.1), random.random() < 0.5
        if steps is None:
            later *= 6
        moment = f"{later:.2f} s after {'the start' if steps is None else f'step {steps}'}"
        story.append(f"{number.name} {moment}{' to all' if group else ''}")
        before = _told(output)
        ran = _killed_at(bench, output, variant, number, steps, later, group)
        faults += [f"{story[-1]}: {fault}" for fault in _check_killed(ran, number, output, before)]
        if faults:
            break
    if not faults:
        ran = run(_again(bench, output, variant), folder)
        faults += manners(ran, (0,))
    if not faults:
        faults += [f"other {name} than of the undisturbed run" for name in outcome(output).differences(expected)]
    return Try(", ".join(story), faults)


def _again(bench: Bench, output: Path, variant: str) -> list[str]:
    """What a user gives: with --resume as soon as there is anything."""
    there = output.exists() and any(output.iterdir())
    return bench.train(output, variant, *(["--resume"] if there else []))


def _killed_at(
    bench: Bench, output: Path, variant: str, number: int, steps: int | None, later: float, group: bool
) -> Ran:
    """steps: wait until so many are told of, None: not at all. later: seconds after that."""
    command = Command(command_line(_again(bench, output, variant)), output.parent)
    while steps is not None and _steps(output) < steps and not command.over():
        time.sleep(0.005)
    began = time.monotonic()
    while not command.over() and time.monotonic() - began < later:
        time.sleep(0.001)
    command.signal(number, group)
    return command.wait()


def _steps(output: Path) -> int:
    """That a run has told of; -1 before it began."""
    metrics = output / "metrics.jsonl"
    if not metrics.exists():
        return -1
    lines = [line for line in metrics.read_bytes().splitlines() if line.endswith(b"}")]
    return json.loads(lines[-1])["step"] if lines else 0


def _told(output: Path) -> tuple[int, int] | None:
    """Which file of metrics a run has, and when it was written."""
    metrics = output / "metrics.jsonl"
    return (metrics.stat().st_ino, metrics.stat().st_mtime_ns) if metrics.exists() else None


def _check_killed(ran: Ran, number: int, output: Path, before: tuple[int, int] | None) -> list[str]:
    """before: what `_told` of the run before this command, whose steps an earlier SIGKILL may have lost."""
    codes = {0, SIGNALS[signal.Signals(number)]}
    if number != signal.SIGKILL and not ran.text:
        codes.add(-number)  # before the command line itself
    if number == signal.SIGKILL:  # its loader processes may say that it is gone
        ran = replace(ran, text="")
    faults = manners(ran, codes)
    metrics = output / "metrics.jsonl"
    if not faults and ran.code in (130, 143) and _told(output) not in (None, before) and metrics.read_text().strip():
        # This command did a step: it must not be lost.
        finished = (output / "mask_network.safetensors").exists()
        if not (output / "checkpoint.pt").exists() and not finished:
            faults.append(f"exit code {ran.code} after {len(metrics.read_text().splitlines())} steps, no checkpoint")
    return faults


def signals_at_the_start(bench: Bench, random: Random, folder: Path) -> Try:
    """A real process that is interrupted while it imports: no traceback of ours, and the shell's exit code."""
    number = random.choice([signal.SIGINT, signal.SIGTERM])
    moment = random.uniform(0.0, 4.0) if random.random() < 0.2 else random.uniform(0.0, 0.6)
    commands = [
        bench.train(folder / "run"),
        ["evaluate", str(bench.run), str(bench.data)],
        ["recipes"],
        ["train", "--help"],
    ]
    command = random.choice(commands)
    with open(folder / "output", "wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "mask_frozen_detr_command", *command],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            start_new_session=True,
        )
        started = time.monotonic()
        while process.poll() is None and time.monotonic() - started < moment:
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(number)
        try:
            code, late = process.wait(timeout=30), False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code, late = process.wait(), True
    text = (folder / "output").read_text(errors="replace")
    codes = {0, SIGNALS[number], *([-number] if moment < 1 else [])}
    if "Traceback" in text and "mask_frozen_detr" not in text:
        text, codes = "", {*codes, 1}  # the interpreter's own start, before any line of ours
    elif command[0] == "recipes" or "--help" in command:
        codes.add(-number)  # all is said, and the interpreter, at its end, obeys no handler any more
    faults = manners(Ran(code, text, time.monotonic() - started, 0, late), codes)
    return Try(f"{command[0]}, {number.name} after {moment:.2f} s", faults)


def two_runs_one_folder(bench: Bench, random: Random, folder: Path) -> Try:
    """Two commands at one time on one folder: one of them works, the other is refused or finds it done."""
    output = folder / "run"
    story = []
    first_seed, second_seed = random.choice([("0", "0"), ("0", "1")])
    more = random.choice([[], [], ["--resume"], ["--overwrite"]])
    if more == ["--resume"] and random.random() < 0.5:
        # Both go on with a run that was killed.
        shutil.copytree(bench.killed, output)
        first_seed = second_seed = "0"
        story.append("a killed run")
    resumes = ["--resume"] if output.exists() else []
    first = Command(command_line(bench.train(output, "plain", "--seed", first_seed, *resumes)), folder)
    moment = random.choice([0.0, random.uniform(0, 0.5), random.uniform(0, SPAN)])
    time.sleep(moment)
    second = Command(command_line(bench.train(output, "plain", "--seed", second_seed, *more)), folder)
    ends = [first.wait(), second.wait()]
    story += [f"seed {first_seed} {resumes}", f"{moment:.2f} s later seed {second_seed} {more}"]
    faults = [fault for ran in ends for fault in manners(ran)]
    codes = [ran.code for ran in ends]
    if not faults and 0 not in codes:
        faults.append(f"both are refused: {ends[0].last_line} / {ends[1].last_line}")
    if not faults:
        found = outcome(output)
        seed = json.loads((output / "training.json").read_text())["seed"]
        if len(found.metrics) != STEPS:
            faults.append(f"{len(found.metrics)} lines of metrics, expected {STEPS}")
        elif seed == 0 and found.differences(bench.undisturbed("plain")):
            faults.append(f"mixed: other {found.differences(bench.undisturbed('plain'))}, exit codes {codes}")
        elif seed == 0 and first_seed != second_seed and codes == [2, 0]:
            faults.append("the folder holds the run that was refused")
    return Try(", ".join(story), faults)
