"""A progress bar with loss, images a second and time left (rich), or lines of a log where there is no terminal."""

import atexit
import contextlib
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from mask_frozen_detr.errors import safe
from mask_frozen_detr.machine.logs import log

PLAIN_EVERY = 15.0  # seconds between lines where there is no terminal


class Progress:
    """Shows `done` of `total`; `fields` of `update` stand behind the bar."""

    def __init__(self, title: str, total: int, quiet: bool = False):
        self.title, self.total, self.quiet = title, total, quiet
        self.first, self.started = 0, time.perf_counter()
        self.last_line = self.started
        self.console = Console(file=sys.stderr)
        self.live = not quiet and self.console.is_terminal
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.bar.add_task(title, total=total, info="")

    def start(self, done: int = 0) -> None:
        """Show the bar, `done` of it being done already. The first `update` does so too."""
        self.first, self.started = done, time.perf_counter()
        if self.live:
            self.bar.update(self.task, completed=done)
            self.bar.start()
            atexit.register(self.bar.stop)  # whatever happens, the terminal gets its cursor back

    def update(self, done: int, **fields: str) -> None:
        info = "  ".join(f"{key} {value}" for key, value in fields.items())
        if self.live:
            if not self.bar.live.is_started:
                self.start()
            self.bar.update(self.task, completed=done, info=info)
            return
        now = time.perf_counter()
        if not self.quiet and (now - self.last_line >= PLAIN_EVERY or done >= self.total):
            self.last_line = now
            each = (now - self.started) / max(1, done - self.first)
            left = each * (self.total - done)
            log(f"{self.title} {done}/{self.total}  {info}  {left / 60:.1f} min left")

    def print(self, text: str) -> None:
        if not self.quiet:
            self.console.print(safe(text), markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While something else takes time, and may show a bar of its own."""
        began = time.perf_counter()
        live = self.live and self.bar.live.is_started
        if live:
            self.bar.stop()
        yield
        if live:
            self.bar.start()
        self.started += time.perf_counter() - began

    def close(self) -> None:
        if self.live:
            self.bar.stop()
