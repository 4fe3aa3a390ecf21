"""The command line. Each command is a class in the module of its name, and imports what it needs when it runs."""

import signal
import sys
import threading
from types import FrameType


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0; 2 after a line that says what the user can mend; 130 after Ctrl-C.

    SIGTERM ends the process with 143. Both are obeyed from the first import on.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        from mask_frozen_detr.cli.run import run_command

        return run_command(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if not _is_interruption(error):
            raise
        return _interrupted()


def _interrupted() -> int:
    print("mask-frozen-detr: interrupted", file=sys.stderr)
    return 128 + signal.SIGINT


def _is_interruption(error: BaseException) -> bool:
    """Whether it came of Ctrl-C: of which Python 3.11, amid a class's definition, makes a RuntimeError."""
    following: BaseException | None = error
    while following is not None and not isinstance(following, KeyboardInterrupt):
        following = following.__cause__ or following.__context__
    return following is not None


def _terminate(_number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)
