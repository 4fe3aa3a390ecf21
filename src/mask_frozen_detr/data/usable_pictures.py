"""Pictures that work needs some of, not each of: a bad one is one line."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from mask_frozen_detr.errors import UserError, about, reason

T = TypeVar("T")


def usable_pictures(paths: Iterable[Path], take: Callable[[Path], T], what: str) -> tuple[list[T], list[str]]:
    """What `take` makes of each picture that it takes, and a line about each that makes it raise an error.

    Raises UserError, beginning with `what` needs them, where there are pictures and none is usable.
    """
    usable: list[T] = []
    problems: list[str] = []
    for path in paths:
        try:
            usable.append(take(path))
        except Exception as error:  # whatever a picture brings about
            problems.append(about(path, reason(error)))
    if problems and not usable:
        raise UserError(f"{what}: none of {len(problems)} pictures can be used, the first: {problems[0]}")
    return usable, problems
