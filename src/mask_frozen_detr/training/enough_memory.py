"""Out of memory: which pictures it came with, and what needs less."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mask_frozen_detr.errors import UserError, is_out_of_memory, printable, reason, shorten

REMEDY = (
    "a lower --batch, a higher --accumulate or pictures with fewer objects need less; --resume goes on from the last "
    "checkpoint"
)


@contextmanager
def enough_memory(paths: Sequence[Path], where: str) -> Iterator[None]:
    """Within it a lack of memory is a UserError that names the pictures. where: what was done with them."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        names = shorten(printable(str(path)) for path in paths)
        raise UserError(f"{names}: {reason(error)}, {where}; {REMEDY}") from error
