"""What was seen, as text, as JSON, and as a page that needs nothing beside itself."""

import base64
import html
import io
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from mask_frozen_detr.errors import printable, safe
from mask_frozen_detr.inspection.facts import SIZES, Fault, SplitFacts
from mask_frozen_detr.inspection.recall import Recall

MADE_BY = "mask-frozen-detr inspect"
MOST_LINES = 30  # classes in the text
STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1340px;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:left}
td.n,th.n{text-align:right}h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem}
figure{display:inline-block;margin:.4rem;max-width:49%;vertical-align:top}img{max-width:100%}summary{cursor:pointer;font-weight:600}
figcaption{color:#666;font-size:.85rem;overflow-wrap:anywhere}"""

Pairs = list[tuple[str, Image.Image, Image.Image]]  # name, as it lies, as training sees it


@dataclass(frozen=True)
class Inspection:
    """All of it. classes: how data and detector match; recall: of which split. pictures: drawn, by split."""

    splits: list[SplitFacts]
    odd: list[Fault]
    note: str
    detector: str | None = None
    classes: str | None = None
    recall_of: str = ""
    recall: Recall | None = None
    pictures: dict[str, Pairs] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The whole report but its pictures, as JSON holds it."""
        recall = None
        if self.recall is not None:
            recall = {"split": self.recall_of, "share": self.recall.share, **vars(self.recall)}
        return {
            "made_by": MADE_BY,
            "splits": [split.as_dict() for split in self.splits],
            "suspicious": [vars(fault) for fault in self.odd],
            "note": self.note,
            "detector": self.detector,
            "classes": self.classes,
            "recall": recall,
            "problems": self.problems,
        }

    def text(self) -> str:
        """The whole report as lines for a terminal."""
        lines = []
        for split in self.splits:
            lines += [_headline(split), *(f"  {line}" for line in _table(split))]
            lines += [f"  skipped {one.count} × {one.kind}, first: {one.first}" for one in split.faults]
            lines += [f"  note: {count} × {note}" for note, count in split.notes.items()]
        lines += [f"suspicious: {one.count} × {one.kind}, first: {one.first}" for one in self.odd]
        lines += [line for line in (self.note, self.classes, self._recall_line()) if line]
        if self.recall is not None:
            for name, total in sorted(self.recall.objects.items(), key=lambda pair: -pair[1])[:MOST_LINES]:
                lines.append(f"  {name}: {self.recall.found[name]} of {total}")
        lines += [f"not drawn or not looked at: {problem}" for problem in self.problems]
        return safe("\n".join(lines))

    def page(self) -> str:
        """HTML with its pictures within."""
        parts = [f"<h1>Data, as {html.escape(MADE_BY)} saw it</h1>"]
        parts += [f"<p>{_shown(line)}</p>" for line in (self.note, self.classes, self._recall_line()) if line]
        if self.odd:
            parts.append("<h2>Suspicious</h2>" + _faults(self.odd))
        for split in self.splits:
            parts.append(f"<h2>{_shown(_headline(split))}</h2>")
            if split.faults:
                parts.append(_faults(split.faults))
            parts += [f"<p>{count} × {_shown(note)}</p>" for note, count in split.notes.items()]
            for name, plain, seen in self.pictures.get(split.name, []):
                figures = _figure(plain, f"{name}, as it lies") + _figure(seen, f"{name}, as training may see it")
                parts.append(f"<div>{figures}</div>")
            parts.append(f"<details><summary>Classes of {split.name}</summary>{self._class_table(split)}</details>")
        if self.problems:
            parts.append(
                "<h2>Not drawn or not looked at</h2>" + "".join(f"<p>{_shown(one)}</p>" for one in self.problems)
            )
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="generator" content="{html.escape(MADE_BY)}"><title>Data</title><style>{STYLE}</style></head>'
            f"<body>{''.join(parts)}</body></html>\n"
        )

    def _recall_line(self) -> str:
        if self.recall is None or self.recall.share is None:
            return ""
        sizes = ", ".join(f"{name} {found} of {total}" for name, (found, total) in self.recall.by_size.items() if total)
        total = sum(self.recall.objects.values())
        return (
            f"{self.detector} finds {self.recall.share:.1%} of the {total} objects in {self.recall.images} images of "
            f"{self.recall_of} (a box of the right class that overlaps by 0.5, among 100): {sizes}. No mask network "
            "can segment the rest."
        )

    def _class_table(self, split: SplitFacts) -> str:
        with_recall = self.recall if self.recall is not None and self.recall_of == split.name else None
        head = "".join(f'<th class="n">{size}</th>' for size in SIZES)
        rows = []
        for name, counts in split.classes.items():
            cells = "".join(f'<td class="n">{count}</td>' for count in counts)
            if with_recall is not None:
                total = with_recall.objects.get(name, 0)
                cells += f'<td class="n">{f"{with_recall.found[name]} of {total}" if total else ""}</td>'
            if sum(counts):
                rows.append(f"<tr><td>{_shown(name)}</td>{cells}</tr>")
        more = '<th class="n">found</th>' if with_recall is not None else ""
        return f"<table><tr><th>class</th>{head}{more}</tr>{''.join(rows)}</table>"


def _headline(split: SplitFacts) -> str:
    return (
        f"{split.name}: {split.format}, {split.images} images, {len(split.classes)} classes, {split.objects} objects "
        f"({split.crowds} crowds, {split.boxes_alone} boxes without a mask), {split.bare} images without objects"
    )


def _table(split: SplitFacts) -> list[str]:
    present = [(name, counts) for name, counts in split.classes.items() if sum(counts)]
    width = max((len(name) for name, _ in present[:MOST_LINES]), default=0)
    lines = [f"{'':{width}}  {''.join(f'{size:>8}' for size in SIZES)}"] if present else []
    for name, counts in present[:MOST_LINES]:
        lines.append(f"{printable(name, 60):{width}}  {''.join(f'{count:>8}' for count in counts)}")
    if len(present) > MOST_LINES:
        lines.append(f"and {len(present) - MOST_LINES} more classes; --json and --html have all")
    empty = len(split.classes) - len(present)
    return [*lines, *([f"{empty} classes without an object"] if empty else [])]


def _faults(faults: list[Fault]) -> str:
    cells = [(one.count, _shown(one.kind), _shown(one.first)) for one in faults]
    rows = "".join(f'<tr><td class="n">{n}</td><td>{kind}</td><td>{first}</td></tr>' for n, kind, first in cells)
    return f'<table><tr><th class="n">how many</th><th>what</th><th>first place</th></tr>{rows}</table>'


def _figure(picture: Image.Image, caption: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    shown = _shown(caption)
    return f'<figure><img src="data:image/jpeg;base64,{data}" alt="{shown}"><figcaption>{shown}</figcaption></figure>'


def _shown(text: str) -> str:
    return html.escape(safe(text))
