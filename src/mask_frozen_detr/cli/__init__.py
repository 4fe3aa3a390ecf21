"""The command line. Each command is a class in the module of its name, and imports what it needs when it runs."""

import signal
import sys
import threading
from types import FrameType

MOMENT = 0.02  # seconds


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0; 2 after a line that says what the user can mend; 130 after Ctrl-C, 143 after SIGTERM.

    Both signals are obeyed from the first import on, also where code in C makes another exception of theirs.
    """
    stops = _Stops()
    try:
        from mask_frozen_detr.cli.run import run_command

        code = run_command(sys.argv[1:] if arguments is None else arguments)
        if code != 2 or not stops.received:
            return code
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if not stops.received and not _is_interruption(error):
            raise
    finally:
        stops.give_back()
    return 128 + signal.SIGTERM if stops.received == signal.SIGTERM else _interrupted()


class _Stops:
    """Handlers of SIGINT and SIGTERM that raise as ever, and remember: `received` is the last of them, or 0.

    One that comes amid a callback, whose exceptions Python ignores, comes again a moment later.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) == usual:  # others are the caller's
                    self._before[number] = signal.signal(number, self._stop)
        self._again: threading.Timer | None = None
        self._hook, sys.unraisablehook = sys.unraisablehook, self._ignored

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGTERM:
            sys.exit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    def _ignored(self, unraisable: "sys.UnraisableHookArgs") -> None:
        if not self.received or not isinstance(unraisable.exc_value, KeyboardInterrupt | SystemExit):
            self._hook(unraisable)
            return
        self._again = threading.Timer(MOMENT, _signal_main_thread, [self.received])
        self._again.daemon = True
        self._again.start()

    def give_back(self) -> None:
        if self._again is not None:
            self._again.cancel()
        sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _signal_main_thread(number: int) -> None:
    """Also where that waits for something; Windows has no such call."""
    main_thread = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main_thread is not None:
        signal.pthread_kill(main_thread, number)
    else:
        signal.raise_signal(number)


def _interrupted() -> int:
    print("mask-frozen-detr: interrupted", file=sys.stderr)
    return 128 + signal.SIGINT


def _is_interruption(error: BaseException) -> bool:
    """Whether it came of Ctrl-C: of which Python 3.11, amid a class's definition, makes a RuntimeError."""
    following: BaseException | None = error
    while following is not None and not isinstance(following, KeyboardInterrupt):
        following = following.__cause__ or following.__context__
    return following is not None
