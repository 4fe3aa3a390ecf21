"""A browser for the pages: Debian's Chromium under Playwright; tests that need it are skipped where it is not there."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
TIMEOUT = 120_000  # milliseconds that a page may take: machines may be busy


@contextmanager
def open_browser() -> Iterator[Any]:
    """Skips the test that asks for it where Playwright or a Chromium is missing."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *QUIET])
        yield opened
        opened.close()


def watched(page: Any) -> list[str]:
    """Grows by whatever goes wrong on a page: complaints, dialogs, and requests that leave the file."""
    wrong: list[str] = []

    def dismiss(dialog: Any) -> None:
        wrong.append(dialog.message)
        dialog.dismiss()

    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", dismiss)
    page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url))
    return wrong


def until(page: Any, condition: str, arg: Any = None) -> None:
    """Waits until an expression of JavaScript holds.

    Playwright's own `wait_for_function` asks again from within the page, which a policy without `unsafe-eval` forbids:
    it passes where the condition holds at once and fails on a busy machine.
    """
    end = time.monotonic() + 60
    while not page.evaluate(condition, arg):
        assert time.monotonic() < end, f"still not true after a minute: {condition}"
        page.wait_for_timeout(50)
