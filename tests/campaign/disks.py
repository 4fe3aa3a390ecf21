"""Disks that are full, and places that cannot be written: whole files or the old ones, and a line that says so."""

import contextlib
import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

from PIL import Image

from campaign.bench import Bench, Try, outcome
from campaign.commands import Ran, manners, run


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path | None]:
    """A disk of that size, where the system lets us mount one; else None."""
    place = folder / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)], capture_output=True, check=False
    )
    try:
        yield place if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(place)], check=True)


def torn(folder: Path) -> list[str]:
    """Files below a folder that are there in part. Files of the disk's own kind (events, lines) may end anywhere."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".safetensors":
                data = path.read_bytes()
                size = struct.unpack("<Q", data[:8])[0]
                header = json.loads(data[8 : 8 + size])
                ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
                assert len(data) == 8 + size + max(ends), "length"
            elif path.suffix == ".png":
                with Image.open(path) as image:
                    image.load()
        except Exception as error:
            found.append(f"{path.relative_to(folder)} is torn: {error}")
        if ".part" in path.name:
            found.append(f"{path.relative_to(folder)} is left over")
    return found


def full(bench: Bench, random: Random, folder: Path) -> Try:
    """A full disk, or a quota of bytes a file; then there is room, and the run goes on."""
    kilobytes = int(10 ** random.uniform(0.5, 3.2))
    way = random.choice(["train", "train", "resume", "predict", "evaluate"])
    if random.random() < 0.5:
        with small_disk(folder, kilobytes) as disk:
            if disk is None:
                return _full(bench, way, folder, folder, kilobytes, kilobytes * 1024)
            return _full(bench, way, folder, disk, kilobytes, None)
    return _full(bench, way, folder, folder, kilobytes, kilobytes * 1024)


def _full(bench: Bench, way: str, folder: Path, place: Path, kilobytes: int, limit: int | None) -> Try:
    output = place / "run"
    what = f"{way}, {kilobytes} kB {'a file' if limit else 'of disk'}"
    if way == "resume":
        try:
            shutil.copytree(bench.killed, output)
        except (OSError, shutil.Error):
            return Try(f"{what}: no room for the run itself")
    if way in ("train", "resume"):
        ran = run(bench.train(output, "plain", *(["--resume"] if way == "resume" else [])), folder, file_limit=limit)
        faults = _check(ran, output)
        if not faults:
            later = folder / "later"
            if output.exists():
                shutil.copytree(output, later)
            if not later.exists() or not any(later.iterdir()):
                return Try(what, faults)
            again = run(bench.train(later, "plain", "--resume"), folder)
            faults += [f"with room again: {fault}" for fault in manners(again, (0,))]
            if not faults:
                other = outcome(later).differences(bench.undisturbed("plain"))
                faults += [f"with room again: other {name} than of the undisturbed run" for name in other]
        return Try(what, faults)
    if way == "predict":
        command: list[str | Path] = ["predict", bench.run, bench.data / "val2017", "--output", output]
    else:
        command = ["evaluate", bench.run, bench.data, "--workers", "0", "--json", output / "figures.json"]
        command += ["--results-file", output / "results.json"]
    return Try(what, _check(run(command, folder, file_limit=limit), output))


def _check(ran: Ran, output: Path) -> list[str]:
    faults = manners(ran)
    return faults or torn(output)


def read_only(bench: Bench, random: Random, folder: Path) -> Try:
    """Output where nobody may write, under a file, in a folder that goes away."""
    (folder / "file").write_text("the user's")
    place = random.choice(
        ["/proc/run", "/sys/run", str(folder / "file"), str(folder / "file" / "run"), "/dev/null/run"]
    )
    if random.random() < 0.4:
        with small_disk(folder, 100) as disk:
            if disk is not None:
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
                return _read_only(bench, random, folder, str(disk / random.choice(["", "run"])))
    return _read_only(bench, random, folder, place)


def _read_only(bench: Bench, random: Random, folder: Path, place: str) -> Try:
    command = random.choice(
        [
            bench.train(Path(place)),
            ["predict", str(bench.run), str(bench.data / "val2017"), "--output", place],
            ["evaluate", str(bench.run), str(bench.data), "--workers", "0", "--json", f"{place}/a.json"],
            ["complexity", "--table", "1", "--json", f"{place}/a.json"],
            [*bench.train(folder / "run"), "--cache", place],
            ["demo", "--output", place, "--iterations", "1"],
        ]
    )
    ran = run(command, folder)
    faults = manners(ran, (2,))
    if (folder / "file").read_text() != "the user's":
        faults.append("the file in the way was changed")
    return Try(f"{command[0]} to {place.replace(str(folder), '@')}", faults)
