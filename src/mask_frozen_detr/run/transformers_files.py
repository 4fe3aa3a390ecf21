"""config.json and preprocessor_config.json of a run folder, by which transformers' auto classes know it.

They repeat what transformers' pipeline must know before it loads the run; mask_frozen_detr.json decides.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mask_frozen_detr.detectors.base import DetectorInfo
from mask_frozen_detr.errors import UserError, printable
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.machine.json_files import read_json_object
from mask_frozen_detr.run.transformers_names import (
    MODEL_CLASS,
    MODEL_FILE,
    MODEL_TYPE,
    PROCESSOR_CLASS,
    PROCESSOR_FILE,
)


def write_transformers_files(folder: Path, info: DetectorInfo, class_names: Sequence[str], max_detections: int) -> None:
    """Raises UserError where they cannot be written; `check_transformers_files` says whether they may be."""
    labels = {str(index): name or str(index) for index, name in enumerate(class_names)}
    config = {"model_type": MODEL_TYPE, "architectures": [MODEL_CLASS], "id2label": labels}
    processor = {
        "image_processor_type": PROCESSOR_CLASS,
        "preprocessing": info.preprocessing.describe(),
        "score_rule": asdict(info.score_rule),
        "max_detections": max_detections,
    }
    write_json_atomic(folder / MODEL_FILE, config)
    write_json_atomic(folder / PROCESSOR_FILE, processor)


def check_transformers_files(folder: Path) -> None:
    """Raises UserError where a file of their names is another model's: a run saved into its detector's folder, say."""
    for name, key, own in (
        (MODEL_FILE, "model_type", MODEL_TYPE),
        (PROCESSOR_FILE, "image_processor_type", PROCESSOR_CLASS),
    ):
        path = folder / name
        if path.exists() and (found := _read(path).get(key)) != own:
            raise UserError(
                f"{path}: is of another model ({key} {printable(str(found), 60)!r}) and would be replaced; name "
                "another folder"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except UserError:
        return {}
