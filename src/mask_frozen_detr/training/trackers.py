"""Trackers of experiments, through accelerate: tensorboard, wandb, mlflow and whatever else it knows."""

import importlib.util
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import tracking
from PIL import Image

from mask_frozen_detr.errors import UserError, reason
from mask_frozen_detr.machine.json_files import flatten
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.training.own_files import TENSORBOARD_FOLDER

AUTO, NONE = "auto", "none"
PROJECT = "mask-frozen-detr"  # under which trackers keep runs
RUN_TAG = "mask_frozen_detr.run"  # by which mlflow finds a run again
TENSORBOARD, WANDB, MLFLOW = "tensorboard", "wandb", "mlflow"


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
    """The trackers of the main process; one that fails during the run is left, the run goes on."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.running: list[Any] = []

    def start(self, names: tuple[str, ...], run: Path, number: str, resumed: bool, config: dict[str, Any]) -> None:
        """Starts all but tensorboard, which writes into the run folder; wandb and mlflow go on with a resumed run.

        run: its folder, whose name they show; number: tells it from all others. Raises UserError where one cannot be
        started.
        """
        for name in names:
            if name == TENSORBOARD:
                continue
            with self._starting(name):
                options = _options(name, run, number, resumed)
                tracker = self._open(name, options)
                if "run_id" not in options:  # mlflow takes a run's options once
                    tracker.store_init_configuration(_plain(config))

    def start_tensorboard(self, run: Path, number: str, step: int) -> None:
        """Starts tensorboard's curves at `step`, in files whose names end in `number`. Raises UserError if it fails."""
        with self._starting(TENSORBOARD):
            own = {"purge_step": step, "filename_suffix": f".{number}"}
            self._open(TENSORBOARD, {"run_name": TENSORBOARD_FOLDER, "logging_dir": str(run), **own})

    def log(self, values: dict[str, float], step: int) -> None:
        """Figures by name; what is not a number is left out."""
        kept = {name: value for name, value in values.items() if not math.isnan(value)}
        self._each(lambda tracker: tracker.log(kept, step=step))

    def show(self, name: str, picture: Image.Image, step: int) -> None:
        """A picture, to those that show some."""
        shown = {name: np.asarray(picture.convert("RGB"))[None]}  # (1, H, W, 3)

        def show(tracker: Any) -> None:
            if tracker.name == TENSORBOARD:
                tracker.log_images(shown, step=step, dataformats="NHWC")
            elif tracker.name == WANDB:
                tracker.log_images(shown, step=step)
            elif tracker.name == MLFLOW:  # accelerate's has no pictures
                import mlflow

                mlflow.log_image(picture.convert("RGB"), key=name, step=step)

        self._each(show)

    def close(self) -> None:
        self._each(lambda tracker: tracker.finish())
        self.running = []

    @contextmanager
    def _starting(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a server that is not there, nobody logged in, …
            self.close()
            raise UserError(f"log: {name} cannot be started: {reason(error)}") from error

    def _open(self, name: str, options: dict[str, Any]) -> Any:
        tracker = tracking.LOGGER_TYPE_TO_CLASS[name](**options)
        tracker.start()
        self.running.append(tracker)
        return tracker

    def _each(self, work: Any) -> None:
        for tracker in list(self.running):
            try:
                work(tracker)
            except Exception as error:
                self.running.remove(tracker)
                self.progress.print(f"{tracker.name}: goes without this run from now on: {reason(error)}")


def _options(name: str, run: Path, number: str, resumed: bool) -> dict[str, Any]:
    """What a tracker is started with; of wandb what its variables of the environment say counts more.

    accelerate takes mlflow's from the environment by itself.
    """
    title = run.resolve().name
    if name == WANDB:
        own = {"name": ("WANDB_NAME", title), "id": ("WANDB_RUN_ID", number)}
        options = {option: value for option, (variable, value) in own.items() if variable not in os.environ}
        again = {"resume": "allow"} if resumed else {}
        return {"run_name": os.environ.get("WANDB_PROJECT", PROJECT), **options, **again}
    if name == MLFLOW:
        found = _mlflow_run(number) if resumed else {}
        return {"experiment_name": PROJECT, "run_name": title, "tags": {RUN_TAG: number}, **found}
    return {"run_name": PROJECT}


def _mlflow_run(number: str) -> dict[str, str]:
    """The run that mlflow has under a number, as an option; a run that was begun without mlflow has none."""
    import mlflow

    tagged = f"tags.`{RUN_TAG}` = '{number}'"
    found = mlflow.search_runs(filter_string=tagged, search_all_experiments=True, output_format="list")
    return {"run_id": found[0].info.run_id} if found else {}


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Nested options as "part/option", in types that every tracker takes."""
    options = flatten(config, "/").items()
    return {name: value if isinstance(value, str | int | float | bool) else str(value) for name, value in options}
