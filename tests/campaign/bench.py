"""What every try starts from: a tiny detector, rendered pictures, a finished run, an interrupted one, a cache."""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from campaign.commands import Command, Ran, command_line, run

STEPS = 4
NETWORK = "--image-layers 1 --box-layers 1 --mask-width 8 --roi-size 8 --no-report"
TRAINING = (
    f"--iterations {STEPS} --checkpoint-every 2 --log-every 1 --batch 1 --min-box-iou 0 --lr 1e-3 --precision fp32"
)
VARIANTS = {
    "plain": "--workers 0 --log none",
    "mean": "--workers 0 --ema 0.9 --log none",
    "accumulation": "--workers 0 --batch 2 --accumulate 2 --log-every 2 --log none",
    "a loader process": "--workers 1 --log none",
    "cache": "--workers 0 --cache {folder}/cache --log none",
    "fine-tuning": "--workers 0 --finetune partial --ema 0.5 --log none",
    "all": "--workers 2 --ema 0.9 --batch 2 --accumulate 2 --log-every 2 --finetune full",
    "all with a cache": "--workers 1 --ema 0.9 --batch 4 --accumulate 2 --cache {folder}/cache",
}
BUILT = {"plain": "run", "cache": "cached"}  # variants of the bench's own runs, which nobody disturbed either
CLOCKS = {"images_per_second", "device_hours", "peak_memory_gb"}


@dataclass(frozen=True)
class Bench:
    """A folder with all of it, never changed by a try."""

    root: Path

    @property
    def detector(self) -> Path:
        return self.root / "detector"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def run(self) -> Path:
        """A finished run."""
        return self.root / "run"

    @property
    def killed(self) -> Path:
        """The same run, killed after its first checkpoint."""
        return self.root / "killed"

    def pictures(self) -> list[Path]:
        return sorted((self.data / "val2017").iterdir())

    def film(self) -> Path:
        """Three frames; written once."""
        path = self.root / "film.mp4"
        if not path.exists():
            import av

            with av.open(str(path), "w") as sink:
                stream = sink.add_stream("mpeg4", rate=5, width=64, height=48, pix_fmt="yuv420p")
                for shade in (40, 120, 200):
                    picture = Image.new("RGB", (64, 48), (shade, 90, 20))
                    sink.mux(stream.encode(av.VideoFrame.from_image(picture)))
                sink.mux(stream.encode())
        return path

    def exported(self) -> Path:
        """The finished run as an ONNX graph; written once, which takes as long as some hundred tries."""
        path = self.root / "exported"
        if not path.exists():
            _need(run(["export", self.run, "--output", path], self.root))
        return path

    def train(self, output: Path, variant: str = "plain", *more: str) -> list[str]:
        """The command line of a run."""
        options = VARIANTS[variant].format(folder=output.parent)
        start = ["train", str(self.detector), str(self.data), "--output", str(output)]
        return [*start, *f"{NETWORK} {TRAINING} {options}".split(), *more]

    def undisturbed(self, variant: str) -> "Outcome":
        """What a run of a variant comes to that nobody disturbs; it is run once."""
        if variant in BUILT:
            return outcome(self.root / BUILT[variant])
        folder = self.root / f"undisturbed-{variant.replace(' ', '-')}"
        if not folder.exists():
            building = self.root / f".undisturbed-{os.getpid()}"
            building.mkdir()
            ended = run(self.train(building / "run", variant), building)
            if ended.code:
                raise RuntimeError(f"an undisturbed run failed: {ended.text}")
            try:
                building.rename(folder)
            except OSError:  # another process was quicker
                shutil.rmtree(building)
        return outcome(folder / "run")


@dataclass(frozen=True)
class Outcome:
    """What a finished run came to, without clocks."""

    weights: str
    detector: str
    metrics: tuple[str, ...]
    evaluation: str
    names: frozenset[str]

    def differences(self, other: "Outcome") -> list[str]:
        return [name for name in vars(self) if getattr(self, name) != getattr(other, name)]


def outcome(output: Path) -> Outcome:
    lines = [json.loads(text) for text in (output / "metrics.jsonl").read_text().splitlines()]
    evaluation = json.loads((output / f"evaluation-{STEPS}.json").read_text())
    evaluation.pop("seconds", None)
    return Outcome(
        hash_of(output / "mask_network.safetensors"),
        "".join(hash_of(path) for path in sorted((output / "detector").glob("*.safetensors"))),
        tuple(json.dumps({key: line[key] for key in line if key not in CLOCKS}) for line in lines),
        json.dumps(evaluation, sort_keys=True),
        frozenset(path.name for path in output.iterdir()),
    )


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Every entry below a folder and what it is: a file's hash, a link's target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hash_of(path)
        else:
            found[name] = "a folder" if path.is_dir() else "something else"
    return found


def lost(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What was there and is gone or another now."""
    return [
        f"{name} was {'changed' if name in after else 'deleted'}"
        for name, value in before.items()
        if after.get(name) != value
    ]


def predictions(output: Path, folder: Path) -> Any:
    """predictions.json without where it was written. None where there is none."""
    path = output / "predictions.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text().replace(str(folder), "@"))
    if isinstance(content, dict):
        content.pop("info", None)
    return content


def build(bench: Bench) -> None:
    """All of it but the detector, each part in a fork: this process must never have run a thread of its own."""
    root = bench.root

    from campaign.tiny import draw_data

    draw_data(bench.data)
    _need(run(bench.train(bench.run), root))
    _need(run(bench.train(root / "cached", "cache"), root))
    from campaign.warm import import_what

    page: list[str | Path] = ["evaluate", bench.run, bench.data, "--workers", "0", "--json", root / "figures.json"]
    page += ["--results-file", root / "results.json"]
    _need(run(page, root))
    import_what([bench.train(root / "warm"), page], root)
    while not (bench.killed / "checkpoint.pt").exists():
        shutil.rmtree(bench.killed, ignore_errors=True)
        kill_when(Command(command_line(bench.train(bench.killed)), root), (bench.killed / "checkpoint.pt").exists)


def kill_when(command: Command, ready: Callable[[], bool]) -> Ran:
    """SIGKILL at the moment that something is so, if it ever is."""
    while not command.over() and not ready():
        time.sleep(0.001)
    command.signal(signal.SIGKILL, group=True)
    return command.wait()


def _need(ran: Ran) -> None:
    if ran.code:
        raise RuntimeError(f"the bench cannot be built: {ran.text}")


@dataclass(frozen=True)
class Try:
    """What was tried, to be read by people, and what fell short."""

    what: str
    faults: Sequence[str] = ()


@dataclass(frozen=True)
class Kind:
    """A kind of fault. attempt: one try, in a new folder, decided by the generator alone.

    forks: its commands need processes of their own, as those that are killed do.
    """

    name: str
    about: str
    attempt: Callable[[Bench, Random, Path], Try]
    forks: bool = False
