"""`annotate`: boxes in, masks out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mask_frozen_detr.cli.loading import check_at_least, check_place, load_model
from mask_frozen_detr.cli.positionals import DataPath, RunName
from mask_frozen_detr.data.config import Format
from mask_frozen_detr.errors import UserError, safe
from mask_frozen_detr.machine.config import Precision


@dataclass
class Annotate:
    """Masks for the boxes of a data set: whoever drew boxes for all and masks for some gets the rest drawn."""

    # A run folder, a hub repository of one, or a detector: then the training-free baseline draws.
    model: RunName
    # Data with boxes: a folder or an annotation file, in any format that training takes.
    data: DataPath
    # Where the labelled data goes: a COCO file, the data's own content with masks added to it.
    output: Path
    # Which split of the folder to label: train, val or test.
    split: str = "train"
    # Where the pictures are, if not where the layout of DATA says.
    images: Path | None = None
    # Format of DATA; by default the one that is found there.
    format: Format | None = None
    # What orientation tags of photos mean for their annotations: auto tells by the sizes in the annotation file.
    orientation: Literal["auto", "apply", "ignore"] = "auto"
    # Draw anew what has a mask that is nothing but the four corners of its box.
    redraw_rectangles: bool = False
    # List so many of the most doubtful masks, worst first: a page with pictures, and files for labelling tools.
    review: int = 0
    # Look twice, once in the mirror, and at all but large boxes from near: better masks for more time.
    careful: bool = True
    # Where to compute: cpu, cuda, cuda:1, mps. By default the fastest that is there.
    device: str | None = None
    # auto takes half precision where that is fast.
    precision: Precision = "fp32"
    # Where the run's detector lies now, if it has moved.
    detector: str | None = None
    # The classes of a bare detector that takes text, as "cat. dog."
    prompt: str | None = None
    # Branch, tag or commit on the hub.
    revision: str | None = None

    def __post_init__(self) -> None:
        check_at_least(0, review=self.review)

    def run(self) -> None:
        from mask_frozen_detr.annotation.annotate import annotate
        from mask_frozen_detr.data.load import load_split
        from mask_frozen_detr.machine.precision import autocast

        if self.output.suffix != ".json":
            raise UserError(f"output: found {self.output}, expected the name of a .json file")
        check_place(self.output)
        data = load_split(self.data, self.split, self.images, self.orientation, self.format)
        print(safe(data.summary()))
        model = load_model(self.model, self.detector, self.device, self.revision, self.prompt)
        with autocast(self.precision, model.device):
            report = annotate(model, data, self.output, self.redraw_rectangles, self.review, self.careful)
        print(safe(report))
