"""JSON that others wrote: read with bounds, so that a hostile file costs an error and nothing else."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.regular_files import read_regular

LIMIT = 16_000_000  # bytes: settings have a few thousand


def read_json_object(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """The object in a JSON file of at most `limit` bytes. Raises UserError as `read_json` does, and for all else."""
    content = read_json(path, limit)
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged: found a JSON {type(content).__name__}, expected an object")
    return content


def read_json(path: Path, limit: int = LIMIT) -> Any:
    """What a JSON file of at most `limit` bytes holds.

    Raises UserError that names the file where it cannot be read, is larger, is no JSON, is nested too deep, or holds
    NaN, infinity or text that is no Unicode.
    """
    try:
        content = json.loads(read_regular(path, limit), parse_constant=_refuse)
        for keys, value in walk(content):
            "".join((*keys[-1:], value if isinstance(value, str) else "")).encode()
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise UserError(f"{path}: is damaged: it is nested too deep for JSON of settings") from error
    except UnicodeError as error:
        raise UserError(f"{path}: is damaged: it holds text that is no Unicode") from error
    except ValueError as error:
        raise UserError(f"{path}: is damaged: no JSON ({error})") from error
    return content


def walk(content: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All values of nested JSON, each with the keys that lead to it; in lists, places stand for keys."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while waiting:
        path, value = waiting.pop()
        yield path, value
        if isinstance(value, dict):
            waiting += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, str(place)), inner) for place, inner in enumerate(value)]


def flatten(content: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Nested objects as one: a value's name is all keys that lead to it. Lists stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}{separator}{name}": inner for name, inner in flatten(value, separator).items()}
        else:
            flat[key] = value
    return flat


def _refuse(constant: str) -> None:
    raise ValueError(f"found {constant}, expected a finite number")
