"""Command lines run in forks of a process that has imported everything: cheap, killable, bounded in time and memory.

Or, where only what they read and write is judged, one after another in one fork that is watched: cheaper still.
"""

import contextlib
import ctypes
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60.0  # of a processor that a command may take
WAITED = 5  # times as long may pass: the machine has other work
MEMORY = 2200  # MB that it may take besides what was there: a picture of 81 megapixels takes 2,050
# Bytes of control that no output may hold: all of C0 but tab and newline, DEL, C1, and what turns the reading order.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f]")
LIBC = ctypes.CDLL(None)
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Ran:
    """How a command ended. code: as the shell has it, but minus the signal that killed it. memory: MB it took."""

    code: int
    text: str  # stdout and stderr
    seconds: float
    memory: float
    late: bool = False  # it had to be stopped

    @property
    def last_line(self) -> str:
        return (self.text.strip().splitlines() or [""])[-1][-300:]


class Command:
    """A command that is running, in a process group of its own."""

    def __init__(self, work: Callable[[], int | None], folder: Path, file_limit: int | None = None):
        """work: what the fork does; its exit code. file_limit: bytes that a file may grow to (a full disk)."""
        self.output = folder / f".output-{time.monotonic_ns()}"
        self.started = time.monotonic()
        self.floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _be_command(work, self.output, file_limit)
        with contextlib.suppress(OSError):  # the fork does the same; whoever is first
            os.setpgid(self.pid, self.pid)

    def signal(self, number: int, group: bool = False) -> None:
        """group: as a terminal does, all processes of the command."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            (os.killpg if group else os.kill)(self.pid, number)

    def over(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self, seconds: float = SECONDS) -> Ran:
        """Its end, at the latest when it has computed for `seconds`; nothing of it is left running."""
        late = False
        pause = 0.002
        while not self.over():
            if self.computed() > seconds or time.monotonic() - self.started > WAITED * seconds:
                late = True
                self.signal(signal.SIGKILL)
                break
            time.sleep(pause)
            pause = min(0.02, pause * 1.5)
        _, status, used = os.wait4(self.pid, 0)
        self.signal(signal.SIGKILL, group=True)  # loader processes that outlive it
        text = ""
        if self.output.exists():  # it may end before it has a file to write to
            text = self.output.read_bytes().decode(errors="replace")
            self.output.unlink()
        code = os.waitstatus_to_exitcode(status)
        return Ran(code, text, time.monotonic() - self.started, used.ru_maxrss / 1024 - self.floor, late)

    def computed(self) -> float:
        """Seconds of a processor that the command has had."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _be_command(work: Callable[[], int | None], output: Path, file_limit: int | None) -> None:
    """The fork's part; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL)
        _redirect(output)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = size + 2 * MEMORY * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        code = _code_of(work)
    except KeyboardInterrupt:  # before the command line itself
        code = 130
    finally:
        os._exit(code)


def _redirect(output: Path) -> None:
    """What is printed goes to a file; whoever asks is told yes."""
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.close(written)
    answers, pipe = os.pipe()
    os.write(pipe, b"y\n" * 20)
    os.close(pipe)
    os.dup2(answers, 0)
    os.close(answers)


def _code_of(work: Callable[[], int | None]) -> int:
    """The exit code; what nothing else has caught is printed as the interpreter does."""
    try:
        return work() or 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:  # before the command line itself
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        with contextlib.suppress(OSError):  # a full disk
            sys.stdout.flush()
            sys.stderr.flush()


def command_line(arguments: Sequence[str | Path]) -> Callable[[], int]:
    """What a fork does to run `mask-frozen-detr ARGUMENTS`."""

    def work() -> int:
        import multiprocessing

        import torch

        from mask_frozen_detr.cli import main

        torch.set_num_threads(1)
        multiprocessing.set_start_method("fork", force=True)  # or loader processes would import all anew
        return main([str(argument) for argument in arguments])

    return work


def run(arguments: Sequence[str | Path], folder: Path, seconds: float = SECONDS, file_limit: int | None = None) -> Ran:
    """`mask-frozen-detr ARGUMENTS` to its end. folder: where what it prints lies meanwhile."""
    return call(command_line(arguments), folder, seconds, file_limit)


def call(work: Callable[[], int | None], folder: Path, seconds: float = SECONDS, file_limit: int | None = None) -> Ran:
    """`work` to its end, in a fork, or here after `stay_here`."""
    if not _STAYS:
        return Command(work, folder, file_limit).wait(seconds)
    output = folder / f".output-{time.monotonic_ns()}"
    started = time.monotonic()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of this command
    floor = _megabytes("VmRSS")
    kept = [os.dup(number) for number in range(3)]
    try:
        _redirect(output)
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
        code = _code_of(work)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for number, copy in enumerate(kept):
            os.dup2(copy, number)
            os.close(copy)
    text = output.read_bytes().decode(errors="replace")
    output.unlink()
    return Ran(code, text, time.monotonic() - started, _megabytes("VmHWM") - floor)


def stay_here() -> None:
    """From now on `run` and `call` do all in this process: whoever forked it sees to its end."""
    _STAYS.append(True)


_STAYS: list[bool] = []


def _megabytes(name: str) -> float:
    """Of this process, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def manners(ran: Ran, codes: Collection[int] = (0, 2)) -> list[str]:
    """What is wrong with the way a command ended, whatever it was given."""
    faults = []
    if ran.late:
        faults.append(f"hangs: stopped after {ran.seconds:.0f} s")
    elif "Traceback (most recent call last)" in ran.text:
        faults.append(f"traceback: {ran.last_line}")
    elif ran.code not in codes:
        faults.append(f"exit code {ran.code}, expected one of {sorted(codes)}: {ran.last_line}")
    elif ran.code == 2 and not ran.text.strip():
        faults.append("exit code 2 without a word")
    if "Exception ignored" in ran.text or "Error in atexit" in ran.text:
        faults.append(f"noise at the end: {ran.last_line}")
    if ran.memory > MEMORY:
        faults.append(f"memory: {ran.memory:.0f} MB, expected at most {MEMORY}")
    found = CONTROLS.search(ran.text)
    if found:
        place = ran.text[max(0, found.start() - 40) : found.end() + 10]
        faults.append(f"raw control character {found[0]!r} printed: {place!r}")
    return faults
