"""Stand-ins for packages that only score or encode masks, so that a machine without them can still measure the rest.

Nothing that is timed calls them; whatever does call one fails by its name, and the report names what was absent.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SCORING = ("hotcoco", "pycocotools", "supervision", "tyro")


class Absent(ModuleType):
    """A module, or anything in it: may be imported, not used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.__name__}.{name}")

    def __call__(self, *_args: Any, **_options: Any) -> Any:
        raise ModuleNotFoundError(f"{self.__name__} is needed here, but {self.__name__.split('.')[0]} is not installed")


def absent_packages() -> list[str]:
    """Those of `SCORING` that cannot be imported."""
    absent = []
    for name in SCORING:
        try:
            if isinstance(import_module(name), Absent):
                absent.append(name)
        except ImportError:
            absent.append(name)
    return absent


@contextmanager
def standing_in(names: list[str]) -> Iterator[None]:
    """Within it, modules that import `names` can be imported."""
    for name in names:
        module = Absent(name)
        module.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
