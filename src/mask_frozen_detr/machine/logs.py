"""What happens meanwhile goes to the logger `mask_frozen_detr`: a program with handlers of its own gets it there."""

import logging
import sys

from mask_frozen_detr.errors import safe

LOGGER = logging.getLogger("mask_frozen_detr")


class _Stderr(logging.StreamHandler):
    """Writes to what stderr is at the moment, which programs and notebooks exchange."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # type: ignore[override]
        return sys.stderr


def log(text: str) -> None:
    """A line of the log. Where nobody has set up `logging`, it is shown on stderr as it is."""
    if not LOGGER.handlers and not logging.getLogger().handlers:
        LOGGER.addHandler(_Stderr())
        LOGGER.setLevel(logging.INFO)
    LOGGER.info("%s", safe(text))
