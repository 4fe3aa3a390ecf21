"""Pictures by their address on the web."""

import re
from http.client import HTTPException
from urllib.request import Request, urlopen

from mask_frozen_detr.errors import UserError, printable, reason

SECONDS = 30  # without an answer, or without more of it
LARGEST = 256 << 20  # bytes: far beyond photos, and what memory surely takes


def is_web_address(text: str) -> bool:
    return re.match(r"https?://", text, re.IGNORECASE) is not None


def download(address: str) -> bytes:
    """What lies at an http or https address. Raises UserError where it cannot be had, or is larger than `LARGEST`."""
    shown = printable(address)
    # Servers of pictures turn nameless programs away.
    try:
        with urlopen(Request(address, headers={"User-Agent": "mask-frozen-detr"}), timeout=SECONDS) as answer:
            content: bytes = answer.read(LARGEST + 1)
    except (OSError, ValueError, HTTPException) as error:  # its errors are OSErrors; an address may be malformed
        raise UserError(f"{shown}: cannot be downloaded: {reason(error)}") from None
    if len(content) > LARGEST:
        raise UserError(f"{shown}: is larger than {LARGEST >> 20} MiB, expected a picture")
    return content
