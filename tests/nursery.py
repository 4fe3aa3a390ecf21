"""Processes for tests, forked from a server that has imported all but run nothing.

Forks of the test process itself would hang: threads of what has run (hotcoco's) do not survive a fork.
"""

import multiprocessing
import os
import socket
import sys

import torch

NURSERY = multiprocessing.get_context("forkserver")
NURSERY.set_forkserver_preload(["mask_frozen_detr.cli", "mask_frozen_detr.training.loop", "mask_frozen_detr.detectors"])


def run_main(arguments: list[str], environment: dict[str, str]) -> None:
    """What a child does: the command line, with `environment` set."""
    from mask_frozen_detr.cli import main

    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # loader processes of another server would import all anew
    os.environ.update(environment)
    sys.exit(main(arguments))


def free_port() -> str:
    """A port at which nobody listens now, for processes to meet at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])
