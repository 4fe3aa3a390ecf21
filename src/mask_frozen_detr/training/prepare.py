"""What a run needs before it begins, options resolved and images; bad input is refused here, nothing written."""

from dataclasses import replace
from pathlib import Path

from mask_frozen_detr.data.class_choice import choose_classes
from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.precision import resolve_precision
from mask_frozen_detr.machine.processes import processes
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.run.description import Supervision
from mask_frozen_detr.training.cache import FrozenCache
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.pseudo_masks.evidence import Evidence
from mask_frozen_detr.training.pseudo_masks.store import FOLDER, PseudoMasks, count_masks
from mask_frozen_detr.training.samples import TrainingData
from mask_frozen_detr.training.trackers import tracker_names


def prepare(
    model: MaskFrozenDetr,
    train_data: CocoData,
    val_data: CocoData | None,
    output: Path,
    config: TrainConfig,
    cache: FrozenCache | None,
) -> tuple[TrainConfig, TrainingData]:
    """The configuration with all of it resolved, and the images to learn from. Raises UserError for bad input."""
    config = replace(config, precision=resolve_precision(config.precision, processes().device))
    world = processes().num_processes
    if config.batch % (world * config.accumulate):
        raise UserError(
            f"batch: found {config.batch}, expected a multiple of processes × accumulate = "
            f"{world} × {config.accumulate}"
        )
    info = model.detector.info
    classes = classes_of(train_data, info.class_names)
    model.classes, model.max_detections = classes.run, config.max_detections
    model.held_out = train_data.held_out
    if val_data is not None:
        classes_of(choose_classes(val_data, classes.run.choice, strict=False), info.class_names, model.classes)
    if not any(parameter.requires_grad for parameter in model.network.parameters()):
        raise UserError("the mask network has no part that could learn: the training-free baseline needs no training")
    _check_places(output, Path(info.identity.name), train_data, cache)
    if cache is not None:
        config = replace(config, augment=cache.augment(config.augment))
    if config.masks_from != "annotations":  # drawn masks are not exact enough to cut objects out
        config = replace(config, augment=replace(config.augment, copy_paste=0.0))
    evidence = Evidence(model.detector, classes.index_of) if config.evidence else None
    pseudo_masks = _pseudo_masks(config, output, cache, evidence)
    dataset = TrainingData(
        train_data, classes, info.preprocessing, config.augment, config.seed, pseudo_masks=pseudo_masks
    )
    if pseudo_masks is not None:
        true, drawn, _ = count_masks(config.masks_from, dataset.images)
        model.supervision = Supervision(config.masks_from, true, drawn, config.rounds) if drawn else None
    every = 0 if val_data is None else config.evaluation_interval(len(dataset), len(val_data.images))
    if config.patience:
        _check_patience(config.patience, config.steps(len(dataset)), every, val_data)
    tracker_names(config.log)
    return replace(config, evaluate_every=every), dataset


def _check_patience(patience: int, steps: int, every: int, val_data: CocoData | None) -> None:
    """Raises UserError where a run of so many steps cannot stop early: the best one, too, is an evaluation."""
    if val_data is None:
        raise UserError(f"patience: found {patience}, but there is no val split; leave it out")
    on_the_way = (steps - 1) // every if every else 0
    if on_the_way > patience:
        return
    often_enough = (steps - 1) // (patience + 1)
    remedy = f"give --evaluate-every {often_enough}, or leave it out" if often_enough else "leave it out"
    raise UserError(
        f"patience: found {patience}, but of the {steps:,} iterations before the end {on_the_way} have an evaluation "
        f"after them, expected {patience + 1} or more; {remedy}"
    )


def _pseudo_masks(
    config: TrainConfig, output: Path, cache: FrozenCache | None, evidence: Evidence | None
) -> PseudoMasks | None:
    """The masks to train on instead of drawn ones; they lie in the cache, if there is one, for other runs as well."""
    if config.masks_from == "annotations":
        return None
    own = output / FOLDER
    first = own / "round-1" if cache is None else cache.store.folder.parent / FOLDER
    return PseudoMasks(config.masks_from, first, own, evidence)


def _check_places(output: Path, detector: Path, data: CocoData, cache: FrozenCache | None) -> None:
    """Raises UserError where `output` is a folder that something else lives in, be it empty yet."""
    cached = None if cache is None else cache.store.folder.parent
    read = {
        "the detector": detector,
        "the annotations": data.annotation_file.parent,
        "pictures": data.images[0].path.parent if data.images else None,
    }
    for what, place in read.items():
        if place is not None and output.exists() and place.exists() and output.samefile(place):
            raise UserError(f"output: found {output}, the folder of {what}; expected a folder of the run's own")
    if cached is not None and cached.resolve() in (output.resolve(), *output.resolve().parents):
        raise UserError(f"output: found {output}, within the cache {cached}; expected a folder of the run's own")
