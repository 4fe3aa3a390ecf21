"""Options of prediction, apart from what predicts: what prints help need not load it."""

from typing import Literal

OverlayFormat = Literal["png", "jpg"]
