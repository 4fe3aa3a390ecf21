"""A run folder: what lies in it, when a run may start in it, and how a killed one is found again.

mask_frozen_detr.json and mask_network.safetensors are the model, config.json and preprocessor_config.json what
transformers must know of it; training.json says how it was trained and which files the run wrote, metrics.jsonl,
tensorboard/, evaluation-STEP.json and its pictures what came of it, report.html all of it to look at. best/ is a run
folder of its own, see `best`. checkpoint.pt holds all loop state, and pseudo-masks/ those that a run learns
from, as long as it lasts. Nothing else is ever removed or replaced.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from PIL import Image

from mask_frozen_detr.errors import UserError, shorten
from mask_frozen_detr.evaluation import Evaluation, write_evaluation
from mask_frozen_detr.machine.checksums import hash_content
from mask_frozen_detr.machine.files import UNFINISHED, save_image_atomic, sweep, write_json_atomic
from mask_frozen_detr.machine.json_records import read_record
from mask_frozen_detr.machine.locks import LOCK_FILE, FolderLock
from mask_frozen_detr.machine.processes import on_main, processes
from mask_frozen_detr.machine.regular_files import check_regular, read_regular
from mask_frozen_detr.model import CONFIG_FILE, DETECTOR_FOLDER, WEIGHTS_FILE, MaskFrozenDetr, read_run_config
from mask_frozen_detr.network.config import MaskNetworkConfig
from mask_frozen_detr.report.page import REPORT_FILE
from mask_frozen_detr.run.description import METRICS_FILE, TRAINING_FILE
from mask_frozen_detr.run.transformers_names import TRANSFORMERS_FILES
from mask_frozen_detr.training.best import BEST_FOLDER, Best, read_best, write_best
from mask_frozen_detr.training.checkpoint import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from mask_frozen_detr.training.config import AugmentConfig, LossConfig, TrainConfig, of_any_age
from mask_frozen_detr.training.metrics_file import cut_metrics, digest_metrics
from mask_frozen_detr.training.own_files import (
    BEST_DETECTOR,
    BEST_FILES,
    EVALUATION,
    OWN,
    TENSORBOARD_FOLDER,
    check_foreign,
    is_run,
    own_files,
    read_description,
    remove,
)
from mask_frozen_detr.training.pseudo_masks.store import FOLDER as PSEUDO_FOLDER
from mask_frozen_detr.training.run_record import RunRecord


def check_start(output: Path, resume: bool, overwrite: bool, trust_lock: bool = True) -> None:
    """Raises UserError where a start would destroy what `output` holds, and where there is nothing to resume.

    trust_lock: a lock file in it was left by a run that was killed before it had written anything.
    """
    if resume and overwrite:
        raise UserError("found both --resume and --overwrite, expected one of them")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file, expected a folder, or none yet")
    names = sorted(path.name for path in output.iterdir()) if output.exists() else []
    left = [name for name in names if name == LOCK_FILE or UNFINISHED.fullmatch(name)]
    foreign = [name for name in names if name not in left]
    if is_run(output):
        if not (resume or overwrite):
            state = "a finished" if is_finished(output) else "an unfinished"
            raise UserError(
                f"{output}: holds {state} run already; --resume goes on with it, --overwrite replaces it, another "
                "--output keeps it"
            )
        for name in names:
            if OWN.fullmatch(name) and (output / name).is_symlink():
                raise UserError(
                    f"{output / name}: is a link, which no run writes and this one would replace; put the file itself "
                    "there, or give another --output"
                )
    elif foreign:
        raise UserError(
            f"{output}: found {shorten(foreign)}, which no run wrote, and no run; expected "
            f"{'the folder of a run' if resume else 'a new or empty folder'}; give another --output"
        )
    elif resume and not (left and trust_lock):
        raise UserError(f"{output}: found no run to go on with; without --resume it is started")


def read_options(output: Path) -> tuple[MaskNetworkConfig, TrainConfig]:
    """Network and training that the run in `output` was started with.

    Raises UserError where its description is damaged.
    """
    description = read_description(output)
    try:
        saved = of_any_age(description)
        options = {field.name: saved[field.name] for field in fields(TrainConfig) if field.name in saved}
        options |= {name: tuple(options[name]) for name in ("betas", "drops")}
        options |= {"loss": LossConfig(**options["loss"]), "augment": AugmentConfig(**options["augment"])}
        training = TrainConfig(**options)
        # Of a run that was killed as it began there may be training.json alone.
        alone = not os.path.lexists(output / CONFIG_FILE)
        network = read_record(MaskNetworkConfig, saved["network"], "network") if alone else None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{output / TRAINING_FILE}: is damaged ({error}); give another --output") from error
    return network or read_run_config(output).network, training


def is_finished(output: Path) -> bool:
    """Whether the run in `output` has come to its end: its weights are there, and its checkpoint is gone."""
    return (output / WEIGHTS_FILE).exists() and not (output / CHECKPOINT_FILE).exists()


@contextmanager
def open_run(
    output: Path, record: RunRecord, config: TrainConfig, resume: bool, overwrite: bool
) -> Iterator["RunFolder"]:
    """The folder of a run, which no other may use meanwhile. Nothing is written but the lock until `begin`.

    Raises UserError as `check_start` does, where another run is working there, where the run to go on with was
    started with something else or is damaged, and where files that are not the run's would be replaced.
    """
    locks: list[FolderLock] = []  # the main process's

    def take() -> None:
        check_start(output, resume, overwrite)
        locks.append(FolderLock(output))
        check_start(output, resume, overwrite, trust_lock=not locks[0].made_file)
        check_foreign(output, record, config)

    ended = False
    try:
        on_main(take)
        yield RunFolder(output, record, resume, next(iter(locks), None))
        ended = True
    finally:
        for lock in locks:
            lock.release(keep_file=not ended and not lock.made_file)


class RunFolder:
    """The folder of a run that `open_run` began or goes on with.

    The main process writes; what it cannot write is an error in all processes.
    """

    def __init__(self, path: Path, record: RunRecord, resume: bool, lock: FolderLock | None):
        self.path, self.record, self._lock = path, record, lock
        self.finished = resume and is_finished(path)
        self.checkpoint: dict[str, Any] | None = None
        self.unknown: list[str] = []  # what the version that started the run did not record
        self.run = secrets.token_hex(4)  # in the names of tensorboard's files
        self.files: list[str] = [TRAINING_FILE, CONFIG_FILE, f"{TENSORBOARD_FOLDER}/*.{self.run}"]
        if record.training["masks_from"] != "annotations":
            self.files.append(PSEUDO_FOLDER)
        self.resumed = resume
        if not resume or not is_run(path):
            return
        saved = read_description(path)
        if self.finished:
            file = path / TRAINING_FILE
            network = json.loads(
                json.dumps(asdict(read_run_config(path).network))
            )  # older versions wrote it there alone
            before = RunRecord.read({"network": network, **saved, "training": saved}, file)
            self.unknown = before.check_same(record, file)
        elif (path / CHECKPOINT_FILE).exists():
            file = path / CHECKPOINT_FILE
            self.checkpoint = load_checkpoint(file)
            self.unknown = RunRecord.read(self.checkpoint["config"], file).check_same(record, file)
        if self.checkpoint is not None or self.finished:
            self.run = saved.get("run", self.run)
            self.files = list(dict.fromkeys([*self.files, *own_files(path)]))

    def begin(self, model: MaskFrozenDetr) -> None:
        """Make or clean the folder: an old run's files go, of one that goes on what came after its checkpoint.

        Raises UserError where that is not permitted, or the metrics are not those that the checkpoint knows.
        """
        processes().wait_for_everyone()  # all have read
        on_main(lambda: self._begin(model))

    def _begin(self, model: MaskFrozenDetr) -> None:
        try:
            sweep(self.path, lambda name: OWN.fullmatch(name) is not None)
            sweep(self.path / BEST_FOLDER, lambda name: OWN.fullmatch(f"{BEST_FOLDER}/{name}") is not None)
            if self.checkpoint is None:
                own = own_files(self.path) if is_run(self.path) else []
                # The checkpoint first: whatever is left where this is interrupted, it is never taken for another run's.
                for name in sorted(own, key=lambda name: name != CHECKPOINT_FILE):
                    if not (self.resumed and name == PSEUDO_FOLDER):  # named by their content: still right
                        remove(self.path, name)
        except OSError as error:
            raise UserError(f"{self.path}: cannot make the run folder: {error.strerror}") from error
        if self.checkpoint is not None:
            cut_metrics(self.path / METRICS_FILE, self.checkpoint)
        self._describe()
        write_json_atomic(self.path / CONFIG_FILE, model.run_config().describe())

    def append_metrics(self, line: dict[str, float]) -> None:
        """One line of metrics.jsonl. Raises UserError where it cannot be written."""
        path = self.path / METRICS_FILE
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in line.items()}

        def write() -> None:
            self.check()
            self._claim(METRICS_FILE)
            try:
                check_regular(path)
                with open(path, "a") as file:
                    file.write(json.dumps(rounded) + "\n")
            except OSError as error:
                raise UserError(f"{path}: cannot be written: {error.strerror}") from error

        on_main(write)

    def save(self, state: dict[str, Any]) -> None:
        """The checkpoint of a `RunState.state_dict`. Raises UserError where it cannot be written."""

        def write() -> None:
            self.check()
            self._claim(CHECKPOINT_FILE)
            metrics = self.path / METRICS_FILE
            known = digest_metrics(read_regular(metrics) if metrics.exists() else b"")
            save_checkpoint(self.path / CHECKPOINT_FILE, {**state, "metrics": known, "config": asdict(self.record)})

        on_main(write)

    def save_model(self, model: MaskFrozenDetr) -> None:
        """What the run is for. Raises UserError where it cannot be written."""

        def write() -> None:
            self.check()
            self._claim(WEIGHTS_FILE, *TRANSFORMERS_FILES, *[DETECTOR_FOLDER] if model.own_detector else [])
            model.save_pretrained(self.path, card=False)
            model.run_folder = self.path

        on_main(write)

    def evaluation(self, step: int) -> Path:
        return self.path / f"evaluation-{step}.json"

    def save_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Raises UserError where it cannot be written."""

        def write() -> None:
            self.check()
            path = self.evaluation(step)
            self._claim(path.name)
            write_evaluation(path, evaluation, step=step)

        on_main(write)

    def save_pictures(self, step: int, picture: Image.Image) -> None:
        """Keeps a picture beside a step's evaluation; for the main process. Raises UserError if that fails."""
        path = self.evaluation(step).with_suffix(".jpg")
        self._claim(path.name)
        save_image_atomic(picture, path)

    def evaluated(self) -> list[int]:
        """After which steps this run has been evaluated, in ascending order."""

        def steps() -> list[int]:
            names = [match for match in map(EVALUATION.fullmatch, self.files) if match and match[2] == "json"]
            return sorted({int(match[1]) for match in names if (self.path / match[0]).exists()})

        return on_main(steps)

    def best(self) -> Best | None:
        """Raises UserError where its record is damaged."""
        return on_main(lambda: read_best(self.path))

    def own_report(self) -> None:
        """report.html is the run's, from before it is written; for the main process alone."""
        self._claim(REPORT_FILE)

    def save_best(self, model: MaskFrozenDetr, best: Best) -> None:
        """`model` as it is becomes the best. Raises UserError where it cannot be written."""

        def write() -> None:
            self.check()
            self._claim(*BEST_FILES, *[BEST_DETECTOR] if model.own_detector else [])
            model.save_pretrained(self.path / BEST_FOLDER, card=False)
            write_best(self.path, best)

        on_main(write)

    def save_best_evaluation(self, best: Best) -> None:
        """Other figures of the same weights. Raises UserError where they cannot be written."""
        on_main(lambda: write_best(self.path, best))

    def end(self) -> None:
        """The run is finished: its checkpoint goes, and its pseudo-masks.

        Raises UserError where the folder is not what it should be.
        """

        def finish() -> None:
            self.check()
            for name in (CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE):
                if not (self.path / name).is_file():
                    raise UserError(f"{self.path / name}: was removed during the run; --resume writes it again")
            (self.path / CHECKPOINT_FILE).unlink(missing_ok=True)
            if PSEUDO_FOLDER in self.files:
                shutil.rmtree(self.path / PSEUDO_FOLDER, ignore_errors=True)

        on_main(finish)

    def check(self) -> None:
        """Raises UserError, in the main process, where the folder was removed, moved or replaced."""
        if self._lock is not None:
            self._lock.check()

    def _claim(self, *names: str) -> None:
        """training.json lists a file before there is one: so none of the run's is ever taken for another's.

        Raises UserError where somebody else has put one there since the run began.
        """
        new = [name for name in names if name not in self.files]
        for name in new:
            if os.path.lexists(self.path / name):
                raise UserError(
                    f"{self.path / name}: was put there while the run went on, which would replace it; move it away, "
                    "then --resume"
                )
        if new:
            self.files += new
            self._describe()

    def _describe(self) -> None:
        described = {**self.record.described(), "run": self.run, "files": self.files}
        described["checksum"] = hash_content(described)
        write_json_atomic(self.path / TRAINING_FILE, described)
