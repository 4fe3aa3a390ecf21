"""Print a pip constraints file: each bound `name>=version` of pyproject.toml as `name==version`.

`python .ci/lowest.py pyproject.toml` is what `make test-lowest` installs by.
"""

import re
import sys
import tomllib
from pathlib import Path


def lowest(project: dict) -> list[str]:
    """The pins of the hard dependencies and of all extras, apart from the project's own extras within extras."""
    requirements = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    pins = []
    for requirement in requirements:
        if requirement.startswith(project["name"]):
            continue
        match = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,.*)?", requirement)
        if match is None:
            raise SystemExit(f"{requirement!r}: expected a lower bound, as in name>=1.2")
        pins.append(f"{match[1]}=={match[2]}")
    return pins


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads(Path(sys.argv[1]).read_text())["project"])))
