"""A run folder: what lies in it, when a run may start in it, and how a killed one is found again.

mask_frozen_detr.json and mask_network.safetensors are the model; training.json says how it was trained, metrics.jsonl,
tensorboard/ and evaluation-STEP.json what came of it. checkpoint.pt holds all loop state as long as a run lasts.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.files import write_json_atomic, write_text_atomic
from mask_frozen_detr.model import CONFIG_FILE, DETECTOR_FOLDER, WEIGHTS_FILE, MaskFrozenDetr, read_run_config
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.samples import TrainingData

TRAINING_FILE = "training.json"
CHECKPOINT_FILE = "checkpoint.pt"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_KEYS = {"step", "seconds", "learned", "optimizer", "averaged", "scaler", "problems", "totals", "config"}
FREE_KEYS = ("workers", "evaluate_every", "log_every", "checkpoint_every")  # what may change at --resume


def check_start(output: Path, resume: bool, overwrite: bool) -> None:
    """Raises UserError where a start would destroy the run that `output` holds."""
    if resume and overwrite:
        raise UserError("found both --resume and --overwrite, expected one of them")
    if resume or overwrite:
        return
    for name, state in ((CHECKPOINT_FILE, "an unfinished"), (WEIGHTS_FILE, "a finished")):
        if (output / name).exists():
            raise UserError(
                f"{output}: holds {state} run already; --resume goes on with it, --overwrite replaces it, another "
                "--output keeps it"
            )


def is_finished(output: Path) -> bool:
    """Whether the run in `output` has come to its end: its weights are there, and its checkpoint is gone."""
    return (output / WEIGHTS_FILE).exists() and not (output / CHECKPOINT_FILE).exists()


def describe_run(model: MaskFrozenDetr, config: TrainConfig, steps: int, dataset: TrainingData) -> dict[str, Any]:
    """All that decides the outcome of a run."""
    instances = sum(len(record.annotations) for record in dataset.images)
    resolved = {
        **model.describe(),
        "training": asdict(config),
        "data": {"training images": len(dataset), "instances": instances},
        "steps": steps,
    }
    return json.loads(json.dumps(resolved))  # so that what is compared at --resume is what was written


def check_same_run(saved: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Raises UserError where a run was started with other options than it shall go on with."""
    for part in ("network", "training", "data"):
        for key, value in now[part].items():
            if saved[part].get(key) != value and key not in FREE_KEYS:
                raise UserError(
                    f"{path}: this run was started with {key} {saved[part].get(key)!r}, found {value!r}; "
                    "--resume goes on with the same options, another --output starts anew"
                )
    for key in ("weights", "encoder_layer", "prompt"):
        if saved["detector"].get(key) != now["detector"][key]:
            raise UserError(
                f"{path}: this run was started on {saved['detector']['name']}, found {now['detector']['name']} with "
                f"another {key.replace('_', ' ')}; --resume goes on with the same detector"
            )


def check_finished_run(output: Path, now: dict[str, Any]) -> None:
    """`check_same_run` for a run that has no checkpoint any more. Raises UserError."""
    path = output / TRAINING_FILE
    saved = read_run_config(output)
    try:
        training = json.loads(path.read_text())
        check_same_run(
            {
                "network": asdict(saved.network),
                "detector": training["detector"],
                "training": training,
                "data": training["data"],
            },
            now,
            path,
        )
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def open_run(output: Path, resolved: dict[str, Any], step: int) -> None:
    """Make or clean the run folder: a fresh start removes an old run's records, a resumed one what came after `step`.

    Raises UserError where that is not permitted.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        for torso in output.glob(".*.part*"):  # of writes that were killed
            shutil.rmtree(torso) if torso.is_dir() else torso.unlink()
        if step == 0:
            # The checkpoint first: whatever is left if this is interrupted, it is never taken for this run's.
            for stale in (CHECKPOINT_FILE, WEIGHTS_FILE, METRICS_FILE):
                (output / stale).unlink(missing_ok=True)
            for stale_path in output.glob("evaluation-*.json"):
                stale_path.unlink()
            for stale in ("tensorboard", DETECTOR_FOLDER):
                shutil.rmtree(output / stale, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{output}: cannot make the run folder: {error.strerror}") from error
    if step:
        _cut_metrics(output / METRICS_FILE, step)
    config = {key: value for key, value in resolved.items() if key not in ("training", "data", "steps")}
    write_json_atomic(output / CONFIG_FILE, config)
    training = {key: resolved[key] for key in ("steps", "data", "detector")}  # the detector that it starts from
    write_json_atomic(output / TRAINING_FILE, {**resolved["training"], **training})


def append_metrics(output: Path, line: dict[str, float]) -> None:
    """One line of metrics.jsonl. Raises UserError where it cannot be written."""
    path = output / METRICS_FILE
    rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in line.items()}
    try:
        with open(path, "a") as file:
            file.write(json.dumps(rounded) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """In torch's safe mode: no code runs. Raises UserError where the file is damaged or no checkpoint of ours."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file brings about
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: the checkpoint cannot be read ({first}); delete it to start the run anew") from error
    if not isinstance(state, dict) or state.keys() != CHECKPOINT_KEYS:
        raise UserError(f"{path}: is no checkpoint of a run; delete it to start the run anew")
    return state


def _cut_metrics(path: Path, step: int) -> None:
    """Only the whole lines up to `step` stay: the others will be written again."""
    kept = []
    for text in path.read_text().splitlines(keepends=True) if path.exists() else []:
        try:
            if text.endswith("\n") and json.loads(text)["step"] <= step:
                kept.append(text)
        except (json.JSONDecodeError, KeyError):
            continue  # cut short by the kill
    write_text_atomic(path, "".join(kept))
