"""All benchmarks, as one command: `make benchmarks` on a CPU, `make gpu-benchmarks` on a GPU.

    python -m benchmarks                     what there is: the GPU at full sizes, or the CPU at small ones
    python -m benchmarks --only training inference --sizes full --device cpu

Nothing is downloaded. Writes NAME.json and NAME.md. A section that fails is recorded, the others go on, and the exit
status is 1. Past its time a run measures fewer rounds, then leaves sections out, and says so.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.absent import absent_packages, standing_in
from benchmarks.measure import describe_error, free_memory
from benchmarks.report import ROOT, describe_run, markdown
from benchmarks.sizes import SIZES, Sizes
from mask_frozen_detr.machine.config import Precision
from mask_frozen_detr.machine.memory import keep_freed_memory
from mask_frozen_detr.machine.precision import resolve_precision

Found = tuple[list[dict[str, Any]], list[str]]  # rows, problems
Section = Callable[[Sizes, torch.device, Precision, float], Found]
LEAST_SECONDS = 20.0  # a section that has less is left out


def attention_parity(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> Found:
    from benchmarks.attention import parity

    return parity(sizes, device)


def attention_speed(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> Found:
    from benchmarks.attention import speed

    return speed(sizes, device, until)


def attention_tuning(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> Found:
    from benchmarks.attention import tuning

    return tuning(sizes, device, until)


def training(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> Found:
    from benchmarks.models import training

    return training(sizes, device, precision, until)


def inference(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> Found:
    from benchmarks.models import inference

    return inference(sizes, device, precision, until)


def roofline(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> Found:
    from benchmarks.roofline import roofline

    return roofline(sizes, device, precision, until)


def compiling(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> Found:
    from benchmarks.models import compiling

    return compiling(sizes, device, precision, until)


def shared_attention(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> Found:
    from benchmarks.shared_attention import shared_attention

    return shared_attention(sizes, device, precision, until)


def loading(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> Found:
    from benchmarks.loading import loading

    return loading(sizes, until)


# Name: what runs it, its share of the time. Sections are imported when they run: one that cannot be is one that fails.
SECTIONS: dict[str, tuple[Section, float]] = {
    "attention-parity": (attention_parity, 1.0),
    "attention-speed": (attention_speed, 1.5),
    "training": (training, 4.0),
    "inference": (inference, 2.0),
    "roofline": (roofline, 1.0),
    "loading": (loading, 0.5),
    "attention-tuning": (attention_tuning, 1.0),
    "compiling": (compiling, 1.0),
    "shared-attention": (shared_attention, 1.0),
}
# For work on the kernels, on whether to compile the detector, and on transformers' detectors.
ON_REQUEST = ("attention-tuning", "compiling", "shared-attention")
DEFAULT = tuple(name for name in SECTIONS if name not in ON_REQUEST)
NEEDS = {"loading": "pycocotools"}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The report; see `report.markdown` for its form."""
    began = time.perf_counter()
    gpu = torch.cuda.is_available() if options.device == "auto" else options.device == "cuda"
    device = torch.device("cuda" if gpu else "cpu")
    notes = []
    size = options.sizes or ("full" if gpu else "small")
    if options.gpu and not gpu:
        size = "tiny"
        notes.append("There is no GPU here: this ran on the CPU at tiny sizes, and its figures say nothing.")
    sizes = replace(SIZES[size], peers=options.peers)
    if options.batches:
        sizes = replace(sizes, batches=tuple(options.batches))
    precision = options.precision or resolve_precision("auto", device)
    absent = absent_packages()
    if absent:
        notes.append(f"Not installed: {', '.join(absent)}. What needs them is left out.")
    report: dict[str, Any] = describe_run(device, torch.get_num_threads(), options.commit)
    report |= {"sizes": asdict(sizes), "precision": precision, "budget_s": options.budget, "seconds": 0.0}
    report |= {"notes": notes, "sections": {}}

    left = {name: SECTIONS[name][1] for name in SECTIONS if name in options.only}
    for name in list(left):
        started = time.perf_counter()
        remaining = options.budget - (started - began)
        until = started + remaining * left.pop(name) / (sum(left.values()) + SECTIONS[name][1])
        rows: list[dict[str, Any]] = []
        if NEEDS.get(name) in absent:
            status, problems = "skipped", [f"{NEEDS[name]} is not installed"]
        elif remaining < LEAST_SECONDS and size != "tiny":
            status, problems = "skipped", [f"{remaining:.0f} s of {options.budget:.0f} s were left"]
        else:
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                rows, problems = SECTIONS[name][0](sizes, device, precision, until)
            except Exception as error:  # recorded; the other sections go on
                problems = [describe_error(error)]
            status = "failed" if problems else "done"
            with suppress(Exception):  # a GPU may be past cleaning up: the next section will tell
                free_memory(device)
        seconds = time.perf_counter() - started
        report["sections"][name] = {"status": status, "seconds": round(seconds, 1), "problems": problems, "rows": rows}
        report["seconds"] = round(time.perf_counter() - began, 1)
        write(report, options.output, options.name or _name(options.gpu, gpu))
    return report


def _name(asked: bool, gpu: bool) -> str:
    return "benchmarks-gpu" if gpu else "benchmarks-no-gpu" if asked else "benchmarks-cpu"


def write(report: dict[str, Any], folder: Path, name: str) -> None:
    """After every section: whatever stops the run, what is done is there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown(report), encoding="utf-8")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--sizes", choices=tuple(SIZES), help="default: full on a GPU, small on a CPU")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: as training chooses by itself")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=tuple(SECTIONS),
        help=f"of {', '.join(SECTIONS)}; default: all but the last three",
        default=DEFAULT,
        metavar="SECTION",
    )
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for all of it; default: %(default)g")
    parser.add_argument("--batches", type=int, nargs="+", help="images a training step; default: by the sizes")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="Mask Frozen-DETR alone")
    parser.add_argument("--gpu", action="store_true", help="meant for a GPU: without one, tiny sizes on the CPU")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the reports")
    parser.add_argument("--commit", help="what is measured, where git cannot tell")
    parser.add_argument("--name", help="of the reports; default: benchmarks-gpu or benchmarks-cpu")
    return parser.parse_args(arguments)


def main() -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", category=UserWarning, module="supervision")
    options = parse()
    keep_freed_memory()  # as the command line does
    with standing_in(absent_packages()):
        report = measure(options)
    print(markdown(report))
    failed = [name for name, section in report["sections"].items() if section["status"] == "failed"]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
