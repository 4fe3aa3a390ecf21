"""Whole models: the training step with its frozen forward and its memory, inference with and without masks."""

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.contestants import (
    CONTESTANTS,
    MASK2FORMER,
    OURS,
    Contestant,
    build_model,
    normalised,
)
from benchmarks.measure import (
    Timing,
    allocated,
    describe_error,
    free_memory,
    gibibytes,
    interleaved,
    peak_bytes,
    rounded,
    timed,
    waits,
)
from benchmarks.pictures import draw_pictures
from benchmarks.sizes import Sizes
from mask_frozen_detr.detectors.base import Detections, FrozenDetector
from mask_frozen_detr.machine.config import Precision
from mask_frozen_detr.machine.precision import autocast
from mask_frozen_detr.ops.deformable_attention import kernels_run

COCO_IMAGES = 118_287  # train2017
EPOCHS = 6
# V100 hours, and epochs: the paper's Table 6. Mask2Former trains at 1024 × 1024.
PAPER_HOURS = {OURS: (49, 6), MASK2FORMER: (502, 50)}
PAPER_MEMORY = {(OURS, 2): "≤ 16"}  # GB of the V100 that batch 2 fits on (section 4.3)

Rows = list[dict[str, Any]]


def assemble(
    sizes: Sizes,
    batch: int,
    device: torch.device,
    precision: Precision,
    work: Callable[[Contestant], Callable[[], Any]],
) -> tuple[dict[str, Contestant], dict[str, int | None], list[str]]:
    """Builds all contestants, measuring each one's peak memory at `work` above what was there before it."""
    pictures = draw_pictures(sizes, batch)
    built, peaks, failures = {}, {}, []
    for name, build in CONTESTANTS.items():
        if name != OURS and not sizes.peers:
            continue
        before = allocated(device)
        try:
            contestant = build(sizes, pictures, device, precision)
            if device.type == "cuda":
                work(contestant)()  # optimiser state and library workspaces come with the first
            peaks[name] = peak_bytes(work(contestant), device, before)
            built[name] = contestant
        except Exception as error:  # one contestant less, the others go on
            failures.append(f"{name}, batch {batch}: {describe_error(error)}")
    return built, peaks, failures


