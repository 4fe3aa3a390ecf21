"""What several commands take without an option's name, and what `--help` calls it."""

from pathlib import Path
from typing import Annotated, TypeAlias

import tyro
from tyro.conf import Positional

NEEDED = "(required)"
# A run folder, a hub repository of one, or whatever else the command takes in its place.
RunName: TypeAlias = Positional[Annotated[str, tyro.conf.arg(metavar="RUN")]]
DetectorName: TypeAlias = Positional[Annotated[str, tyro.conf.arg(metavar="DETECTOR")]]
DataPath: TypeAlias = Positional[Annotated[Path, tyro.conf.arg(metavar="DATA")]]
# Of a list tyro says that it may be empty: these commands refuse it by a message of their own.
PictureNames: TypeAlias = Positional[
    Annotated[list[str], tyro.conf.arg(metavar="PICTURES …", help_behavior_hint=NEEDED)]
]
RunNames: TypeAlias = Positional[
    Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN RUN …", help_behavior_hint=NEEDED)]
]
