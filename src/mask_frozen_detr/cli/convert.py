"""`convert`: an official checkpoint as a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from mask_frozen_detr.errors import safe


@dataclass
class Convert:
    """Turn an official checkpoint into a folder of safetensors that loads without pickle."""

    # The file that its authors publish.
    checkpoint: Positional[Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]]
    # Where the detector shall lie: a new folder.
    folder: Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]]
    # Which detector it is, where the file alone cannot tell.
    name: str | None = None
    # Store half-precision weights: half the size.
    half: bool = False

    def run(self) -> None:
        from mask_frozen_detr.detectors.official import convert_checkpoint

        convert_checkpoint(self.checkpoint, self.folder, name=self.name, half=self.half)
        print(safe(f"The detector lies in {self.folder}"))
