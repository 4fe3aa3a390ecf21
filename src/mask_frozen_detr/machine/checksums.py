"""Checksums of files, and of what json files hold."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mask_frozen_detr.machine.regular_files import check_regular


def hash_file(path: Path) -> str:
    """sha256 of a regular file's bytes. Raises UserError for what is none, OSError where it cannot be read."""
    check_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_if_file(path: Path) -> str | None:
    """sha256 of a file's bytes; None of what is no file, a pipe for one, and of what cannot be read."""
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def hash_content(content: Mapping[str, Any]) -> str:
    """sha256 of a JSON object, however it is laid out and in whichever order its keys are."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
