"""The one error a user can mend: the command line prints its text without a traceback and exits with code 2."""

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

# In a RuntimeError's text: of torch's allocator for CPUs, of C++, of CUDA and MPS, of libraries on a GPU.
NO_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "out of memory", "_STATUS_ALLOC_FAILED")
JOINERS = "\u200c\u200d"  # not printable by themselves, and needed in Persian words and in emoji


class UserError(ValueError):
    """Bad input: the message names the file, key or option, what was found and what was expected."""


def shorten(names: Iterable[Any], limit: int = 6) -> str:
    """The first few of some names, and how many there are."""
    found = [str(name) for name in names]
    rest = f" … ({len(found)} in all)" if len(found) > limit else ""
    return ", ".join(found[:limit]) + rest


def check_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    whole: bool = False,
    above: bool = False,
    below: bool = False,
) -> None:
    """Raises UserError unless the option `name` is a finite number from `least` to `most`.

    whole: it must be an int. above, below: the least or the most itself is too little or too much. True and False are
    no numbers here.
    """
    kind = int if whole else int | float
    if (
        isinstance(value, kind)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
        and (value > least if above else value >= least)
        and (value < most if below else value <= most)
    ):
        return
    limits = []
    if math.isfinite(least):
        limits.append(f"above {least:g}" if above else f"at least {least:g}")
    if math.isfinite(most):
        limits.append(f"below {most:g}" if below else f"at most {most:g}")
    expected = ", ".join(["a whole number" if whole else "a number", *limits])
    raise UserError(f"{name}: found {value!r}, expected {expected}")


def check_flag(name: str, value: Any) -> None:
    """Raises UserError unless the option `name` is True or False."""
    if not isinstance(value, bool):
        raise UserError(f"{name}: found {value!r}, expected True or False")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises UserError unless the option `name` is one of some words."""
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"{name}: found {value!r}, expected {', '.join(map(repr, choices))}")


def printable(text: str, limit: int = 200) -> str:
    """`text` for a terminal, a report or a picture: what is not printable, escapes among it, becomes "?"; shortened.

    Joiners within words and emoji stay.
    """
    shown = "".join(c if c.isprintable() or c in JOINERS else " " if c.isspace() else "?" for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def safe(text: str) -> str:
    """`printable` for text of many lines and any length: names of files and classes within it may hold escapes."""
    return "\n".join(printable(line, len(line) + 1) for line in text.split("\n"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had no memory left: Python's error, or torch's, which has many texts for it."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in NO_MEMORY))
    )


def reason(error: BaseException) -> str:
    """Why something failed, in one line: the text of a `UserError`, of any other error its kind and first line."""
    if isinstance(error, UserError):
        return printable("; ".join(str(error).splitlines()), 1000)
    lines = str(error).strip().splitlines()
    kind = "not enough memory" if is_out_of_memory(error) else type(error).__name__
    return printable(f"{kind}: {lines[0]}" if lines else kind, 300)


def about(path: Path, text: str) -> str:
    """What is wrong with a file, after its name, which many errors have in their text."""
    shown = printable(str(path))
    return text if shown in text else f"{shown}: {text}"
