"""What a run costs on this machine: milliseconds of each part of an image, and what would make it faster.

Parts are timed apart, on the user's own pictures, each as `predict` does it. Letters: M boxes of an image.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mask_frozen_detr.detectors.base import Detections
from mask_frozen_detr.detectors.finer_look import unpack_finer
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.devices import peak_memory, processor_name, send
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network.mask_network import MaskOutput
from mask_frozen_detr.results.assemble import MASK_THRESHOLD
from mask_frozen_detr.results.paste import Crop, paste_probabilities
from mask_frozen_detr.results.rle import crop_to_rle

BOXES = (10, 50, 100)
Drawn = tuple[np.ndarray, np.ndarray]  # probabilities (M, r, r), and their frames (M, 4) in pixels of the picture
SLOW_PART = 0.15  # of the detector's time: from there on a part is worth a word


@dataclass(frozen=True)
class Latency:
    """Milliseconds an image, medians over rounds. masks: by the number of boxes, detector not included.

    pasting and encoding: of as many masks as the most of `masks`. memory: the process's peak in MB (10⁶ bytes), on a
    GPU the GPU's.
    """

    detector: float
    masks: dict[int, float]
    preprocessing: float
    pasting: float
    encoding: float
    memory: float
    machine: str
    pictures: int
    rounds: int
    finer_look: float = 0.0  # 0 for a run without one

    def table(self) -> str:
        """A line a part, with its share of the detector's time."""
        most = max(self.masks)
        rows = [("pre-processing", self.preprocessing), ("detector", self.detector)]
        rows += [("finer look", self.finer_look)] if self.finer_look else []
        rows += [(f"mask network, {count} boxes", spent) for count, spent in self.masks.items()]
        rows += [(f"pasting {most} masks", self.pasting), (f"run lengths of {most} masks", self.encoding)]
        width = max(len(name) for name, _ in rows)
        lines = [f"{self.machine}; {self.pictures} pictures, medians of {self.rounds} rounds", ""]
        lines += [f"{'':{width}}  ms an image  of the detector"]
        lines += [f"{name:{width}}  {spent:11.1f}  {spent / self.detector:15.2f}" for name, spent in rows]
        return "\n".join([*lines, f"{'peak memory':{width}}  {self.memory:8.0f} MB"])

    def as_json(self) -> dict[str, Any]:
        """All figures, in milliseconds and MB."""
        return {
            "machine": self.machine,
            "pictures": self.pictures,
            "rounds": self.rounds,
            "milliseconds": {
                "preprocessing": round(self.preprocessing, 2),
                "detector": round(self.detector, 2),
                **({"finer_look": round(self.finer_look, 2)} if self.finer_look else {}),
                "masks": {str(count): round(spent, 2) for count, spent in self.masks.items()},
                "pasting": round(self.pasting, 2),
                "encoding": round(self.encoding, 2),
            },
            "memory_mb": round(self.memory, 1),
        }


@torch.no_grad()
def measure_latency(model: MaskFrozenDetr, pictures: Sequence[Image.Image], rounds: int = 5) -> Latency:
    """Times of the model where it lies, in the precision that is on.

    The boxes are the detector's best of each picture. Raises UserError for no pictures and for fewer than one round.
    """
    if not pictures:
        raise UserError("benchmark: found no picture, expected at least one")
    if rounds < 1:
        raise UserError(f"rounds: found {rounds}, expected at least 1")
    work = _Work(model.eval(), pictures)
    counts = sorted({min(count, work.queries) for count in BOXES})
    drawn = work.drawn(counts[-1])
    parts: dict[str, Callable[[], Any]] = {
        "preprocessing": work.prepare,
        "detector": work.detect,
        **({"finer look": work.look_again} if model.detector.looks_finer else {}),
        **{f"masks {count}": partial(work.masks, count) for count in counts},
        "pasting": partial(work.paste, drawn),
        "encoding": partial(work.encode, work.paste(drawn)),
    }
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    spent = _medians(parts, model.device, rounds)
    each = {name: 1e3 * seconds / len(pictures) for name, seconds in spent.items()}
    return Latency(
        each["detector"],
        {count: each[f"masks {count}"] for count in counts},
        each["preprocessing"],
        each["pasting"],
        each["encoding"],
        1e3 * peak_memory(model.device),
        _machine(model.device),
        len(pictures),
        rounds,
        each.get("finer look", 0.0),
    )


