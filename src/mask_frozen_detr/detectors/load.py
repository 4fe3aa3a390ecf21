"""`load_detector`: from what the user named to a frozen detector."""

from pathlib import Path

from mask_frozen_detr.detectors.base import FrozenDetector
from mask_frozen_detr.detectors.transformers_detector import DEFAULT_ENCODER_LAYER, load_transformers_detector


def load_detector(
    name_or_folder: str, revision: str | None = None, encoder_layer: int = DEFAULT_ENCODER_LAYER
) -> FrozenDetector:
    """A frozen detector: eval mode, no trainable parameter, run under `no_grad`.

    name_or_folder: a Hugging Face id or a local folder in transformers' format.
    revision: branch, tag or commit of the hub's repository.
    encoder_layer: the encoder layer whose maps E are handed out (Table 15), where the detector has more than one.

    Raises UserError where that is no detector of a known family.
    """
    return load_transformers_detector(str(name_or_folder), revision, encoder_layer)


def looks_like_detector(name_or_folder: str) -> bool:
    """True unless it is a folder of something else: a hub id may always be one."""
    path = Path(name_or_folder)
    return not path.is_dir() or (path / "config.json").is_file()
