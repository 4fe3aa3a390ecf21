"""`benchmark`: what a run costs on this machine."""

import os
from dataclasses import dataclass
from pathlib import Path

from mask_frozen_detr.cli.loading import check_at_least, load_model
from mask_frozen_detr.cli.positionals import PictureNames, RunName
from mask_frozen_detr.errors import UserError, safe
from mask_frozen_detr.machine.config import Precision


@dataclass
class Benchmark:
    """Milliseconds of detector, mask network, pasting and encoding on this machine, and what would be faster."""

    # A run folder, a hub repository of one, or a detector.
    model: RunName
    # Pictures to time it on, as they will come: files, folders or patterns.
    images: PictureNames
    # Take so many of the pictures, evenly spread.
    pictures: int = 8
    # Time everything so often; the median counts.
    rounds: int = 5
    # Threads of the processor; by default as many as torch takes.
    threads: int | None = None
    # Write all figures into this file, which must not be there yet.
    json: Path | None = None
    # Where to compute: cpu, cuda, cuda:1, mps. By default the fastest that is there.
    device: str | None = None
    # fp32, or auto, bf16 or fp16 to see what half precision brings.
    precision: Precision = "fp32"
    # Where the run's detector lies now, if it has moved.
    detector: str | None = None
    # Other classes for a detector that takes text, as "cat. dog."
    prompt: str | None = None
    # Branch, tag or commit on the hub.
    revision: str | None = None

    def __post_init__(self) -> None:
        check_at_least(1, pictures=self.pictures, rounds=self.rounds)
        if self.threads is not None:
            check_at_least(1, threads=self.threads)

    def run(self) -> None:
        import torch
        from PIL import Image

        from mask_frozen_detr.data.images import find_images, read_image
        from mask_frozen_detr.data.usable_pictures import usable_pictures
        from mask_frozen_detr.latency import advice, measure_latency
        from mask_frozen_detr.machine.files import write_json_atomic
        from mask_frozen_detr.machine.precision import autocast

        if self.json is not None and os.path.lexists(self.json):
            raise UserError(f"{self.json}: is there already; name another file for the figures")
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        paths = find_images(self.images)
        step = max(1, len(paths) // self.pictures)
        model = load_model(self.model, self.detector, self.device, self.revision, self.prompt)

        def predictable(path: Path) -> Image.Image:
            picture = read_image(path)
            model.predict(picture)  # which may refuse what can be read
            return picture

        with autocast(self.precision, model.device):
            pictures, problems = usable_pictures(paths[::step][: self.pictures], predictable, "benchmark")
            latency = measure_latency(model, pictures, self.rounds)
        print(safe("\n".join([latency.table(), *(f"skipped: {problem}" for problem in problems)])))
        for number, line in enumerate(advice(latency, model)):
            print(f"{'faster with' if number == 0 else '        or'} {line}")
        if self.json is not None:
            write_json_atomic(self.json, latency.as_json())
