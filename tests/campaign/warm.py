"""A process from which commands are forked: all that they would import or look up anew lies in it already.

It must never run a thread: threads do not survive a fork, and what waits for them would wait for ever. So commands
are run in forks, which tell what they have imported.
"""

import contextlib
import gc
import importlib
import io
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import tyro
from tiny_detectors import build_smallest_detector
from transformers.utils import logging

from campaign.bench import Bench
from campaign.commands import Command, command_line

SIDE = 64  # of the detector's input


def prepare(bench: Bench) -> None:
    """Import what every command needs, build the detector, load it once."""
    import mask_frozen_detr.cli
    import mask_frozen_detr.demo.run
    import mask_frozen_detr.paper.reproduce
    import mask_frozen_detr.prediction.files
    import mask_frozen_detr.training.loop
    from mask_frozen_detr.detectors import load_detector

    torch.set_num_threads(1)
    logging.disable_progress_bar()  # of transformers: its control characters would count as a file's
    re._MAXCACHE = 100_000  # type: ignore[attr-defined]  # transformers compiles some thousand patterns a load
    # tyro reads the comments of a class's source again at every command line.
    tokens = tyro._docstrings._ClassTokenization
    tokens.make = staticmethod(cache(tokens.make))  # type: ignore[method-assign]
    build_smallest_detector(bench.detector, SIDE)
    load_detector(bench.detector)  # builds tables of transformers that take longer than all else
    with contextlib.redirect_stdout(io.StringIO()):
        mask_frozen_detr.cli.main(["detectors"])
    settle()


def import_what(commands: Sequence[Sequence[str | Path]], folder: Path) -> None:
    """Import here what these commands import, which need not succeed."""
    told = folder / ".imported"
    for arguments in commands:

        def work(arguments: Sequence[str | Path] = arguments) -> int:
            import sys

            before = set(sys.modules)
            code = command_line(arguments)()
            told.write_text("\n".join(name for name in sys.modules if name not in before))
            return code

        Command(work, folder).wait()
        if told.exists():
            for name in told.read_text().split():
                with contextlib.suppress(ImportError):  # made by other modules, not by an import
                    importlib.import_module(name)
            told.unlink()
    settle()


def settle() -> None:
    """What is there now is never collected: or collections in forks would copy all of it."""
    gc.collect()
    gc.freeze()
