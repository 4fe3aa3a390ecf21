"""How much longer `predict` takes than the models alone: decoding, pasting, drawing and writing should cost little.

    python -m benchmarks.predict_pace RUN PICTURES --threads 2 --json predict-pace.json

Models alone: the detector and the mask network over pictures that are prepared in memory, without pasting. In every
round they and `predict` take turns. Parts are timed apart, in one thread, over the same pictures.
"""

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
from mask_frozen_detr.results.drawing import draw_instances
from mask_frozen_detr.results.inference import top_detections
from mask_frozen_detr.results.prediction_files import describe_found, hash_picture, save_own_picture
from mask_frozen_detr.results.predictor import PreparedPicture


@dataclass
class Options:
    """Time `predict` against its models."""

    run: Positional[str]
    pictures: Positional[list[str]]
    limit: int = 200  # pictures
    batch: int = 1
    threads: int = 2  # torch's
    workers: int = -1  # threads that read and draw beside the model's
    rounds: int = 3
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


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def parts(model: MaskFrozenDetr, paths: Sequence[Path], options: Options) -> dict[str, float]:
    """Milliseconds a picture of what `predict` does beside the models, one after the other in one thread."""
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
                "write": partial(save_own_picture, overlay, Path(folder) / "overlay.png"),
                "describe": partial(describe_found, found),
            }
            for name, work in works.items():
                spent[name] = spent.get(name, 0.0) + seconds(work)
    return {name: round(1e3 * value / len(paths), 2) for name, value in spent.items()}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    model = MaskFrozenDetr.from_pretrained(options.run).eval()
    paths = find_images(options.pictures)[: options.limit]
    prepared = [model.prepare(read_image(path)) for path in paths]
    models_alone(model, prepared[:10], options)  # warm
    alone, whole = [], []
    for _ in range(options.rounds):
        alone.append(seconds(partial(models_alone, model, prepared, options)))
        with tempfile.TemporaryDirectory() as folder:
            work = partial(
                predict_files,
                model,
                paths,
                Path(folder) / "found",
                options.score_threshold,
                batch=options.batch,
                workers=options.workers,
            )
            whole.append(seconds(work))
        print(f"models alone {alone[-1]:.1f} s, predict {whole[-1]:.1f} s, {whole[-1] / alone[-1]:.2f} times as long")
    ratio = statistics.median(one / other for one, other in zip(whole, alone, strict=True))
    each = parts(model, paths[: options.parts], options)
    print(f"median {ratio:.2f}; milliseconds a picture: {each}")
    if options.json is not None:
        settings = {key: getattr(options, key) for key in ("limit", "batch", "threads", "workers", "score_threshold")}
        result = {
            "run": {
                **describe_run(torch.device("cpu"), options.threads),
                "command": "python -m benchmarks.predict_pace",
            },
            "settings": settings,
            "pictures": len(paths),
            "seconds, models alone": [round(one, 2) for one in alone],
            "seconds, predict": [round(one, 2) for one in whole],
            "median of ratios": round(ratio, 3),
            "milliseconds a picture, one after the other": each,
        }
        write_json_atomic(options.json, result)


if __name__ == "__main__":
    main()
