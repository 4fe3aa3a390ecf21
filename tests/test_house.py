"""The house: rooms import only from rooms below them, and no modules import each other in a circle.

`python tests/test_house.py` prints the rooms with their imports.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "mask_frozen_detr"
# From the ground up. Rooms of one line stand side by side and do not know each other.
FLOORS = (
    ("errors",),
    ("machine",),
    ("ops", "data"),
    ("detectors",),
    ("network",),
    ("results",),
    ("run", "runtime"),
    ("model",),
    ("evaluation", "prediction", "annotation", "latency", "pipeline", "serving", "export"),
    ("report",),
    ("training",),
    ("paper", "demo", "inspection"),
    ("cli",),
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def modules() -> dict[str, Path]:
    """Dotted name below the package ("data.coco"; a folder's `__init__` is "data") to file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """The package's own modules that a file imports, wherever in it: also within functions and TYPE_CHECKING."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name.removeprefix("mask_frozen_detr.") for name in names if name.startswith("mask_frozen_detr.")}
    return {name if name in known else name.rpartition(".")[0] for name in ours} - {""}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports_of(path, known) for name, path in known.items() if name}


def arrows() -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports from the second."""
    pairs = {(a.split(".")[0], b.split(".")[0]) for a, imported in graph().items() for b in imported}
    return {(a, b) for a, b in pairs if a != b}


def test_every_room_has_its_floor():
    assert {name.split(".")[0] for name in graph()} == set(FLOOR_OF)


def test_imports_only_point_down():
    up = {f"{a} → {b}" for a, b in arrows() if FLOOR_OF[a] <= FLOOR_OF[b]}
    assert not up


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


if __name__ == "__main__":
    for room in sorted(FLOOR_OF, key=lambda room: -FLOOR_OF[room]):
        print(f"{room:12} → {', '.join(sorted(b for a, b in arrows() if a == room))}")
    print(f"{len(FLOOR_OF)} rooms, {len(arrows())} arrows")
