"""The one error a user can mend: the command line prints its text without a traceback and exits with code 2."""

from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """Bad input: the message names the file, key or option, what was found and what was expected."""


def shorten(names: Iterable[Any], limit: int = 6) -> str:
    """The first few of some names, and how many there are."""
    found = [str(name) for name in names]
    rest = f" … ({len(found)} in all)" if len(found) > limit else ""
    return ", ".join(found[:limit]) + rest
