"""Pictures that work needs some of, not each of: a bad one is one line."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.errors import UserError, about, reason


def usable_pictures(
    paths: Iterable[Path], takes: Callable[[Image.Image], Any], what: str
) -> tuple[list[Path], list[str]]:
    """The pictures that can be read and that `takes` takes, and a line about each other.

    Raises UserError, beginning with `what` needs them, where there are pictures and none is usable.
    """
    usable, problems = [], []
    for path in paths:
        try:
            takes(read_image(path))
            usable.append(path)
        except Exception as error:  # whatever a picture brings about
            problems.append(about(path, reason(error)))
    if problems and not usable:
        raise UserError(f"{what}: none of {len(problems)} pictures can be used, the first: {problems[0]}")
    return usable, problems
