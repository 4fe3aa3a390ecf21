"""Options of a frozen detector, apart from torch: what prints help need not load it."""

from typing import Literal

FineTune = Literal["none", "partial", "full"]
