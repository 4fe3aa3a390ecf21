"""A hook of MkDocs: files outside docs/ that pages link to come along, or the links would lead nowhere.

A link to a folder becomes its text alone: a site has no listing of it.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([\w./-]+)\)")


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    links = (name for page in files.documentation_pages() for _, name in OUTSIDE.findall(page.content_string))
    for name in sorted({name for name in links if not (ROOT / name).is_dir()}):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return OUTSIDE.sub(lambda link: link[1] if (ROOT / link[2]).is_dir() else f"[{link[1]}]({link[2]})", markdown)
