"""Trackers of experiments, through accelerate: tensorboard, wandb, mlflow and whatever else it knows."""

import importlib.util
import math
from typing import Any

import numpy as np
from accelerate import tracking
from PIL import Image

from mask_frozen_detr.errors import UserError, reason
from mask_frozen_detr.machine.progress import Progress

AUTO, NONE = "auto", "none"
PROJECT = "mask-frozen-detr"  # under which trackers keep runs
TENSORBOARD = "tensorboard"
SHOWS_PICTURES = (TENSORBOARD, "wandb")


def tracker_names(log: str) -> tuple[str, ...]:
    """The trackers that the option `log` names. Raises UserError for one that accelerate lacks or that is not there."""
    available = {str(name) for name in tracking.get_available_trackers()}
    # accelerate takes tensorboard for there where only its folder is
    if importlib.util.find_spec(TENSORBOARD) is None:
        available.discard(TENSORBOARD)
    if log == AUTO:
        return (TENSORBOARD,) if TENSORBOARD in available else ()
    names = [name.strip() for name in log.split(",")]
    if names == [NONE]:
        return ()
    known = sorted(map(str, tracking.LOGGER_TYPE_TO_CLASS))
    for name in names:
        if name not in known:
            raise UserError(f"log: found {name!r}, expected {AUTO}, {NONE}, or some of {', '.join(known)}")
        if name not in available:
            package = "'mask-frozen-detr[tensorboard]'" if name == TENSORBOARD else name
            raise UserError(f"log: {name} is not installed; pip install {package}")
    return tuple(dict.fromkeys(names))


class Trackers:
    """Those that are named, of the main process; one that fails during the run is left, the run goes on.

    options: of single ones, by name. Raises UserError where one cannot be started.
    """

    def __init__(
        self, names: tuple[str, ...], options: dict[str, dict[str, Any]], config: dict[str, Any], progress: Progress
    ):
        self.progress = progress
        self.running: list[Any] = []
        for name in names:
            try:
                tracker = tracking.LOGGER_TYPE_TO_CLASS[name](**{"run_name": PROJECT, **options.get(name, {})})
                tracker.start()
                if name != TENSORBOARD:  # it would make a run of its own for them
                    tracker.store_init_configuration(_flat(config))
            except Exception as error:  # a server that is not there, nobody logged in, …
                raise UserError(f"log: {name} cannot be started: {reason(error)}") from error
            self.running.append(tracker)

    def log(self, values: dict[str, float], step: int) -> None:
        """Figures by name; what is not a number is left out."""
        kept = {name: value for name, value in values.items() if not math.isnan(value)}
        self._each(lambda tracker: tracker.log(kept, step=step))

    def show(self, name: str, picture: Image.Image, step: int) -> None:
        """A picture, to those that show some."""
        shown = np.asarray(picture.convert("RGB"))[None]  # (1, H, W, 3)

        def show(tracker: Any) -> None:
            if tracker.name in SHOWS_PICTURES:
                layout = {"dataformats": "NHWC"} if tracker.name == TENSORBOARD else {}
                tracker.log_images({name: shown}, step=step, **layout)

        self._each(show)

    def close(self) -> None:
        self._each(lambda tracker: tracker.finish())
        self.running = []

    def _each(self, work: Any) -> None:
        for tracker in list(self.running):
            try:
                work(tracker)
            except Exception as error:
                self.running.remove(tracker)
                self.progress.print(f"{tracker.name}: goes without this run from now on: {reason(error)}")


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as "part/option", in types that every tracker takes."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat
