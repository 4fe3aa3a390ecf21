"""The progress bar: lines where there is no terminal, a bar where there is one, nothing where it shall be quiet."""

import io
import logging
import subprocess
import sys

import pytest
from rich.console import Console

from mask_frozen_detr.machine import progress
from mask_frozen_detr.machine.progress import Progress


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    @classmethod
    def perf_counter(cls) -> float:
        return cls.now


@pytest.fixture
def clock(monkeypatch) -> type[Clock]:
    monkeypatch.setattr(progress, "time", Clock)
    monkeypatch.setattr(Clock, "now", 100.0)
    return Clock


@pytest.fixture
def log(caplog) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "mask_frozen_detr")
    return caplog


def test_plain_lines_now_and_then_and_at_the_end(clock, log):
    bar = Progress("training", 100)
    bar.start()
    for done in range(1, 101):
        clock.now += 1
        bar.update(done, loss="1.5", IoU="0.4")
    bar.close()
    lines = log.messages
    assert [line.split()[1] for line in lines] == [
        "15/100",
        "30/100",
        "45/100",
        "60/100",
        "75/100",
        "90/100",
        "100/100",
    ]
    assert lines[0] == "training 15/100  loss 1.5  IoU 0.4  1.4 min left"
    assert lines[-1].endswith("0.0 min left")


def test_a_resumed_run_counts_its_own_speed(clock, log):
    bar = Progress("training", 100)
    bar.start(80)
    clock.now += 20
    bar.update(90)
    assert log.messages[-1].endswith("0.3 min left")  # ten steps in 20 s, ten to go


def test_time_that_something_else_takes_does_not_count(clock, log):
    bar = Progress("training", 100)
    bar.start()
    clock.now += 30
    with bar.paused():
        clock.now += 1000
    bar.update(50)
    assert log.messages[-1].endswith("0.5 min left")


def test_without_handlers_of_a_program_lines_are_on_stderr():
    shown = subprocess.run(
        [sys.executable, "-c", "from mask_frozen_detr.machine.logs import log\nlog('a [line]')\nlog('another')"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (shown.stdout, shown.stderr) == ("", "a [line]\nanother\n")


def test_quiet(clock, capsys):
    bar = Progress("training", 2, quiet=True)
    bar.start()
    clock.now += 100
    bar.update(2)
    bar.print("words")
    bar.close()
    assert capsys.readouterr() == ("", "")


def test_text_is_printed_as_it_is(capsys):
    """rich would take [brackets] for markup and break long lines."""
    text = "skipped: photos/[bold]1[/bold].jpg" + 30 * " word"
    Progress("training", 2).print(text)
    assert capsys.readouterr().err == text + "\n"


def test_a_bar_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda file: Console(file=screen, force_terminal=True, width=120))
    bar = Progress("training", 4)
    bar.start(1)
    bar.update(3, loss="0.25")
    bar.print("in between")
    bar.close()
    shown = screen.getvalue()
    for words in ("training", "3/4", "loss 0.25", "in between"):
        assert words in shown
    assert "\x1b[?25l" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is back"
