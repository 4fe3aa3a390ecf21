"""Typed records from JSON that others wrote, read field by field."""

import types
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

LARGEST = 1_000_000  # of any whole number: wider than every network

Record = TypeVar("Record")


def read_record(kind: type[Record], values: Any, where: str) -> Record:
    """A dataclass from JSON. Raises ValueError that names the field which is missing, unknown or of another type."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: found {type(values).__name__}, expected an object")
    hints, known = get_type_hints(kind), {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ValueError(f"{where}: found the unknown field {key!r:.60}")
    for key, entry in known.items():
        if key not in values and entry.default is MISSING and entry.default_factory is MISSING:
            raise ValueError(f"{where}: the field {key!r} is missing")
    return kind(**{key: read_value(value, hints[key], f"{where}.{key}") for key, value in values.items()})


def read_value(value: Any, hint: Any, where: str) -> Any:
    """A value from JSON as the type that `hint` says, tuples from lists. Raises ValueError where it is another."""
    if not _fits(value, hint):
        raise ValueError(f"{where}: found {value!r:.60}, expected {_named(hint)}")
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(value) if isinstance(value, list) and any(get_origin(kind) is tuple for kind in kinds) else value


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin in (list, tuple):
        return isinstance(value, list) and all(_fits(one, arguments[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(one, arguments[1]) for one in value.values())
    if hint is int:
        return type(value) is int and 0 <= value <= LARGEST
    return type(value) is (type(None) if hint is None else hint)


def _named(hint: Any) -> str:
    if hint is int:
        return f"a whole number up to {LARGEST:,}"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
