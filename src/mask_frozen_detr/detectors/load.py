"""`load_detector`: from what the user named to a frozen detector."""

from collections.abc import Sequence
from pathlib import Path

from mask_frozen_detr.detectors.base import FrozenDetector
from mask_frozen_detr.detectors.official import OFFICIAL_NAMES, is_official_checkpoint, load_official
from mask_frozen_detr.detectors.transformers_detector import DEFAULT_ENCODER_LAYER
from mask_frozen_detr.detectors.transformers_load import load_transformers_detector
from mask_frozen_detr.errors import UserError


def load_detector(
    name_or_folder: str | Path,
    checkpoint: str | Path | None = None,
    revision: str | None = None,
    encoder_layer: int = DEFAULT_ENCODER_LAYER,
    prompt: str | Sequence[str] | None = None,
) -> FrozenDetector:
    """A frozen detector: eval mode, no trainable parameter, run under `no_grad`.

    name_or_folder: a Hugging Face id; a local folder in transformers' format; an official checkpoint file of
        H-Deformable-DETR, DINO or Deformable DETR, or a folder it was converted to; or one of `OFFICIAL_NAMES`.
    checkpoint: the file of a detector given by its official name.
    revision: branch, tag or commit of the hub's repository.
    encoder_layer: the encoder layer whose maps E are handed out, counted from 1 (Table 15), where there are several.
    prompt: the classes of a detector that takes text, as "cat. dog." or a list of names.

    Raises UserError where that is no detector of a known family.
    """
    name = str(name_or_folder)
    if checkpoint is not None or name in OFFICIAL_NAMES or is_official_checkpoint(name):
        for option, value in (("revision", revision), ("prompt", prompt)):
            if value is not None:
                raise UserError(f"{name}: {option}: found {value!r}, but official checkpoints have none")
        if checkpoint is None and name in OFFICIAL_NAMES and not Path(name).exists():
            raise UserError(
                f"{name}: found no checkpoint, expected checkpoint = FILE; its authors publish it at "
                f"{OFFICIAL_NAMES[name].where}"
            )
        file, official = (name, None) if checkpoint is None else (checkpoint, name)
        detector = load_official(file, official, encoder_layer=encoder_layer)
        detector.info.path = Path(file).absolute()
        return detector
    transformers_detector = load_transformers_detector(name, revision, encoder_layer, prompt)
    transformers_detector.info.path = Path(name).absolute() if Path(name).is_dir() else None
    return transformers_detector
