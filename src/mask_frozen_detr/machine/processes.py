"""Which of several processes this is: `accelerate launch` or `torchrun` starts them, on GPUs or on CPUs alone."""

import os

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def processes() -> PartialState:
    """num_processes, process_index, is_main_process and device of this one; joins the others at the first call.

    A bare `PartialState()` takes CPU processes for single ones, each of which would do all of the work: it must be
    told that the CPU is meant.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (several and not torch.accelerator.is_available())
    return PartialState(cpu=on_cpu)
