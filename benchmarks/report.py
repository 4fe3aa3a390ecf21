"""The report of a run: JSON with all that is needed to repeat it, and Markdown tables made from that JSON alone."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import takes_processor_time
from mask_frozen_detr.machine.devices import processor_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "torchvision", "transformers", "triton", "numpy", "pillow", "pycocotools")


def describe_run(device: torch.device, threads: int, commit: str | None = None) -> dict[str, Any]:
    """Commit, versions, hardware, command. commit: for a tree without git, or whose git is another's."""
    return {
        "commit": commit or _git("rev-parse", "HEAD"),
        "changed": [] if commit else sorted(line[3:] for line in (_git("status", "--porcelain") or "").splitlines()),
        "command": shlex.join(["python", "-m", _module(Path(sys.argv[0])), *_without_places(sys.argv[1:])]),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
            "GiB": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
            if device.type == "cuda"
            else None,
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "threads": threads,
            "clock": "processor" if takes_processor_time(device) else "wall",
            "load at start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda}
        | {name: _version(name) for name in PACKAGES}
        | {"torch": torch.__version__},
    }


def _module(script: Path) -> str:
    """What was started: one benchmark, or all of them."""
    alone = script.parent.name == "benchmarks" and script.stem != "__main__"
    return f"benchmarks.{script.stem}" if alone else "benchmarks"


def _without_places(arguments: list[str]) -> list[str]:
    """Where the reports went and where on this machine the data lie is its own affair."""
    kept = [argument for argument in arguments if not argument.startswith("--output=")]
    if "--output" in kept:
        place = kept.index("--output")
        del kept[place : place + 2]
    return [Path(argument).name if Path(argument).is_absolute() else argument for argument in kept]


def _git(*arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.rstrip() if run.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def markdown(report: Mapping[str, Any]) -> str:
    """Tables, one a section."""
    hardware, versions = report["hardware"], report["versions"]
    size = f"{report['sizes']['image'][0]} × {report['sizes']['image'][1]}"
    lines = [
        f"# Benchmarks: {hardware['device']}",
        "",
        f"`{report['command']}`, {report['when']}, commit {(report['commit'] or 'unknown')[:10]}"
        + (f" with {len(report['changed'])} files changed" if report["changed"] else "")
        + f"; {report['sizes']['name']} sizes (images of {size}), {report['precision']}, "
        f"{hardware['threads']} threads, {report['seconds']:.0f} s. "
        + ", ".join(f"{name} {value}" for name, value in versions.items() if value)
        + ".",
        "",
        "Medians of warm, device-synchronised calls, contestants taking turns. Random weights. Empty: not measured. "
        + ("Processor time of one thread." if hardware["clock"] == "processor" else "Wall time."),
    ]
    lines += [f"\n**{note}**" for note in report["notes"]]
    for name, section in report["sections"].items():
        lines += ["", f"## {name}", ""]
        if section["status"] != "done":
            lines += [f"{section['status']}: {'; '.join(section['problems'])}", ""]
        rows = section["rows"]
        columns = [key for row in rows for key in row]
        columns = [key for key in dict.fromkeys(columns) if any(row.get(key) is not None for row in rows)]
        if rows:
            lines.append("| " + " | ".join(columns) + " |")
            lines.append("|" + "---|" * len(columns))
        for row in rows:
            cells = ("" if row.get(key) is None else _cell(row[key]) for key in columns)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 1000 else f"{value:g}"
    return str(value).replace("|", "\\|")
