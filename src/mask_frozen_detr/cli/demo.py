"""`demo`: the main job, with nothing to download."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class Demo:
    """The main job on synthetic scenes: nothing to download, some two minutes on two CPU cores."""

    # Where scenes, run and pictures go.
    output: Path = Path("demo-output")
    # How long to train: more gives better masks.
    iterations: int = 220
    # The same number gives the same figures; another one tells how much of them is luck.
    seed: int = 0
    # What masks are learned from: annotations, or boxes alone.
    masks_from: Literal["annotations", "boxes"] = "annotations"
    # Where to compute: cpu, cuda, cuda:1, mps. By default the fastest that is there.
    device: str | None = None

    def run(self) -> None:
        from mask_frozen_detr.cli.loading import choose_device
        from mask_frozen_detr.demo.run import DemoConfig, run_demo

        choose_device(self.device)
        run_demo(self.output, DemoConfig(iterations=self.iterations, seed=self.seed, masks_from=self.masks_from))
