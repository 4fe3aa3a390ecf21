"""Trackers get what the run folder gets, find a run again, and never cost it anything."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from accelerate import tracking
from folders import read_metrics
from PIL import Image
from tiny_training import CONFIG, build

from mask_frozen_detr import UserError
from mask_frozen_detr.training.config import AugmentConfig, TrainConfig
from mask_frozen_detr.training.loop import train
from mask_frozen_detr.training.trackers import Trackers

OFTEN = replace(CONFIG, evaluate_every=1, augment=AugmentConfig(multi_scale=False))


@pytest.fixture
def go(squashing, scenes, tiny_network, tmp_path):
    def run(config: TrainConfig, **options) -> Path:
        train(build(squashing, tiny_network), scenes[0], scenes[1], tmp_path / "mine", config, quiet=True, **options)
        return tmp_path / "mine"

    return run


@pytest.fixture
def packages(monkeypatch) -> SimpleNamespace:
    """wandb and mlflow as accelerate calls them."""
    mlflow = MagicMock()
    mlflow.search_experiments.return_value, mlflow.search_runs.return_value = [], []
    mlflow.utils.validation.MAX_PARAM_VAL_LENGTH, mlflow.utils.validation.MAX_PARAMS_TAGS_PER_BATCH = 6000, 100
    found = SimpleNamespace(wandb=MagicMock(), mlflow=mlflow)
    for name, package in vars(found).items():
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb", "mlflow", "tensorboard"])
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_they_get_what_the_folder_gets(packages, go):
    run = go(replace(OFTEN, log="wandb,mlflow"))
    wandb, mlflow = packages.wandb.init.return_value, packages.mlflow
    for line in read_metrics(run):
        told = [call.args[0] for call in wandb.log.call_args_list if call.kwargs["step"] == line["step"]]
        losses = [values["train/loss"] for values in told if "train/loss" in values]
        assert losses == [pytest.approx(line["loss"], abs=1e-5)]
        assert line["peak_memory_gb"] > 0
        assert [sorted(values) for values in told if "val/pictures" in values] == [["val/pictures"]]
        assert any("val/mask AP" in values for values in told)
    for log in (wandb.log, mlflow.log_metrics):
        steps = [call.kwargs["step"] for call in log.call_args_list if "val/mask AP" in call.args[0]]
        assert steps == [1, 2]
    assert [call.kwargs["step"] for call in mlflow.log_image.call_args_list] == [1, 2]
    assert np.asarray(mlflow.log_image.call_args.args[0]).ndim == 3
    for options in (packages.wandb.config.update.call_args.args[0], mlflow.log_params.call_args.args[0]):
        assert (options["lr"], options["loss/dice_weight"]) == (1e-3, 5.0)
        assert options["data/training images"] > 0
        assert any(name.startswith("network/") for name in options)
    wandb.finish.assert_called_once()
    mlflow.end_run.assert_called_once()
    assert not (run / "tensorboard").exists()


def test_a_resumed_run_goes_on_in_its_trackers(packages, go, monkeypatch):
    wandb, mlflow = packages.wandb, packages.mlflow
    mlflow.log_image.side_effect = [KeyboardInterrupt, None, None]  # Ctrl-C during the first evaluation
    with pytest.raises(KeyboardInterrupt):
        go(replace(OFTEN, log="wandb,mlflow"))
    wandb.init.return_value.finish.assert_called_once()
    mlflow.end_run.assert_called_once()
    first, begun = wandb.init.call_args.kwargs, mlflow.start_run.call_args.kwargs
    assert (first["project"], first["name"]) == ("mask-frozen-detr", "mine")
    assert "resume" not in first
    assert mlflow.create_experiment.call_args.kwargs["name"] == "mask-frozen-detr"
    assert (begun["run_name"], begun["run_id"]) == ("mine", None)

    (number,) = begun["tags"].values()
    mlflow.search_runs.side_effect = lambda filter_string, **_: (
        [SimpleNamespace(info=SimpleNamespace(run_id="theirs"))] if number in filter_string else []
    )
    mlflow.log_params.reset_mock()
    monkeypatch.setenv("WANDB_PROJECT", "of-the-user")
    go(replace(OFTEN, log="wandb,mlflow"), resume=True)
    again = wandb.init.call_args.kwargs
    assert (again["id"], again["resume"], again["project"]) == (first["id"], "allow", "of-the-user")
    assert mlflow.start_run.call_args.kwargs["run_id"] == "theirs"
    mlflow.log_params.assert_not_called()  # mlflow refuses another value of an option


def test_one_that_fails_does_not_end_the_run(packages, go):
    packages.wandb.init.return_value.log.side_effect = ConnectionError("the server is gone")
    assert (go(replace(OFTEN, log="wandb,mlflow")) / "evaluation-2.json").exists()
    assert packages.mlflow.log_metrics.call_count == 4
    said: list[str] = []
    trackers = Trackers(SimpleNamespace(print=said.append))  # type: ignore[arg-type]
    trackers.start(("wandb",), Path("mine"), "0", False, {})
    trackers.log({"a": 1.0}, 1)
    trackers.log({"a": 1.0}, 2)
    trackers.show("pictures", Image.new("L", (2, 2)), 2)
    assert said == ["wandb: goes without this run from now on: ConnectionError: the server is gone"]


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("wandb,nonsense", "log: found 'nonsense', expected auto, none, or some of aim"),
        ("", "log: found ''"),
        ("comet_ml", "log: comet_ml is not installed; pip install comet_ml"),
        ("wandb,mlflow", "log: mlflow cannot be started: RuntimeError: nobody is logged in"),
    ],
)
def test_what_cannot_be_started_is_said_before_there_is_a_run(log, words, packages, go, tmp_path):
    packages.mlflow.start_run.side_effect = RuntimeError("nobody is logged in")
    with pytest.raises(UserError) as error:
        go(replace(OFTEN, log=log))
    assert words in str(error.value)
    assert not (tmp_path / "mine").exists()
    assert packages.wandb.init.return_value.finish.called == ("mlflow" in log)


def test_the_packages_themselves(go, tmp_path, monkeypatch):
    """Without a server: wandb offline, mlflow in a file."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = go(replace(OFTEN, log="wandb,mlflow"))
    (found,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert (found.info.run_name, found.info.status) == ("mine", "FINISHED")
    assert found.data.metrics["train/loss"] == pytest.approx(read_metrics(run)[-1]["loss"], abs=1e-5)
    assert found.data.params["lr"] == "0.001"
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/files/media/images/val/pictures_2_*.png")
    with Image.open(kept) as wandb_picture, Image.open(run / "evaluation-2.jpg") as picture:
        assert wandb_picture.size == picture.size
