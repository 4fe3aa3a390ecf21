"""Where a run lies: a local folder, or a hub repository that is fetched."""

import re
from pathlib import Path

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.run.description import CONFIG_FILE, DETECTOR_FOLDER, WEIGHTS_FILE
from mask_frozen_detr.run.hub import download
from mask_frozen_detr.run.transformers_names import TRANSFORMERS_FILES

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def locate_run(run: str | Path, revision: str | None = None) -> Path:
    """The folder of a run: local, or fetched from the hub. Raises UserError where it is neither."""
    folder, why = Path(run), ""
    if not folder.exists() and HUB_NAME.fullmatch(str(run)):
        try:
            wanted = [CONFIG_FILE, WEIGHTS_FILE, f"{DETECTOR_FOLDER}/*", *TRANSFORMERS_FILES]
            folder = download(str(run), revision, wanted)
        except UserError as error:
            why = f" ({error})"
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{run}: no {CONFIG_FILE} in it, expected a run folder that `mask-frozen-detr train` wrote, or a hub "
            f"repository of one that can be reached{why}"
        )
    return folder


def find_run(run: str | Path, revision: str | None = None) -> Path | None:
    """The folder of a run, as `locate_run` finds it; None where `run` is something else or not there."""
    try:
        return locate_run(run, revision)
    except UserError:
        return None
