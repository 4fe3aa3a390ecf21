"""What each preset's masks cost beside the detector: the mask network and pasting, as `predict` makes masks.

    python -m benchmarks.preset_latency DETECTOR PICTURE --presets light balanced best --json preset-latency.json
    python -m benchmarks.preset_latency h-detr --presets balanced

h-detr is H-Deformable-DETR ResNet-50 with random weights, on noise of 800 × 1333 pixels. Networks are untrained: what
they cost does not depend on it. One thread; the detector and all networks take turns.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
import tyro
from torch import Tensor
from tyro.conf import Positional

from benchmarks.contestants import build_model, normalised
from benchmarks.measure import Timing, interleaved
from benchmarks.pictures import draw_pictures
from benchmarks.report import describe_run
from benchmarks.sizes import FULL
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.detectors import load_detector
from mask_frozen_detr.detectors.base import Detections, FrozenDetector
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.machine.memory import keep_freed_memory
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.results.assemble import MASK_THRESHOLD
from mask_frozen_detr.results.paste import paste_probabilities
from mask_frozen_detr.training.presets import PresetName, preset

H_DETR = "h-detr"
FEW, MANY = 8, 100  # boxes an image: those that score over 0.3 on COCO, and all


@dataclass
class Options:
    """Time the presets' masks against a detector."""

    detector: Positional[str]
    picture: Positional[Path | None] = None
    presets: tuple[PresetName, ...] = get_args(PresetName)
    rounds: int = 5
    json: Path | None = None


def prepared(options: Options) -> tuple[FrozenDetector, Tensor, Tensor, tuple[int, int]]:
    """The detector, its input (1, 3, H, W), the mask of that, and height and width of the picture."""
    if options.detector == H_DETR:
        pictures = draw_pictures(FULL, 1)
        pixels = normalised(pictures)
        detector = build_model(FULL, pictures, torch.device("cpu")).detector
        return detector, pixels, torch.ones(1, *FULL.image, dtype=torch.long), FULL.image
    if options.picture is None:
        raise UserError("picture: found none, expected a picture that the detector is timed on")
    detector, picture = load_detector(options.detector), read_image(options.picture)
    return detector, *collate_images([detector.info.preprocessing(picture)]), (picture.height, picture.width)


@torch.no_grad()
def masks(model: MaskFrozenDetr, found: Detections, pixel_mask: Tensor, queries: Tensor, size: tuple[int, int]) -> None:
    """Masks of these queries, pasted into the picture."""
    output = model.network(found, pixel_mask, torch.zeros_like(queries), queries)
    height, width = size
    scale = torch.tensor([width / pixel_mask.shape[2], height / pixel_mask.shape[1]]).repeat(2)
    frames = (output.frames * scale).numpy()
    for mask, frame in zip(output.logits.sigmoid().numpy(), frames, strict=True):
        paste_probabilities(mask, frame, height, width).above(MASK_THRESHOLD)


@torch.no_grad()
def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    keep_freed_memory()
    torch.set_num_threads(1)
    detector, pixels, pixel_mask, size = prepared(options)
    found = detector(pixels, pixel_mask)
    best = found.logits.float().max(-1).values[0].argsort(descending=True)
    works: dict[str, Any] = {"detector": lambda: detector(pixels, pixel_mask)}
    for name in options.presets:
        model = MaskFrozenDetr.build(detector, preset(name, 1)[0]).eval()
        for count in (FEW, MANY):
            works[f"{name} {count}"] = partial(masks, model, found, pixel_mask, best[:count].sort().values, size)
    measured = interleaved(works, torch.device("cpu"), options.rounds)
    times = {name: timing for name, timing in measured.items() if isinstance(timing, Timing)}
    if failed := {name: error for name, error in measured.items() if name not in times}:
        raise RuntimeError(f"not measured: {failed}")
    alone = times.pop("detector").median
    shares = {name: round(timing.median / alone, 3) for name, timing in times.items()}
    for work, share in shares.items():
        print(f"{work} masks: {share:.2f} of the detector's time")
    if options.json is not None:
        command = (
            f"python -m benchmarks.preset_latency {Path(options.detector).name} --presets {' '.join(options.presets)}"
        )
        result = {
            "run": {**describe_run(torch.device("cpu"), 1), "command": f"{command} --rounds {options.rounds}"},
            "detector": Path(options.detector).name,
            "picture": list(size),
            "milliseconds of the detector": round(alone, 1),
            "masks and pasting, share of the detector's time": shares,
        }
        write_json_atomic(options.json, result)


if __name__ == "__main__":
    main()
