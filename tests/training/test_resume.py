"""`--resume`, `--overwrite` and a fresh start: what goes on, what is refused, and that nothing is lost."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from folders import contents, read_metrics
from killed_runs import STEPS, check_same_outcome, kill

from mask_frozen_detr.cli import main
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.model import CONFIG_FILE, WEIGHTS_FILE, MaskFrozenDetr
from mask_frozen_detr.run.transformers_names import TRANSFORMERS_FILES
from mask_frozen_detr.training import loop as training
from mask_frozen_detr.training import records
from mask_frozen_detr.training.run_folder import CHECKPOINT_FILE, METRICS_FILE, TRAINING_FILE

pytest_plugins = ["killed_run_fixtures"]


@pytest.fixture(scope="module")
def killed_once(variant_command, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("killed") / "run"
    kill(variant_command(output), "in the step after a checkpoint")
    return output


@pytest.fixture
def killed(killed_once, tmp_path) -> Path:
    """A run folder with a checkpoint of step 3."""
    return shutil.copytree(killed_once, tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--lr 2e-3", ["lr", "0.001", "0.002"]),
        ("--seed 1", ["seed"]),
        ("--iterations 9", ["iterations", "7", "9"]),
        ("--precision bf16", ["precision"]),
        ("--ema 0.5", ["ema"]),
        ("--no-flip", ["augment"]),
        ("--mask-width 16", ["mask_width", "8", "16"]),
    ],
)
def test_other_options_are_refused(more, words, variant_command, killed, capsys):
    before = contents(killed)
    assert main(variant_command(killed, "plain", "--resume", *more.split())) == 2
    message = capsys.readouterr().err
    for word in [CHECKPOINT_FILE, *words]:
        assert word in message
    assert contents(killed) == before


def test_other_data_and_other_detectors_are_refused(
    variant_command, killed, few_scenes_folder, padding_folder, capsys, tmp_path
):
    arguments = variant_command(killed, "plain", "--resume")
    fewer = tmp_path / "data"
    (fewer / "annotations").mkdir(parents=True)
    (fewer / "train2017").symlink_to(few_scenes_folder / "train2017")
    content = json.loads((few_scenes_folder / "annotations" / "instances_train2017.json").read_text())
    known = next(raw for raw in content["annotations"] if raw["category_id"] == 1)
    content["annotations"].remove(known)
    (fewer / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    assert main([*arguments[:2], str(fewer), *arguments[3:]]) == 2
    assert "instances" in capsys.readouterr().err
    assert main([arguments[0], str(padding_folder), *arguments[2:]]) == 2
    assert "detector" in capsys.readouterr().err


def test_what_does_not_decide_the_weights_may_change(variant_command, killed, undisturbed):
    more = ["--workers", "1", "--log-every", "4", "--checkpoint-every", "2"]
    assert main(variant_command(killed, "plain", "--resume", *more)) == 0
    assert (killed / WEIGHTS_FILE).read_bytes() == (undisturbed("plain") / WEIGHTS_FILE).read_bytes()
    assert [line["step"] for line in read_metrics(killed)] == [1, 2, 3, 4, 7]


def test_a_finished_run_is_only_loaded(variant_command, undisturbed, capsys, monkeypatch):
    before = contents(undisturbed("plain"))
    monkeypatch.setattr(records, "measure", None)  # calling it would fail
    assert main(variant_command(undisturbed("plain"), "plain", "--resume")) == 0
    shown = capsys.readouterr()
    assert "finished" in shown.err
    assert "box" in shown.out  # the table of its last evaluation
    assert contents(undisturbed("plain")) == before
    assert main(variant_command(undisturbed("plain"), "plain", "--resume", "--iterations", "9")) == 2
    assert "iterations" in capsys.readouterr().err


def test_a_finished_run_resumed_in_python_has_its_weights(undisturbed, few_scenes_folder, tiny_network, squashing):
    saved = json.loads((undisturbed("plain") / TRAINING_FILE).read_text())
    trained = MaskFrozenDetr.build(squashing, tiny_network)
    config = training.TrainConfig(
        iterations=STEPS,
        checkpoint_every=3,
        log_every=1,
        min_box_iou=0,
        lr=saved["lr"],
        precision=saved["precision"],
        workers=0,
    )
    train_data, val_data = (load_split(few_scenes_folder, split) for split in ("train", "val"))
    found = training.train(trained, train_data, val_data, undisturbed("plain"), config, resume=True, quiet=True)
    assert found is not None
    written = json.loads((undisturbed("plain") / f"evaluation-{STEPS}.json").read_text())
    assert {"step": STEPS, **found.as_dict()} == written
    expected = MaskFrozenDetr.from_pretrained(undisturbed("plain"), squashing).network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in trained.network.state_dict().items())


@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_a_fresh_start_destroys_nothing(state, variant_command, undisturbed, killed, capsys):
    output = undisturbed("plain") if state == "finished" else killed
    before = contents(output)
    assert main(variant_command(output)) == 2
    message = capsys.readouterr().err
    for word in (str(output), state, "--resume", "--overwrite", "--output"):
        assert word in message
    assert contents(output) == before


def test_overwrite_starts_anew(variant_command, killed, undisturbed, capsys):
    arguments = variant_command(killed, "plain", "--overwrite")
    assert main([*arguments, "--resume"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    (killed / METRICS_FILE).write_text("of the old run\n")
    assert main(arguments) == 0
    check_same_outcome(killed, undisturbed("plain"))


def test_an_overwrite_that_is_killed_never_mixes_runs(variant_command, killed, undisturbed):
    """The new run has other options: were it to go on from the old checkpoint, --resume would say so."""
    kill(variant_command(killed, "a loader process", "--overwrite"), "before the first checkpoint")
    assert main(variant_command(killed, "a loader process", "--resume")) == 0
    check_same_outcome(killed, undisturbed("a loader process"))


def test_resume_without_a_run_says_so(variant_command, tmp_path, capsys):
    for output in (tmp_path / "none", tmp_path):
        assert main(variant_command(output, "plain", "--resume")) == 2
        assert f"{output}: found no run to go on with; without --resume it is started" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- checkpoints that are none ---


class Runs:
    """Unpickling it would create a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["noise", "empty", "cut short", "code", "another dictionary", "a tensor"])
