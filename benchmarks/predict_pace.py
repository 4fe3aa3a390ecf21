"""How much longer `predict` takes than the models alone: decoding, pasting, drawing and writing should cost little.

    python -m benchmarks.predict_pace RUN PICTURES --threads 2 --json predict-pace.json

Models alone: the detector and the mask network over pictures that are prepared in memory, one batch after the other
with all of torch's threads, without pasting. In every round they and `predict` take turns, and what counts is how long
each takes by the clock. A round says nothing where other programs compute as well: torch's threads wait for each other
in a loop, and where one of them has no core, models alone take several times as long. So each round tells which share
of the cores others took (Linux alone knows), and the median is of rounds in which it was less than `quiet`.
Parts are timed apart, in one thread and in processor time, over the same pictures.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from tyro.conf import Positional

from benchmarks.report import describe_run
from mask_frozen_detr.data.images import find_images, read_image
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.machine.memory import keep_freed_memory
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.prediction import predict_files
from mask_frozen_detr.prediction.config import OverlayFormat
from mask_frozen_detr.results.drawing import draw_instances
from mask_frozen_detr.results.inference import top_detections
from mask_frozen_detr.results.prediction_files import describe_found, hash_picture, save_own_picture
from mask_frozen_detr.results.predictor import PreparedPicture

STAT = Path("/proc/stat")


@dataclass
class Options:
    """Time `predict` against its models."""

    run: Positional[str]
    pictures: Positional[list[str]]
    limit: int = 200  # pictures
    batch: int = 1
    threads: int = 2  # torch's
    overlay_format: OverlayFormat = "png"
    workers: int = -1  # as of `predict`: -1 chooses processes of a core each where they pay
    rounds: int = 3
    quiet: float = 0.05  # share of the cores that other programs may take in a round that counts
    score_threshold: float = 0.3
    parts: int = 40  # pictures that parts are timed on
    json: Path | None = None


@torch.no_grad()
def models_alone(model: MaskFrozenDetr, pictures: Sequence[PreparedPicture[torch.Tensor]], options: Options) -> None:
    """The forward passes that `predict` makes of these pictures, and nothing else."""
    model.network.eval()
    rule = model.detector.info.score_rule
    for start in range(0, len(pictures), options.batch):
        pixels, mask = collate_images([one.pixels for one in pictures[start : start + options.batch]])
        found = model.detector(pixels, mask)
        tops = top_detections(found.logits, rule, model.max_detections, options.score_threshold)
        queries = [top.query_index.unique() for top in tops]
        image_index = torch.cat([torch.full_like(chosen, number) for number, chosen in enumerate(queries)])
        if len(image_index):
            model.network(found, mask, image_index, torch.cat(queries))


@dataclass(frozen=True)
class Spent:
    """What a piece of work took: seconds by the clock, of processor time, and others' share of the cores meanwhile."""

    wall: float
    processor: float
    others: float  # 0 where the system does not tell

    @classmethod
    def by(cls, work: Callable[[], Any]) -> "Spent":
        began, busy, own = time.perf_counter(), busy_seconds(), own_seconds()
        work()
        wall, busy, own = time.perf_counter() - began, busy_seconds() - busy, own_seconds() - own
        return cls(wall, own, round(max(0.0, busy - own) / wall / (os.cpu_count() or 1), 3))


def own_seconds() -> float:
    """Of this process, and of those which it began and which have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def busy_seconds() -> float:
    """Of all cores since the machine began, by whatever program; 0 where the system does not tell."""
    try:
        user, nice, system, _, _, irq, softirq, stolen, *_ = map(int, STAT.read_text().split("\n")[0].split()[1:])
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")


def parts(model: MaskFrozenDetr, paths: Sequence[Path], options: Options) -> dict[str, float]:
    """Milliseconds of processor time a picture of what `predict` does, one after the other in one thread."""
    torch.set_num_threads(1)
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            image = read_image(path)
            prepared = model.prepare(image)
            (found,) = model.predict_prepared([prepared], options.score_threshold)
            overlay = draw_instances(image, found)
            works: dict[str, Callable[[], Any]] = {
                "hash": partial(hash_picture, path),
                "read": partial(read_image, path),
                "pre-process": partial(model.prepare, image),
                "models": partial(models_alone, model, [prepared], options),
                "models and pasting": partial(model.predict_prepared, [prepared], options.score_threshold),
                "draw": partial(draw_instances, image, found),
                "write": partial(save_own_picture, overlay, Path(folder) / f"overlay.{options.overlay_format}"),
                "describe": partial(describe_found, found),
            }
            for name, work in works.items():
                spent[name] = spent.get(name, 0.0) + Spent.by(work).processor
    return {name: round(1e3 * value / len(paths), 2) for name, value in spent.items()}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    model = MaskFrozenDetr.from_pretrained(options.run).eval()
    paths = find_images(options.pictures)[: options.limit]
    prepared = [model.prepare(read_image(path)) for path in paths]
    models_alone(model, prepared[:10], options)  # warm
    rounds: list[tuple[Spent, Spent]] = []
    for _ in range(options.rounds):
        alone = Spent.by(partial(models_alone, model, prepared, options))
        with tempfile.TemporaryDirectory() as folder:
            work = partial(
                predict_files,
                model,
                paths,
                Path(folder) / "found",
                options.score_threshold,
                batch=options.batch,
                workers=options.workers,
                overlay_format=options.overlay_format,
            )
            whole = Spent.by(work)
        rounds.append((alone, whole))
        print(
            f"models alone {alone.wall:.1f} s, predict {whole.wall:.1f} s, {whole.wall / alone.wall:.2f} times as long "
            f"({whole.processor / alone.processor:.2f} in processor time); others took {alone.others:.0%} and "
            f"{whole.others:.0%} of the cores"
        )
    quiet = [pair for pair in rounds if max(one.others for one in pair) < options.quiet]
    ratio = statistics.median(whole.wall / alone.wall for alone, whole in quiet) if quiet else float("nan")
    each = parts(model, paths[: options.parts], options)
    print(f"median {ratio:.2f} of {len(quiet)} quiet rounds; milliseconds of processor time a picture: {each}")
    if options.json is not None:
        keys = ("limit", "batch", "threads", "workers", "score_threshold", "overlay_format")
        settings = {key: getattr(options, key) for key in keys}
        result = {
            "run": {
                **describe_run(torch.device("cpu"), options.threads),
                "command": "python -m benchmarks.predict_pace",
            },
            "settings": settings,
            "pictures": len(paths),
            "models alone": [_rounded(alone) for alone, _ in rounds],
            "predict": [_rounded(whole) for _, whole in rounds],
            "median of ratios": round(ratio, 3) if quiet else None,
            "quiet rounds": len(quiet),
            "milliseconds of processor time a picture, one after the other": each,
        }
        write_json_atomic(options.json, result)


def _rounded(spent: Spent) -> dict[str, float]:
    return {
        "seconds": round(spent.wall, 2),
        "processor seconds": round(spent.processor, 2),
        "others' share of the cores": spent.others,
    }


if __name__ == "__main__":
    main()
