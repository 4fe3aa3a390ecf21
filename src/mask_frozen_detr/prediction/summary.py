"""What `predict` tells at its end, in lines."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mask_frozen_detr.data.images import SUFFIXES, pictures_below
from mask_frozen_detr.errors import printable, shorten
from mask_frozen_detr.results.fonts import undrawable
from mask_frozen_detr.results.prediction_files import Predicted


def summarise(
    output: Path,
    done: Sequence[Predicted],
    kept: int,
    changed: Iterable[str],
    score_threshold: float,
    problems: Sequence[str],
    own: int,
    inputs: Sequence[str | Path],
    undrawn: str,
) -> str:
    """What a call of `predict` tells at its end.

    done: all pictures of the call, of which `kept` had been done before. changed: settings that are other ones now.
    problems: a line for each picture that was skipped. own: pictures that `predict` had drawn and that were left out.
    undrawn: letters that no font has.
    """
    count = sum(len(one.found) for one in done)
    lines = [f"{count} instances in {len(done)} pictures, in {printable(str(output))}"]
    if kept:
        lines.append(f"{kept} of them had been done before")
    if names := shorten(dict.fromkeys(changed)):
        lines.append(f"all made anew, since settings have changed: {names}")
    empty = [one.path for one in done if not one.found]
    if empty:
        first = printable(str(empty[0]))
        lines.append(f"no instance above {score_threshold} in {len(empty)}, the first: {first}")
    lines += [f"skipped: {problem}" for problem in problems]
    if own:
        lines.append(f"left out: {own} pictures that predict itself has drawn")
    if not_read := _not_read(inputs, output):
        lines.append(f"not read: {not_read}")
    if undrawn:
        lines.append(f'no font found for "{undrawn}", drawn as "?"; --font names a font file that has them')
    return "\n".join(lines)


def undrawable_labels(done: Sequence[Predicted], class_names: Sequence[str], font: Path | None) -> str:
    """The letters of the classes that were found which no font has."""
    labels = {class_names[entry["category_id"]] for one in done for entry in one.found}
    return undrawable("".join(sorted(labels)), font)


def _not_read(inputs: Sequence[str | Path], output: Path) -> str:
    """Kinds of files that folders hold and that are no pictures to this tool: "3 × .heic, 1 × .mp4"."""
    kinds: Counter[str] = Counter()
    for entry in inputs:
        if Path(entry).expanduser().is_dir() and not pictures_below(Path(entry).expanduser()):
            kinds["folder without a picture"] += 1
        for parent, folders, names in os.walk(Path(entry).expanduser()):
            if os.path.abspath(parent) == os.path.abspath(output):
                names = [name for name in names if not re.fullmatch(r"(predictions(-\d+)?|results)\.json", name)]
            folders[:] = [name for name in folders if not name.startswith(".")]
            suffixes = (os.path.splitext(name)[1].lower() for name in names if not name.startswith("."))
            kinds.update(suffix or "no suffix" for suffix in suffixes if suffix not in SUFFIXES)
    ranked = sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))
    return shorten([f"{count} × {printable(kind, 30)}" for kind, count in ranked])
