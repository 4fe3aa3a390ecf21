"""`inspect`: a look at data before it is trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from mask_frozen_detr.cli.loading import check_at_least, check_place
from mask_frozen_detr.cli.positionals import DataPath
from mask_frozen_detr.data.config import Format
from mask_frozen_detr.errors import UserError, safe


@dataclass
class Inspect:
    """Look at data before training: counts, what is broken or suspicious, what the detector finds, pictures."""

    # Data as train takes it: a folder or an annotation file, in any of its formats.
    data: DataPath
    # A detector: how its classes match, and which share of the objects it finds.
    detector: Positional[Annotated[str | None, tyro.conf.arg(metavar="DETECTOR", help_behavior_hint="(optional)")]] = (
        None
    )
    # Write all of it into this file as JSON.
    json: Path | None = None
    # Write a page with pictures into this file, which needs nothing beside it.
    html: Path | None = None
    # Pictures of each split on the page.
    pictures: int = 12
    # Images on which to count what the detector finds, of val, or of train where there is none.
    recall_images: int = 200
    # Where the pictures are, if not where the layout of DATA says.
    images: Path | None = None
    # A val split elsewhere.
    val: Path | None = None
    # Where its pictures are.
    val_images: Path | None = None
    # Look at the train split alone.
    no_val: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    # The format of DATA, where it holds several; by default the one that is found.
    format: Format | None = None
    # Where there is no val split: hold this share of the images out, as train does.
    val_fraction: float | None = None
    # Use these classes of the data alone, as person,dog.
    classes: str | None = None
    # Call classes of the data by other names, as pedestrian=person,auto=car.
    class_map: str | None = None
    # What orientation tags of photos mean for their annotations: auto tells by the sizes in the annotation file.
    orientation: Literal["auto", "apply", "ignore"] = "auto"
    # Where to compute: cpu, cuda, cuda:1, mps. By default the fastest that is there.
    device: str | None = None
    # The classes of a detector that takes text, as "cat. dog."
    prompt: str | None = None
    # Branch, tag or commit of a detector on the hub.
    revision: str | None = None

    def __post_init__(self) -> None:
        check_at_least(0, pictures=self.pictures)
        check_at_least(1, recall_images=self.recall_images)

    def run(self) -> None:
        from mask_frozen_detr.cli.loading import choose_device
        from mask_frozen_detr.data.class_choice import read_choice
        from mask_frozen_detr.data.load import load_data
        from mask_frozen_detr.detectors import load_detector
        from mask_frozen_detr.inspection.inspect import inspect_data
        from mask_frozen_detr.inspection.report import MADE_BY
        from mask_frozen_detr.machine.files import write_json_atomic, write_text_atomic
        from mask_frozen_detr.machine.progress import Progress

        for file in (self.json, self.html):
            if file is not None:
                check_place(file)
                _check_own(file, MADE_BY)
        data = load_data(
            self.data,
            self.images,
            self.val,
            self.val_images,
            self.no_val,
            orientation=self.orientation,
            format=self.format,
            val_fraction=self.val_fraction,
            choice=read_choice(self.classes, self.class_map),
        )
        detector = None
        if self.detector is not None:
            detector = load_detector(self.detector, revision=self.revision, prompt=self.prompt)
            detector = detector.to(choose_device(self.device))
        total = len((data.val or data.train).images[: self.recall_images])
        bar = Progress("looking", total, quiet=detector is None)
        found = inspect_data(
            data,
            detector,
            self.pictures if self.html is not None else 0,
            self.recall_images,
            report=lambda done, _total: bar.update(done),
        )
        bar.close()
        print(found.text())
        if self.json is not None:
            write_json_atomic(self.json, found.as_dict())
        if self.html is not None:
            write_text_atomic(self.html, found.page())
            print(safe(f"The page is {self.html}"))


def _check_own(file: Path, made_by: str) -> None:
    """Raises UserError where something else would be replaced."""
    if file.is_file() and file.stat().st_size:
        with open(file, "rb") as opened:
            head = opened.read(300)
        if made_by.encode() not in head:
            raise UserError(f"{file}: is there already and was not written by inspect, so it stays; name another file")
