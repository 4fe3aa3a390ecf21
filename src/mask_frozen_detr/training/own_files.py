"""Which files of a run folder are the run's own: whatever else lies there is never removed or replaced."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.checksums import hash_content
from mask_frozen_detr.machine.json_files import LIMIT
from mask_frozen_detr.machine.regular_files import read_regular
from mask_frozen_detr.model import CONFIG_FILE, DETECTOR_FOLDER, WEIGHTS_FILE
from mask_frozen_detr.report.page import REPORT_FILE
from mask_frozen_detr.run.description import METRICS_FILE, TRAINING_FILE
from mask_frozen_detr.run.transformers_names import TRANSFORMERS_FILES
from mask_frozen_detr.training.best import BEST_EVALUATION, BEST_FOLDER
from mask_frozen_detr.training.checkpoint import CHECKPOINT_FILE
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.pseudo_masks.store import FOLDER as PSEUDO_FOLDER
from mask_frozen_detr.training.run_record import RunRecord

TENSORBOARD_FOLDER = "tensorboard"
ALWAYS = (CHECKPOINT_FILE, WEIGHTS_FILE, METRICS_FILE, CONFIG_FILE, TRAINING_FILE)
BEST_FILES = tuple(
    f"{BEST_FOLDER}/{name}" for name in (CONFIG_FILE, WEIGHTS_FILE, *TRANSFORMERS_FILES, BEST_EVALUATION)
)
BEST_DETECTOR = f"{BEST_FOLDER}/{DETECTOR_FOLDER}"
# All that any version has written: what a description lists besides is not believed.
OWN = re.compile(
    "|".join(
        [
            *map(re.escape, (*ALWAYS, *TRANSFORMERS_FILES, *BEST_FILES, DETECTOR_FOLDER, BEST_DETECTOR, REPORT_FILE)),
            r"evaluation-\d+\.(json|jpg)",
            rf"{TENSORBOARD_FOLDER}/[\w.*-]+",
            re.escape(PSEUDO_FOLDER),
        ]
    )
)
EVALUATION = re.compile(r"evaluation-(\d+)\.(json|jpg)")


def is_run(output: Path) -> bool:
    """Whether `train` has begun a run there; older versions wrote no list of files into training.json."""
    return (output / TRAINING_FILE).is_file() and (
        (output / CONFIG_FILE).is_file() or "files" in read_description(output)
    )


def check_foreign(output: Path, record: RunRecord, config: TrainConfig) -> None:
    """Raises UserError where a file that is not a run's own has a name that the new run will write."""
    own = set(own_files(output)) if is_run(output) else set()
    best = output / BEST_FOLDER
    names = [path.name for path in output.iterdir()]
    names += [f"{BEST_FOLDER}/{path.name}" for path in best.iterdir()] if best.is_dir() else []
    for name in names:
        match = EVALUATION.fullmatch(name)
        step = int(match[1]) if match else 0
        wanted = (
            name in (*ALWAYS, *TRANSFORMERS_FILES, *BEST_FILES)
            or (name == BEST_FOLDER and not best.is_dir())
            or (name == REPORT_FILE and config.report)
            or (name in (DETECTOR_FOLDER, BEST_DETECTOR) and config.finetune != "none")
            or (name == PSEUDO_FOLDER and config.masks_from != "annotations")
            or (step and (step == record.steps or (config.evaluate_every and step % config.evaluate_every == 0)))
        )
        if wanted and name not in own:
            raise UserError(
                f"{output / name}: no run wrote it, and this one would replace it; move it away, or give another "
                "--output"
            )


def read_description(output: Path) -> dict[str, Any]:
    """training.json as it is. Raises UserError where it cannot be read or is damaged."""
    path = output / TRAINING_FILE
    try:
        saved = json.loads(read_regular(path, LIMIT))
        stated = saved.pop("checksum", None)  # older versions wrote none
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}), expected what a run wrote; give another --output") from error
    if (stated is not None or "files" in saved) and stated != hash_content(saved):
        raise UserError(
            f"{path}: is damaged: its content is not what the run wrote; restore it, or give another --output"
        )
    return saved


def own_files(output: Path) -> list[str]:
    """The names of a run's own files, relative to its folder."""
    saved = read_description(output)
    if "files" in saved:
        return [name for name in saved["files"] if isinstance(name, str) and OWN.fullmatch(name)]
    matches = [match for path in output.iterdir() if (match := EVALUATION.fullmatch(path.name))]
    found = [match[0] for match in matches if match[2] == "json"]  # older versions drew no pictures
    own = [DETECTOR_FOLDER] if saved.get("finetune", "none") != "none" else []
    return [*ALWAYS, *found, *own, f"{TENSORBOARD_FOLDER}/events.out.tfevents.*"]


def remove(output: Path, name: str) -> None:
    """One entry of a run's list. training.json stays until another takes its place."""
    if name == TRAINING_FILE:
        return
    folder, pattern = (output / name).parent, Path(name).name
    for path in folder.glob(pattern) if folder.is_dir() else []:
        if pattern in (DETECTOR_FOLDER, PSEUDO_FOLDER) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if folder != output and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
