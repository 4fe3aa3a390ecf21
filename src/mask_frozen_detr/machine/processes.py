"""Which of several processes this is: `accelerate launch` or `torchrun` starts them, on GPUs or on CPUs alone."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from mask_frozen_detr.errors import UserError

T = TypeVar("T")


def processes() -> PartialState:
    """num_processes, process_index, is_main_process and device of this one; joins the others at the first call.

    A bare `PartialState()` takes CPU processes for single ones, each of which would do all of the work: it must be
    told that the CPU is meant. Raises UserError for more processes than GPUs.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (several and not torch.accelerator.is_available())
    if several and not on_cpu:
        check_enough_gpus(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.accelerator.device_count())
    return PartialState(cpu=on_cpu)


def check_enough_gpus(local: int, gpus: int) -> None:
    """Raises UserError for more processes on this machine than it has GPUs: two cannot share one, says NCCL."""
    if local > gpus:
        raise UserError(
            f"LOCAL_WORLD_SIZE: found {local} processes on a machine with {gpus} GPU{'s' * (gpus > 1)}, expected at "
            "most one a GPU: start fewer (--num_processes of accelerate, --nproc-per-node of torchrun), or all on the "
            "CPU (ACCELERATE_USE_CPU=1)"
        )


def usable_cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_main(work: Callable[[], T]) -> T:
    """What `work` returns, done by the main process alone; all get it, and all raise its UserError."""
    state = processes()
    if state.num_processes == 1:
        return work()
    done: list = [None, None]
    if state.is_main_process:
        try:
            done[0] = work()
        except UserError as error:
            done[1] = str(error)
    broadcast_object_list(done)
    if done[1] is not None:
        raise UserError(done[1])
    return done[0]
