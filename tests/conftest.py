"""Tiny detectors and data that tests share: built once, of random weights and rendered shapes, never downloaded."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything of Hugging Face is imported
if "MASK_FROZEN_DETR_TEST_GPU" not in os.environ:  # of `make test-gpu`: the others compare to the bit, as CPUs do
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from family_models import TinyModel, installed
from synthetic_detections import scattered
from tiny_detectors import build_padding_detector, build_squashing_detector
from transformers.utils import logging

from mask_frozen_detr import MaskFrozenDetr, MaskNetworkConfig, load_detector
from mask_frozen_detr.cli import main
from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.demo.scenes import SCENE_DETECTOR, render_scenes
from mask_frozen_detr.detectors import FrozenDetector, TransformersDetector
from mask_frozen_detr.evaluation import Evaluation, evaluate

torch.set_num_threads(1)  # equal to the bit whatever the machine, and tests may fork
logging.disable_progress_bar()
logging.set_verbosity_error()

TINY = [  # options of a training that takes a moment
    *["--image-layers", "1", "--box-layers", "1", "--mask-width", "8", "--roi-size", "8", "--iterations", "2"],
    *["--preset", "paper", "--workers", "0", "--min-box-iou", "0", "--no-report", "--log", "none"],
]


@pytest.fixture(scope="session")
def squashing_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_squashing_detector(tmp_path_factory.mktemp("detectors") / "squashing")


@pytest.fixture(scope="session")
def padding_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_padding_detector(tmp_path_factory.mktemp("detectors") / "padding")


@pytest.fixture(scope="session")
def squashing(squashing_folder: Path) -> FrozenDetector:
    return load_detector(str(squashing_folder))


@pytest.fixture(scope="session")
def padding(padding_folder: Path) -> FrozenDetector:
    return load_detector(str(padding_folder))


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_scenes(tmp_path_factory.mktemp("data") / "scenes", train=10, val=5)


@pytest.fixture(scope="session")
def few_scenes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images to train on, and as few as make a val split: for many runs whose figures do not count."""
    return render_scenes(tmp_path_factory.mktemp("data") / "scenes", train=10, val=2)


@pytest.fixture(scope="session")
def scenes(scenes_folder: Path) -> tuple[CocoData, CocoData]:
    """Train and val."""
    return load_split(scenes_folder, "train"), load_split(scenes_folder, "val")


@pytest.fixture(scope="session")
def tiny_network() -> MaskNetworkConfig:
    """All parts of the default, as small as they come."""
    return MaskNetworkConfig(image_layers=1, box_layers=1, mask_width=8, roi_size=8)


@pytest.fixture(scope="module")
def model(squashing: FrozenDetector, tiny_network: MaskNetworkConfig) -> MaskFrozenDetr:
    """Every part on the squashing detector, of weights that let it answer; each module has its own."""
    return scattered(squashing, tiny_network)


@pytest.fixture(scope="session")
def tiny_run(squashing_folder, scenes_folder, tmp_path_factory) -> Path:
    """A run that the command line has finished."""
    output = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", str(squashing_folder), str(scenes_folder), "--output", str(output), *TINY]) == 0
    return output


@pytest.fixture
def refused(capfd) -> Callable[..., str]:
    """Runs a command line that must be refused; returns its message."""

    def refuse(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        shown = capfd.readouterr()
        assert "Traceback" not in shown.err + shown.out
        assert shown.err.strip()
        return shown.err

    return refuse


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TinyModel], Path]:
    """Where a tiny model lies, as transformers saves it."""
    made: dict[str, Path] = {}

    def folder(tiny: TinyModel) -> Path:
        if not installed(tiny):
            pytest.skip(f"needs transformers {tiny.family.since}")
        if tiny.name not in made:
            made[tiny.name] = tiny.save(tmp_path_factory.mktemp("tiny") / tiny.name)
        return made[tiny.name]

    return folder


@pytest.fixture(scope="session")
def family_detector(family_folder) -> Callable[[TinyModel], TransformersDetector]:
    """The frozen detector of a tiny model, one for all tests: none of them changes it."""
    made: dict[str, TransformersDetector] = {}

    def detector(tiny: TinyModel) -> TransformersDetector:
        if tiny.name not in made:
            made[tiny.name] = tiny.load(family_folder(tiny))
        return made[tiny.name]

    return detector


@pytest.fixture
def double():
    """Tensors are float64 where nothing else is said."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def photos(scenes, tmp_path) -> Path:
    """A folder of three pictures of three kinds."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    images = [read_image(record.path) for record in scenes[1].images[:3]]
    images[0].save(folder / "a.jpg")
    images[1].save(folder / "b.png")
    images[2].save(folder / "more" / "c.webp")
    return folder


@pytest.fixture(scope="session")
def scene_detector() -> FrozenDetector:
    """The demo's; no test changes it."""
    return load_detector(str(SCENE_DETECTOR))


@pytest.fixture(scope="session")
def baseline(scene_detector) -> MaskFrozenDetr:
    """Masks without any training on the demo's detector; no test changes it."""
    return MaskFrozenDetr.training_free(scene_detector)


@pytest.fixture(scope="session")
def measured_baseline(baseline, scenes, tmp_path_factory) -> tuple[Evaluation, Path]:
    """The baseline's figures and results file."""
    path = tmp_path_factory.mktemp("results") / "results.json"
    return evaluate(baseline, scenes[1], results_file=path), path


@pytest.fixture(scope="module")
def saved_model(model, tmp_path_factory) -> Path:
    """The folder of a run that holds the module's model."""
    folder = tmp_path_factory.mktemp("runs") / "femto"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def copied_model(saved_model, tmp_path) -> Path:
    """A copy of `saved_model`, to spoil."""
    return shutil.copytree(saved_model, tmp_path / "run")


@pytest.fixture(scope="module")
def photo(scenes) -> Path:
    """A picture with objects."""
    return scenes[1].images[0].path