def test_bad_checkpoints_are_refused(kind, variant_command, killed, capsys, tmp_path):
    path, ran = killed / CHECKPOINT_FILE, tmp_path / "ran"
    if kind == "noise":
        path.write_bytes(b"not a checkpoint at all")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut short":
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "code":
        torch.save({"step": 1, "network": Runs(ran)}, path)
    else:
        torch.save({"model": torch.zeros(1)} if kind == "another dictionary" else torch.zeros(1), path)
    before = contents(killed)
    assert main(variant_command(killed, "plain", "--resume")) == 2
    assert str(path) in capsys.readouterr().err
    assert not ran.exists()
    assert contents(killed) == before


def test_the_folder_says_what_made_it(undisturbed, squashing_folder):
    names = {path.name for path in undisturbed("plain").iterdir()}
    evaluation = {f"evaluation-{STEPS}.json", f"evaluation-{STEPS}.jpg"}
    model = {CONFIG_FILE, WEIGHTS_FILE, *TRANSFORMERS_FILES}
    assert names == {*model, TRAINING_FILE, METRICS_FILE, "best", *evaluation}
    saved = json.loads((undisturbed("plain") / CONFIG_FILE).read_text())
    assert saved["detector"]["name"] == str(squashing_folder)
    resolved = json.loads((undisturbed("plain") / TRAINING_FILE).read_text())
    assert resolved["iterations"] == resolved["steps"] == STEPS
    assert resolved["augment"]["flip"] is True
    assert [line["step"] for line in read_metrics(undisturbed("plain"))] == list(range(1, STEPS + 1))