class _Work:
    """Each part of the work, on all pictures, with what the parts before it give made beforehand.

    queries: of the detector, how many there are for an image.
    """

    def __init__(self, model: MaskFrozenDetr, pictures: Sequence[Image.Image]):
        self.model, self.pictures = model, pictures
        self.inputs = [collate_images([picture]) for picture in self.prepare()]
        self.on_device = [(send(pixels, model.device), mask) for pixels, mask in self.inputs]
        self.detector = model.detector.with_finer_look(False)
        self.detected = self.detect()
        if model.detector.looks_finer:
            self.detected = self.look_again()
        scores = [detections.logits.float().max(-1).values[0] for detections in self.detected]
        self.best = [of_image.argsort(descending=True).cpu() for of_image in scores]
        self.queries = min(len(queries) for queries in self.best)

    def prepare(self) -> list[Tensor]:
        return [self.model.detector.info.preprocessing(picture) for picture in self.pictures]

    def detect(self) -> list[Detections]:
        return [self.detector(pixels[:, :3], mask) for pixels, mask in self.on_device]

    def look_again(self) -> list[Detections]:
        """What was detected, with the maps of a finer look."""
        look = self.model.detector.look_again
        pairs = zip(self.detected, self.on_device, strict=True)
        return [look(found, unpack_finer(packed)[1]) for found, (packed, _) in pairs]

    def masks(self, count: int) -> list[MaskOutput]:
        """The masks of each image's `count` best boxes."""
        outputs = []
        for detections, queries, (_, mask) in zip(self.detected, self.best, self.inputs, strict=True):
            chosen = queries[:count].sort().values
            outputs.append(self.model.network(detections, mask, torch.zeros_like(chosen), chosen))
        return outputs

    def drawn(self, count: int) -> list[Drawn]:
        """The same masks on the host, with their frames in the picture."""
        outputs = zip(self.masks(count), self.inputs, self.pictures, strict=True)
        return [_in_pixels(output, pixels, picture) for output, (pixels, _), picture in outputs]

    def paste(self, drawn: Sequence[Drawn]) -> list[list[Crop]]:
        return [_paste(*one, picture) for one, picture in zip(drawn, self.pictures, strict=True)]

    def encode(self, pasted: Sequence[Sequence[Crop]]) -> list[list[dict[str, Any]]]:
        return [
            [crop_to_rle(crop, picture.height, picture.width) for crop in crops]
            for crops, picture in zip(pasted, self.pictures, strict=True)
        ]


def advice(latency: Latency, model: MaskFrozenDetr) -> list[str]:
    """What would make the run faster, the largest gain first; nothing where the detector alone counts."""
    config, most = model.network.config, max(latency.masks)
    said: list[tuple[float, str]] = []
    masks = latency.masks[most]
    if masks > SLOW_PART * latency.detector:
        if config.box_encoder == "deformable":
            said.append((masks, "train with --preset light: ConvNeXt in the boxes instead of deformable attention"))
        elif config.roi_size > 16:
            said.append((masks, f"train with --roi-size 16: {(config.roi_size / 16) ** 2:.1f} times fewer cells a box"))
        elif config.roi_size == 16 and config.upsample == 1:
            said.append((masks, "train with --roi-size 8 --upsample 2: four times fewer cells a box, for some 2 AP"))
        few = latency.masks[min(latency.masks)]
        if few < 0.7 * masks:
            said.append(
                (
                    masks - few,
                    f"a higher --score-threshold: {min(latency.masks)} boxes take {few:.0f} ms, {most} {masks:.0f}",
                )
            )
    if latency.finer_look > SLOW_PART * latency.detector:
        said.append((latency.finer_look, "train without --finer-look: coarser masks, for some 0.8 AP"))
    if latency.preprocessing > SLOW_PART * latency.detector:
        said.append((latency.preprocessing, "smaller pictures: pre-processing shrinks them anyway"))
    if latency.pasting + latency.encoding > SLOW_PART * latency.detector:
        said.append(
            (latency.pasting + latency.encoding, "fewer or smaller masks: pasting costs by the pixels of their boxes")
        )
    cores = os.cpu_count() or 1
    if model.device.type == "cpu" and torch.get_num_threads() < cores:
        said.append((latency.detector, f"more threads: {torch.get_num_threads()} of {cores} cores are used"))
    return [line for _, line in sorted(said, key=lambda pair: -pair[0])]


def _in_pixels(output: MaskOutput, pixels: Tensor, picture: Image.Image) -> Drawn:
    """What the network made of a picture; pixels: what was made of it for the detector."""
    scale = torch.tensor([picture.width / pixels.shape[3], picture.height / pixels.shape[2]]).repeat(2)
    return output.logits.float().sigmoid().cpu().numpy(), (output.frames.float().cpu() * scale).numpy()


def _paste(masks: Any, frames: Any, picture: Image.Image) -> list[Crop]:
    return [
        paste_probabilities(mask, frame, picture.height, picture.width).above(MASK_THRESHOLD)
        for mask, frame in zip(masks, frames, strict=True)
    ]


def _medians(works: dict[str, Callable[[], Any]], device: torch.device, rounds: int) -> dict[str, float]:
    """Seconds of each work; in every round all take turns, so that what else the machine does meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():  # warm
        work()
    for _ in range(rounds):
        for name, work in works.items():
            _wait(device)
            began = time.perf_counter()
            work()
            _wait(device)
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"
