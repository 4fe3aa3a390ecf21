"""This process's share of the samples of every step, and the batches of the step's forward passes."""

from collections.abc import Iterator

from mask_frozen_detr.machine.loaders import Watched
from mask_frozen_detr.machine.processes import processes, usable_cores
from mask_frozen_detr.machine.signals import leave_signals_to_parent
from mask_frozen_detr.training.cache import FrozenCache
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.pseudo_masks.rounds import Rounds
from mask_frozen_detr.training.samples import Batch, Sample, SampleOrder, TrainingData, collate

LOADERS_REMEDY = "fewer --workers or a lower --batch need less, and --resume goes on from the last checkpoint"


def step_samples(
    dataset: TrainingData, config: TrainConfig, rounds: Rounds, steps: int, start: int
) -> Iterator[list[Sample]]:
    """This process's share of every step from `start` on, a list a step; a round's loaders see its pseudo-masks.

    Raises UserError where a loading process is killed.
    """
    images = Watched(dataset, [record.path for record in dataset.images], loader_processes(config))
    world, rank = processes().num_processes, processes().process_index
    for end in [*rounds.ends, steps]:
        if end > start:
            yield from images.load(
                LOADERS_REMEDY,
                batch_sampler=SampleOrder(len(dataset), config.batch, end, config.seed, start, rank, world),
                collate_fn=list,
                worker_init_fn=leave_signals_to_parent,
                prefetch_factor=4 if images.workers else None,
            )
            start = end


def loader_processes(config: TrainConfig) -> int:
    """How many processes load pictures: as many as are asked for, or by the machine."""
    if config.workers >= 0:
        return config.workers
    return min(8, usable_cores() - 1) if processes().device.type == "cuda" else 1


def join_pieces(samples: list[Sample], config: TrainConfig, cache: FrozenCache | None) -> list[Batch]:
    """The batches of the step's forward passes."""
    size = len(samples) // config.accumulate
    batch_of = collate if cache is None else cache.batch
    return [batch_of(samples[i : i + size]) for i in range(0, len(samples), size)]
