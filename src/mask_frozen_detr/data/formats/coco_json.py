"""COCO's annotation files as JSON: the whole, or annotation by annotation, as most of the memory is theirs.

With `msgspec` installed the latter takes a fifth of the time. It is stricter than Python's own reader, which knows NaN:
whatever it does not take is read by that one, and so are files that are broken, for the message.
"""

import json
import re
from collections.abc import Callable
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.regular_files import read_regular

Take = Callable[[Any, int], None]  # an annotation, and its place, by which it can be read again
Again = Callable[[int], Any]


def load_coco_json(file: Path) -> dict[str, list]:
    """A COCO annotation file with its three lists. Raises UserError where it is not that."""
    return _check(file, _parse(file, _decode(file, _read(file)), json.loads))


def scan_coco_json(file: Path, begin: Callable[[], Take]) -> tuple[dict[str, list], Again]:
    """The same, but each annotation is handed on as it is read, and the list of them is left empty.

    The categories may be missing: annotations tell whether they are needed (`check_key`).

    begin: called where the list begins; gives what takes its entries. Where it is called again, the last list counts.
    Returns: the lists, and what gives an annotation anew, by its place.
    """
    content = _read(file)
    found = _scan_strictly(content, begin)
    if found is not None:
        return _check(file, found[0], whole=False), found[1]
    text = _decode(file, content)
    del content
    data = _parse(file, text, lambda text: _scan(text, begin))
    return _check(file, data, whole=False), lambda place: JSONDecoder().raw_decode(text, place)[0]


def _read(file: Path) -> bytes:
    try:
        return read_regular(file)
    except OSError as error:
        raise UserError(f"{file}: cannot read the annotation file ({error.strerror})") from None
    except MemoryError:
        raise _too_large(file) from None


def _decode(file: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not JSON ({error}), expected a COCO annotation file") from None
    except MemoryError:
        raise _too_large(file) from None


def _parse(file: Path, text: str, load: Callable[[str], Any]) -> Any:
    try:
        return load(text)
    except MemoryError:
        raise _too_large(file) from None
    except JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip()) - 8 or error.msg.startswith("Unterminated string")
        found = "is empty" if not text.strip() else "ends too early, truncated?" if at_end else "is not JSON"
        raise UserError(f"{file}: {found} ({error}), expected a COCO annotation file") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{file}: is not JSON ({error}), expected a COCO annotation file") from None
    except RecursionError:
        raise UserError(f"{file}: is nested too deeply, expected a COCO annotation file") from None


def check_key(file: Path, data: dict[str, Any], key: str) -> None:
    """Raises UserError where the file lacks one of its three lists."""
    if key not in data:
        raise UserError(
            f"{file}: no key '{key}' (found: {', '.join(map(repr, data)) or 'none'}), expected a COCO "
            "instances file with 'images', 'annotations' and 'categories'"
        )
    if type(data[key]) is not list:
        raise UserError(f"{file}: '{key}' is a {type(data[key]).__name__}, expected a list")


def _check(file: Path, data: Any, whole: bool = True) -> dict[str, list]:
    if type(data) is not dict:
        results = " (COCO results, without their images?)" if type(data) is list else ""
        raise UserError(
            f"{file}: holds JSON of type {type(data).__name__}{results}, expected an object with 'images' …"
        )
    if file.stem.startswith("image_info"):
        data.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if whole or key != "categories" or key in data:
            check_key(file, data, key)
    return data


def _too_large(file: Path) -> UserError:
    return UserError(f"{file}: not enough memory to read it, expected a smaller annotation file")


def _scan_strictly(content: bytes, begin: Callable[[], Take]) -> tuple[dict[str, Any], Again] | None:
    """None without `msgspec`, and for what it does not take."""
    try:
        import msgspec
    except ImportError:
        return None
    decode = msgspec.json.decode
    try:
        found: dict[str, Any] = decode(content.removeprefix(b"\xef\xbb\xbf"), type=dict[str, msgspec.Raw])
        entries = decode(found.get("annotations", b"[]"), type=list[msgspec.Raw])
        data = {key: [] if key == "annotations" else decode(value) for key, value in found.items()}
        take = begin()
        for place, entry in enumerate(entries):
            take(decode(entry), place)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return data, lambda place: decode(entries[place])


def _scan(text: str, begin: Callable[[], Take]) -> Any:
    """`json.loads`, with its errors, but for the list of annotations, which is handed on entry by entry."""
    decode, skip = JSONDecoder().raw_decode, re.compile(r"[ \t\n\r]*").match
    found: dict[str, Any] = {}

    def after(place: int) -> int:
        match = skip(text, place)
        assert match is not None  # it may be empty
        return match.end()

    def entries(place: int, take: Take) -> int:
        """Hands on what the list holds that opens before `place`; returns the place behind its end."""
        place = after(place)
        if text[place : place + 1] == "]":
            return place + 1
        while True:
            value, end = decode(text, place)
            take(value, place)
            place = after(end)
            if text[place : place + 1] == "]":
                return place + 1
            if text[place : place + 1] != ",":
                raise JSONDecodeError("Expecting ',' delimiter", text, place)
            place = after(place + 1)

    place = after(0)
    if text[place : place + 1] != "{":
        return json.loads(text)
    place, last = after(place + 1), ","
    if text[place : place + 1] == "}":
        place, last = place + 1, "}"
    while last == ",":
        if text[place : place + 1] != '"':
            raise JSONDecodeError("Expecting property name enclosed in double quotes", text, place)
        name, end = decode(text, place)
        place = after(end)
        if text[place : place + 1] != ":":
            raise JSONDecodeError("Expecting ':' delimiter", text, place)
        place = after(place + 1)
        if name == "annotations" and text[place : place + 1] == "[":
            found[name], end = [], entries(place + 1, begin())
        else:
            found[name], end = decode(text, place)
        place = after(end)
        last = text[place : place + 1]
        if last not in (",", "}"):
            raise JSONDecodeError("Expecting ',' delimiter", text, place)
        place = after(place + 1)
    if after(place) != len(text):
        raise JSONDecodeError("Extra data", text, after(place))
    return found
