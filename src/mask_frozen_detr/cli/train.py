"""`train`: masks for a frozen detector."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from mask_frozen_detr.cli.positionals import NEEDED
from mask_frozen_detr.data.config import Format
from mask_frozen_detr.errors import UserError, safe
from mask_frozen_detr.network.config import MaskNetworkConfig
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.presets import PresetName, choose_preset, preset, preset_remark

if TYPE_CHECKING:
    from mask_frozen_detr.data.load import Data
    from mask_frozen_detr.detectors.base import FrozenDetector


@dataclass
class Train:
    """Train masks for a frozen detector.

    A preset says how; without one it is chosen by the detector's cost and the number of images, and named. Any option
    beside it overrides its own part. The defaults shown below are those of `--preset paper`.
    """

    # Where masks, records and checkpoints go: a new or empty folder.
    output: Path
    # The detector: a Hugging Face id, a folder in transformers' format, or an official checkpoint file.
    detector: Positional[Annotated[str | None, tyro.conf.arg(metavar="DETECTOR", help_behavior_hint=NEEDED)]] = None
    # Data: a folder with a train and, better, a val split, or one annotation file; COCO, YOLO-seg, LabelMe, Pascal VOC,
    # COCO panoptic, VIA, Label Studio or CVAT.
    data: Positional[Annotated[Path | None, tyro.conf.arg(metavar="DATA", help_behavior_hint=NEEDED)]] = None
    # Where the pictures are, if not where the layout of DATA says.
    images: Path | None = None
    # What to measure on, a folder or an annotation file, if not the val split of DATA.
    val: Path | None = None
    # Where its pictures are, if not where the layout says.
    val_images: Path | None = None
    # The format of DATA, where it holds several; by default the one that is found.
    format: Format | None = None
    # Where there is no val split: hold this share of the images out, as 0.1, the same ones at every call.
    val_fraction: float | None = None
    # Use these classes of the data alone, as person,dog; the run keeps to them.
    classes: str | None = None
    # Call classes of the data by other names, as pedestrian=person,auto=car; the run keeps to it.
    class_map: str | None = None
    # Leave a val split out: nothing is measured then.
    no_val: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    # What orientation tags of photos mean for their annotations: auto tells by the sizes in the annotation file.
    orientation: Literal["auto", "apply", "ignore"] = "auto"
    # Go on where a killed run stopped, with the same options.
    resume: bool = False
    # Give up the run that the folder holds, and start anew.
    overwrite: bool = False
    # Where to compute: cpu, cuda, cuda:1, mps. By default the fastest that is there.
    device: str | None = None
    # light: masks at the pace of a real-time detector. balanced: for heavy detectors and few images. best: the highest
    # AP in half an hour. paper: the paper's own network and training, for large data.
    preset: PresetName | None = None
    # A row of the paper, which gives the defaults of all other options; `recipes` lists them.
    recipe: str | None = None
    # The classes of a detector that takes text, as "cat. dog."
    prompt: str | None = None
    # Branch, tag or commit of a detector on the hub.
    revision: str | None = None
    # The encoder layer whose maps are used, where the detector has several (Table 15).
    encoder_layer: int = 4
    # For small data: keep the detector's outputs in this folder, so that it runs once an image; of the random views
    # only flips are left.
    cache: Path | None = None
    # Gigabytes that these may take.
    cache_limit: float = 20.0
    # How long and how fast to learn, and how often to look.
    training: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    # Which parts the mask network is built from; the defaults are the paper's.
    network: OmitArgPrefixes[MaskNetworkConfig] = field(default_factory=MaskNetworkConfig)

    def __post_init__(self) -> None:
        # Of a command line: the same words once more, with other defaults for what they leave open.
        self.parse_again: Callable[[Train], Train] | None = None

    def run(self) -> None:
        from accelerate.utils import set_seed

        from mask_frozen_detr.cli.loading import choose_device
        from mask_frozen_detr.detectors import load_detector
        from mask_frozen_detr.machine.processes import processes
        from mask_frozen_detr.model import MaskFrozenDetr
        from mask_frozen_detr.training.cache import FrozenCache
        from mask_frozen_detr.training.loop import train
        from mask_frozen_detr.training.run_folder import check_start

        if self.detector is None or self.data is None:
            raise UserError(_lacking(self.recipe, self.detector, self.data))
        check_start(self.output, self.resume, self.overwrite)
        choose_device(self.device)
        state = processes()
        data = self._load_data(self.data)
        detector = load_detector(
            self.detector, revision=self.revision, encoder_layer=self.encoder_layer, prompt=self.prompt
        )
        options = self._decided(detector, len(data.train.images))
        training = options.training
        set_seed(training.seed)  # the weights to start from, too, are the same at a --resume before any checkpoint
        model = MaskFrozenDetr.build(detector, options.network)
        cache = None if self.cache is None else FrozenCache(self.cache, model, self.cache_limit)
        if state.is_main_process:
            print(safe(data.summary()), file=sys.stderr)
        evaluation = train(
            model, data.train, data.val, self.output, training, self.resume, overwrite=self.overwrite, cache=cache
        )
        if not state.is_main_process:
            return
        if evaluation is not None:
            print(safe(evaluation.table()))
        print(safe(f"The mask network lies in {self.output}"))

    def _load_data(self, folder: Path) -> "Data":
        from mask_frozen_detr.data.class_choice import read_choice
        from mask_frozen_detr.data.load import load_data

        return load_data(
            folder,
            self.images,
            self.val,
            self.val_images,
            self.no_val,
            self.orientation,
            self.format,
            self.val_fraction,
            read_choice(self.classes, self.class_map),
        )

    def _decided(self, detector: "FrozenDetector", images: int) -> "Train":
        """These options, with those that were not given by a preset, or by the run that is resumed; says which."""
        from mask_frozen_detr.detectors.cost import detector_gmacs
        from mask_frozen_detr.machine.processes import processes
        from mask_frozen_detr.training.run_folder import is_run, read_options

        if self.recipe is not None and self.preset is not None:
            raise UserError(f"found --preset {self.preset} and --recipe {self.recipe}, expected one of them")
        if self.recipe is not None or self.parse_again is None:
            return self
        if self.resume and self.preset is None and is_run(self.output):
            network, training = read_options(self.output)
            said = "options: those that the run was started with"
        else:
            if self.preset is None:
                name, why = choose_preset(detector_gmacs(detector), images)
                said = f"preset {name}: {why}; another one by --preset"
            else:
                name, remark = self.preset, preset_remark(self.preset, partial(detector_gmacs, detector), images)
                said = f"preset {name}, as asked: {remark}" if remark else f"preset {name}"
            network, training = preset(name, images)
        if processes().is_main_process:
            print(f"{said}; any option overrides its part", file=sys.stderr)
        return self.parse_again(Train(output=tyro.MISSING, network=network, training=training))


def train_by_recipe(name: str) -> Train:
    """The defaults of `train` that a recipe gives: options beside it override single fields.

    Raises UserError for a name that is none.
    """
    from mask_frozen_detr.paper.recipes import find_recipe

    recipe = find_recipe(name)
    return Train(
        output=tyro.MISSING,
        recipe=recipe.name,
        network=recipe.network,
        training=recipe.training,
        encoder_layer=recipe.encoder_layer,
    )


def _lacking(recipe: str | None, detector: str | None, data: Path | None) -> str:
    from mask_frozen_detr.paper.recipes import find_recipe

    if recipe is not None:
        return find_recipe(recipe).lacking(detector, data)
    return "train: expected DETECTOR and DATA, as in train DETECTOR DATA --output RUN"
