"""The shell of a page: one file with its style, its scripts and Plotly, which opens from a disk without a network."""

import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.files import write_text_atomic
from mask_frozen_detr.report.figures import check_plotly, plotly_script
from mask_frozen_detr.report.words import page_text

MARK = '<meta name="generator" content="mask-frozen-detr">'  # by which own pages are known
# What a page may load: nothing that is not in it.
POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
HEAD = 4096  # bytes at the beginning of a page, within which the mark stands


def html_page(title: str, sections: Iterable[str]) -> str:
    """A whole page. sections: HTML, all text of users in it escaped."""
    here = files("mask_frozen_detr.report")
    style, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            MARK,
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{page_text(title)}</title>",
            f"<style>{style}</style>",
            f"<script>{plotly_script()}</script>",
            "</head><body>",
            f"<h1>{page_text(title)}</h1>",
            *sections,
            f"<script>{script}</script>",
            "</body></html>\n",
        ]
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], name: str = "") -> str:
    """A table of cells that are HTML already."""
    titles = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    named = f' id="{name}"' if name else ""
    return f'<div class="scroll"><table{named}><thead><tr>{titles}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'


def chart(title: str, html: str, explained: str = "") -> str:
    """A figure under its title."""
    said = f'<p class="quiet">{explained}</p>' if explained else ""
    return f"<div><h3>{title}</h3>{said}<div>{html}</div></div>"


def charts(parts: Iterable[str]) -> str:
    """Side by side where there is room."""
    return f'<div class="charts">{"".join(parts)}</div>'


def card(name: str, value: str) -> str:
    return f'<div class="card"><b>{value}</b>{name}</div>'


def embedded(name: str, content: Any) -> str:
    """JSON for programs that read the page; "<" is spelled out, or a name could end the script."""
    text = json.dumps(content).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def check_page(path: Path) -> None:
    """Raises UserError where Plotly is missing, or `path` is there already and no page of this project."""
    check_plotly()
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a place for the page")
    if path.exists():
        try:
            with open(path, "rb") as file:
                head = file.read(HEAD)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        if head and MARK.encode() not in head:
            raise UserError(f"{path}: is there already and is no report; name another place")


def write_page(path: Path, text: str) -> None:
    """Raises UserError as `check_page` does, or where it cannot be written."""
    check_page(path)
    write_text_atomic(path, text)