def training(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> tuple[Rows, list[str]]:
    """One row a batch size and contestant; ours with the frozen forward pass, the floor of its step."""
    rows, failures = [], []
    began = time.perf_counter()
    for number, batch in enumerate(sizes.batches, start=1):
        built, peaks, failed = assemble(sizes, batch, device, precision, lambda contestant: contestant.step)
        failures += failed
        works = {name: contestant.step for name, contestant in built.items()}
        if OURS in built:
            works["frozen forward"] = built[OURS].parts["frozen forward"]
        deadline = began + (until - began) * number / len(sizes.batches)
        times = interleaved(works, device, sizes.rounds, deadline)
        failures += [f"{name}, batch {batch}: {found}" for name, found in times.items() if isinstance(found, str)]
        frozen = times.get("frozen forward")
        for name, contestant in built.items():
            timing = times[name]
            if isinstance(timing, Timing):
                floor = frozen if name == OURS and isinstance(frozen, Timing) else None
                row = _training_row(name, batch, contestant, timing, floor, peaks[name], kernels_run(device))
                row["waits a step"] = waits(contestant.step, device)
                rows.append(row | _paper(name, batch, timing) if sizes.name == "full" else row)
        del built, works
        free_memory(device)
    return rows, failures


def _training_row(
    name: str,
    batch: int,
    contestant: Contestant,
    step: Timing,
    floor: Timing | None,
    peak: int | None,
    kernels: bool,
) -> dict[str, Any]:
    return {
        "model": name,
        "batch": batch,
        "trainable M": rounded(contestant.trainable / 1e6),
        "step ms": rounded(step.median),
        "least … most": f"{step.least:.4g} … {step.most:.4g}",
        "attention": None if floor is None else "triton" if kernels else "torch",
        "frozen forward ms": rounded(floor.median) if floor else None,
        "step ÷ forward": rounded(step.median / floor.median) if floor else None,
        "images/s": rounded(1000 * batch / step.median),
        "peak GiB": gibibytes(peak),
        "rounds": step.rounds,
    }


def _paper(name: str, batch: int, step: Timing) -> dict[str, Any]:
    """Hours that this step would take on COCO, if data came as fast, beside the paper's figures."""
    row: dict[str, Any] = {"6 epochs of COCO h": rounded(EPOCHS * COCO_IMAGES / batch * step.median / 3.6e6)}
    if name in PAPER_HOURS:
        hours, epochs = PAPER_HOURS[name]
        row["paper: V100 h"] = f"{hours} for {epochs} epochs"
        row["paper: V100 ms an image"] = rounded(1000 * 3600 * hours / (epochs * COCO_IMAGES))
    return row | {"paper: GB": PAPER_MEMORY.get((name, batch))}


def compiling(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> tuple[Rows, list[str]]:
    """The frozen forward pass as it is and through `torch.compile`: does it pay, and after how many steps?"""
    pictures = draw_pictures(sizes, sizes.batches[0])
    plain, compiled = (build_model(sizes, pictures, device).detector for _ in range(2))
    images = normalised(pictures).to(device)
    mask = torch.ones(len(images), *images.shape[2:], dtype=torch.long)
    compiled.model.compile(dynamic=False)

    def forward(detector: FrozenDetector, width: int) -> Callable[[], Any]:
        def run() -> Detections:
            with autocast(precision, device):
                return detector(images[..., :width], mask[..., :width])

        return run

    width = images.shape[3]
    # A second width costs a compilation of its own: why batches would have to be padded to few sizes.
    seconds = [timed(forward(compiled, width - shift), device) for shift in (0, 32)]
    works = {"as it is": forward(plain, width), "compiled": forward(compiled, width)}
    times = interleaved(works, device, sizes.rounds, until)
    rows: Rows = []
    for name, timing in times.items():
        if isinstance(timing, Timing):
            rows.append({"frozen forward": name, "batch": len(images), "ms": rounded(timing.median)})
    if len(rows) == 2:
        gain = rows[0]["ms"] - rows[1]["ms"]
        rows[1] |= {"s to compile": rounded(seconds[0]), "s for another width": rounded(seconds[1])}
        rows[1]["pays after steps"] = rounded(1000 * seconds[0] / gain) if gain > 0 else None
    return rows, [f"{name}: {timing}" for name, timing in times.items() if isinstance(timing, str)]


def inference(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> tuple[Rows, list[str]]:
    """Latency of one image: the detector alone, masks for all boxes, run lengths of those, and the peers."""
    built, peaks, failures = assemble(sizes, 1, device, precision, lambda contestant: contestant.infer)
    works = {name: contestant.infer for name, contestant in built.items()}
    if OURS in built:
        parts = built[OURS].parts
        works |= {f"{OURS}: {part}": work for part, work in parts.items() if part != "frozen forward"}
    times = interleaved(works, device, sizes.rounds, until)
    alone = times.get(f"{OURS}: detector alone")
    rows = []
    for name in sorted(times, key=lambda name: (not name.startswith(OURS), ": detector" not in name, name)):
        timing = times[name]
        if isinstance(timing, str):
            failures.append(f"{name}: {timing}")
            continue
        relative = timing.median / alone.median if name.startswith(OURS) and isinstance(alone, Timing) else None
        rows.append(
            {
                "what": f"{name}: {sizes.boxes} masks" if name in built else name,
                "ms": rounded(timing.median),
                "least … most": f"{timing.least:.4g} … {timing.most:.4g}",
                "÷ detector alone": rounded(relative),
                "peak GiB": gibibytes(peaks.get(name)),
                "rounds": timing.rounds,
            }
        )
    del built, works
    free_memory(device)
    return rows, failures
