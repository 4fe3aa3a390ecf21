"""Values that no file of ours holds: put in the place of any value of a JSON document, or of its text."""

import json
from random import Random
from typing import Any

ESCAPES = ["\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "a\rb", "\u202eevil", "\x9b31m", "tab\tnew\nline", "nul\x00l"]
TEXTS = [
    *ESCAPES,
    "",
    " ",
    "../../../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "a" * 5000,
    "[bold red]markup[/]",
    "[/]",
    "<script>alert(1)</script>",
    "$\\frac{",
    "{0.__class__}",
    "%s%n",
    "bouteille à café",
    "\ud800",
    "NaN",
    "1e400",
]
NUMBERS = [
    *(0, -1, 1, 0.5, -0.0, 1e308, -1e308, float("nan"), float("inf"), -float("inf")),
    *(10**5, 70_000, 2**31 - 1, 2**31, 2**32 + 1, 2**53 + 1, 2**63, 10**12, 10**30, 10**400),
]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], {"a": {}}, [[[[[[]]]]]]]


def hostile_value(random: Random) -> Any:
    kinds: list[list[Any]] = [TEXTS, NUMBERS, OTHERS]
    return copied(random.choice(random.choice(kinds)))


def copied(document: Any) -> Any:
    """A copy, of any depth that JSON is read in: `deepcopy` gives up at half of it."""
    return json.loads(json.dumps(document))


def places(document: Any) -> list[tuple[Any, ...]]:
    """Paths to all values of a document but itself."""
    found: list[tuple[Any, ...]] = []
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), document)]
    while waiting:
        at, value = waiting.pop()
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        inner = [((*at, key), one) for key, one in entries]
        found += [path for path, _ in inner]
        waiting += inner
    return found


def place_in(document: Any, random: Random) -> tuple[Any, ...] | None:
    """Of any depth with equal chance, or long lists of numbers would take all of it."""
    by_depth: dict[int, list[tuple[Any, ...]]] = {}
    for path in places(document):
        by_depth.setdefault(len(path), []).append(path)
    return random.choice(by_depth[random.choice(sorted(by_depth))]) if by_depth else None


def mutate(document: Any, random: Random) -> tuple[Any, str]:
    """A copy with one hostile change, and what it was."""
    document = copied(document)
    path = place_in(document, random)
    if path is None:
        return hostile_value(random), "everything replaced"
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    key, old = path[-1], holder[path[-1]]
    where = ".".join(map(str, path))
    how = random.choice(["value", "value", "value", "gone", "twice", "wrapped", "scaled", "key"])
    if how == "gone":
        del holder[key]
    elif how == "twice" and isinstance(holder, list):
        holder.append(copied(old))
    elif how == "wrapped":
        holder[key] = [old] if random.random() < 0.5 else {"value": old}
    elif how == "scaled" and isinstance(old, int | float) and abs(old) < 1e308:  # larger integers are no floats
        holder[key] = old * random.choice([-1, 0, 2, 1000, 10**9, 0.5, 1.0])
    elif how == "key" and isinstance(holder, dict):
        holder[random.choice(TEXTS)] = holder.pop(key)
    else:
        how, holder[key] = "value", hostile_value(random)
        where += f" = {holder[key]!r}"
    return document, f"{how} {where}"[:200]


def text_of(document: Any, random: Random) -> tuple[bytes, str]:
    """A document as a file's bytes: nearly always plain, sometimes odd as a whole."""
    text = json.dumps(document)
    odd = random.random()
    if odd < 0.9:
        return text.encode("utf-8", "surrogatepass"), ""
    depth = random.choice([500, 5000, 200_000])
    return random.choice(
        [
            (b"\xef\xbb\xbf" + text.encode(), "BOM"),
            (text.encode("utf-16"), "UTF-16"),
            (text.encode() + text.encode(), "twice"),
            (b"", "empty"),
            (b"\x00" * 1000, "zeros"),
            (b"[" * depth, f"{depth} brackets"),
            (b'{"a":' * depth + b"1" + b"}" * depth, f"{depth} objects"),
            (text[:-1].encode() + b', "x": ' + b"[" * depth + b"]" * depth + b"}", f"a value {depth} deep"),
            (text[:-1].encode() + b', "x": 1' + b"0" * depth + b"}", f"a number of {depth} digits"),
            (text[: random.randrange(len(text))].encode(), "cut short"),
            (text.replace("1", "\ufeff1", 3).encode(), "byte order marks within"),
            (text.encode().replace(b'"', b"\xff", 3), "no text"),
        ]
    )
