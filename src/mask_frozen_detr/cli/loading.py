"""What several commands do first: load what was named, and check where their files shall go."""

import os
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mask_frozen_detr.errors import UserError, reason
from mask_frozen_detr.machine.regular_files import check_regular

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch

    from mask_frozen_detr.machine.config import Precision, Runtime
    from mask_frozen_detr.model import MaskFrozenDetr
    from mask_frozen_detr.results.predictor import Predictor


def load_predictor(
    name: str,
    detector: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    prompt: str | None = None,
    precision: "Precision" = "fp32",
    roi_align: bool = True,
    stem: bool | None = None,
    runtime: "Runtime | None" = None,
    mirror: bool = False,
) -> "tuple[Predictor, AbstractContextManager[None]]":
    """Loads a run like `load_model`, or an exported folder; gives the context in which it computes as well.

    runtime: of an exported model; None is ONNX Runtime. Raises UserError as well for options that an exported model has
    not, since it runs on the CPU, as it was exported, and for a runtime of what is none.
    """
    from mask_frozen_detr.runtime.description import is_exported

    if is_exported(name):
        from mask_frozen_detr.runtime.model import OnnxModel

        options: dict[str, Any] = {"detector": detector, "revision": revision, "prompt": prompt}
        options |= {"device": None if device == "cpu" else device}
        options |= {"precision": None if precision in ("auto", "fp32") else precision}
        options |= {"roi-align": None if roi_align else roi_align, "stem": stem, "mirror": mirror or None}
        for option, value in options.items():
            if value is not None:
                raise UserError(
                    f"{option}: found {value!r}, but an exported model computes as it was exported, on the CPU"
                )
        return OnnxModel(name, runtime or "onnxruntime"), nullcontext()
    from mask_frozen_detr.machine.precision import autocast
    from mask_frozen_detr.results.mirror import check_mirror

    if runtime is not None:
        raise UserError(f"runtime: found {runtime!r}, but {name} is no exported model: torch runs it")
    model = load_model(name, detector, device, revision, prompt, roi_align, stem)
    if mirror:
        check_mirror(model.network)
        model.mirror = True
    return model, autocast(precision, model.device)


def load_model(
    name: str,
    detector: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    prompt: str | None = None,
    roi_align: bool = True,
    stem: bool | None = None,
) -> "MaskFrozenDetr":
    """A run, or a bare detector under the paper's training-free baseline. Raises UserError for what is neither."""
    from mask_frozen_detr.detectors import load_detector
    from mask_frozen_detr.model import MaskFrozenDetr
    from mask_frozen_detr.run.locate import find_run

    if find_run(name, revision) is not None:
        local = Path(name).exists()  # a local run has no revision: its detector, on the hub, may
        model = MaskFrozenDetr.from_pretrained(
            name, detector, None if local else revision, prompt=prompt, detector_revision=revision if local else None
        )
    else:
        try:
            frozen = load_detector(name, revision=revision, prompt=prompt)
        except UserError as error:
            raise UserError(f"{error}; it is no run folder of `mask-frozen-detr train` either") from error
        model = MaskFrozenDetr.training_free(frozen, roi_align, stem)
    return model.to(choose_device(device)).eval()


def choose_device(device: str | None) -> "torch.device":
    """The device that was asked for, or where this machine computes fastest.

    Raises UserError for one that is none, that is not there, or that several processes cannot share.
    """
    import torch

    from mask_frozen_detr.machine.processes import processes

    if device is None:
        return processes().device
    try:
        wanted = torch.empty(1, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device: found {device!r}, which cannot be used here: {reason(error)}") from error
    os.environ["ACCELERATE_TORCH_DEVICE"] = device
    if processes().num_processes > 1:
        raise UserError(f"device: found {device!r}, but each of several processes has its own; leave the option out")
    return wanted


def split_words(words: str) -> list[str]:
    """What commas part, without spaces around."""
    return [word.strip() for word in words.split(",") if word.strip()]


def check_at_least(least: int, **values: float) -> None:
    """Raises UserError that names the option."""
    for name, value in values.items():
        if not value >= least:
            raise UserError(f"{name}: found {value}, expected at least {least}")


def check_place(path: Path) -> None:
    """Raises UserError where `path` cannot be written: before the work, not after it."""
    check_regular(path, "the name of a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
