"""What was damaged or has changed since a run began is noticed when it goes on."""

import json
from pathlib import Path

import pytest
from run_folders import edit

from mask_frozen_detr.cli import main
from mask_frozen_detr.model import WEIGHTS_FILE
from mask_frozen_detr.training.checkpoint import load_checkpoint, save_checkpoint
from mask_frozen_detr.training.run_folder import CHECKPOINT_FILE, METRICS_FILE, TRAINING_FILE

pytest_plugins = ["run_folder_fixtures"]


def flip(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("name", [CHECKPOINT_FILE, TRAINING_FILE, METRICS_FILE])
def test_a_flipped_bit_is_noticed_when_a_run_goes_on(name, share, unfinished, four_steps, refused):
    flip(unfinished / name, share)
    assert name in refused(*four_steps(unfinished, "--resume"))


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("name", [WEIGHTS_FILE, TRAINING_FILE])
def test_a_flipped_bit_is_noticed_in_a_finished_run(name, share, finished, four_steps, scenes_copy, refused):
    flip(finished / name, share)
    assert name in refused(*four_steps(finished, "--resume"))
    if name == WEIGHTS_FILE:
        assert "damaged" in refused("evaluate", finished, scenes_copy)


def first_disc(content: dict) -> dict:
    return next(one for one in content["annotations"] if one["category_id"] == 1)


def move_a_corner(content: dict) -> None:
    first_disc(content)["segmentation"][0][0] += 1


def swap_names(content: dict) -> None:
    swapped = {"disc": "ring", "ring": "disc"}
    for category in content["categories"]:
        category["name"] = swapped.get(category["name"], category["name"])


@pytest.mark.parametrize(
    "change",
    [
        move_a_corner,
        swap_names,
        lambda content: first_disc(content).update(category_id=2),
        lambda content: content["images"].reverse(),
    ],
    ids=["a polygon", "names of classes", "a class", "the order of images"],
)
def test_changed_annotations_are_noticed(change, unfinished, four_steps, scenes_copy, refused):
    path = scenes_copy / "annotations" / "instances_train2017.json"
    before = path.read_bytes()
    try:
        edit(path, change)
        assert "annotations (polygons" in refused(*four_steps(unfinished, "--resume"))
    finally:
        path.write_bytes(before)


def test_a_changed_picture_of_the_same_size_is_noticed(unfinished, four_steps, scenes_copy, refused):
    content = json.loads((scenes_copy / "annotations" / "instances_train2017.json").read_text())
    shown = first_disc(content)["image_id"]
    name = next(image["file_name"] for image in content["images"] if image["id"] == shown)
    path = scenes_copy / "train2017" / name
    before = path.read_bytes()
    try:
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert "content of the training pictures" in refused(*four_steps(unfinished, "--resume"))
    finally:
        path.write_bytes(before)


def test_other_pre_processing_is_noticed(unfinished, four_steps, detector_copy, refused):
    path = detector_copy / "preprocessor_config.json"
    before = path.read_bytes()
    try:
        edit(path, lambda content: content.update(rescale_factor=0.005))
        assert "another pre-processing" in refused(*four_steps(unfinished, "--resume"))
    finally:
        path.write_bytes(before)


def forget(options: dict, network: dict) -> None:
    """What a run wrote before there were these options."""
    del options["evidence"], options["augment"]["copy_paste"]
    del network["box_norm"], network["box_pyramid"], network["roi_samples"]


def test_a_run_that_is_older_than_an_option_goes_on_as_it_was(unfinished, four_steps, finished_once, refused):
    state = load_checkpoint(unfinished / CHECKPOINT_FILE)
    forget(state["config"]["training"], state["config"]["network"])
    save_checkpoint(unfinished / CHECKPOINT_FILE, state)

    def older(content: dict) -> None:
        forget(content, content["network"])
        for key in ("files", "checksum"):
            del content[key]

    edit(unfinished / TRAINING_FILE, older)
    said = refused(*four_steps(unfinished, "--resume", "--no-evidence", "--copy-paste", "0.5"))
    assert "this run was started with augment" in said
    assert "'copy_paste': 0.0" in said
    said = refused(*four_steps(unfinished, "--resume", "--box-norm", "batch"))
    assert "this run was started with box_norm" in said
    assert "layer" in said
    without_preset = [word for word in four_steps(unfinished, "--resume") if word not in ("--preset", "paper")]
    assert main(without_preset) == 0
    assert (unfinished / WEIGHTS_FILE).read_bytes() == (finished_once / WEIGHTS_FILE).read_bytes()
