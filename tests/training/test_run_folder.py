"""A run folder belongs to one run: nothing else is removed, and no other works there."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import contents
from nursery import NURSERY
from run_folders import edit, stop_in_step, stopped, wait_for_lines

from mask_frozen_detr.cli import main
from mask_frozen_detr.model import CONFIG_FILE, WEIGHTS_FILE
from mask_frozen_detr.run.transformers_names import TRANSFORMERS_FILES
from mask_frozen_detr.training import step
from mask_frozen_detr.training.run_folder import CHECKPOINT_FILE, METRICS_FILE, TRAINING_FILE

pytest_plugins = ["run_folder_fixtures"]

# --- one run at a time ---


@pytest.mark.parametrize("more", [["--resume"], pytest.param(["--overwrite"], marks=pytest.mark.slow)])
def test_a_second_run_is_refused_while_the_first_lives(more, four_steps, tmp_path, refused):
    output = tmp_path / "run"
    child = NURSERY.Process(target=stopped, args=(four_steps(output), stop_in_step, 3, signal.SIGINT, True))
    child.start()
    try:
        wait_for_lines(output, 2)
        while not (output / CHECKPOINT_FILE).exists():  # of the second step, the last thing before the third
            time.sleep(0.02)
        before = contents(output)
        assert f"{output}: another run or `predict` is working in it" in refused(*four_steps(output, *more))
        assert contents(output) == before
    finally:
        child.kill()
        child.join()
    assert main(four_steps(output, *more)) == 0, "a dead run holds nothing"


def in_third_step(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    original = step.step_losses
    seen: list[None] = []

    def losses(*parts, **options):
        seen.append(None)
        if len(seen) == 3:
            happen()
        return original(*parts, **options)

    monkeypatch.setattr(step, "step_losses", losses)


def test_a_folder_that_is_removed_during_the_run_is_an_error(four_steps, tmp_path, refused, monkeypatch):
    output = tmp_path / "run"
    in_third_step(monkeypatch, lambda: shutil.rmtree(output))
    assert f"{output}: the folder was removed, moved or replaced" in refused(*four_steps(output))


# --- what is not the run's stays ---

FOREIGN = ["detector/model.safetensors", "tensorboard/events.out.tfevents.1", "evaluation-3.json", ".notes.part.txt"]


def plant(folder: Path, names: list[str]) -> dict[str, bytes]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("of the user")
    return dict.fromkeys(names, b"of the user")


@pytest.mark.parametrize("name", [*FOREIGN, METRICS_FILE, WEIGHTS_FILE, "notes.txt"])
@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--resume"]])
def test_no_run_starts_in_a_folder_of_others(name, more, four_steps, tmp_path, refused):
    mine = plant(tmp_path, [name])
    message = refused(*four_steps(tmp_path, *more))
    assert str(tmp_path) in message
    assert name.split("/")[0] in message
    assert contents(tmp_path) == mine


@pytest.mark.parametrize("name", [CHECKPOINT_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("more", ["--overwrite", "--resume"])
def test_links_of_the_user_are_not_the_runs(name, more, finished, four_steps, refused, tmp_path):
    (finished / name).unlink(missing_ok=True)
    (finished / name).symlink_to(tmp_path / "elsewhere")
    assert f"{finished / name}: is a link, which no run writes" in refused(*four_steps(finished, more))
    assert (finished / name).is_symlink()


def test_a_run_that_was_stopped_owns_no_more_than_it_wrote(four_steps, tmp_path, refused, monkeypatch):
    output = tmp_path / "run"
    in_third_step(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
    assert main(four_steps(output)) == 143
    mine = plant(output, [WEIGHTS_FILE])
    for more in ("--overwrite", "--resume"):
        assert f"{output / WEIGHTS_FILE}: no run wrote it" in refused(*four_steps(output, more))
        assert mine.items() <= contents(output).items()


@pytest.mark.parametrize(
    "name",
    [WEIGHTS_FILE, *(pytest.param(name, marks=pytest.mark.slow) for name in ("evaluation-4.json", "best/config.json"))],
)
def test_a_file_that_the_user_puts_there_during_the_run_stays(name, four_steps, tmp_path, refused, monkeypatch):
    output = tmp_path / "run"
    in_third_step(monkeypatch, lambda: plant(output, [name]))
    assert f"{output / name}: was put there while the run went on" in refused(*four_steps(output))
    assert contents(output)[name] == b"of the user"
    (output / name).unlink()
    assert main(four_steps(output, "--resume")) == 0


def test_a_picture_of_the_user_where_the_demo_puts_its_own(refused, tmp_path):
    plant(tmp_path, ["masks.png"])
    assert "masks.png: no demo wrote it" in refused("demo", "--output", tmp_path)
    assert contents(tmp_path) == {"masks.png": b"of the user"}


def test_overwrite_removes_what_the_run_wrote_and_nothing_else(finished, four_steps):
    mine = plant(finished, FOREIGN)
    theirs = set(contents(finished)) - set(mine)
    assert main(four_steps(finished, "--overwrite", "--iterations", "2", "--seed", "1")) == 0
    left = contents(finished)
    assert mine.items() <= left.items()
    assert {name for name in theirs if name.startswith("tensorboard/")}.isdisjoint(left)
    assert "evaluation-4.json" not in left
    assert json.loads(left[TRAINING_FILE])["seed"] == 1


@pytest.mark.parametrize("name", ["evaluation-2.json", "evaluation-2.jpg", "detector/config.json"])
def test_overwrite_that_would_replace_a_users_file_is_refused(name, finished, four_steps, refused):
    plant(finished, [name])
    before = contents(finished)
    more = ["--overwrite", "--iterations", "2", "--finetune", "full"]
    assert f"{finished / name.split('/')[0]}: no run wrote it" in refused(*four_steps(finished, *more))
    assert contents(finished) == before


def test_a_folder_of_an_older_version_is_known_by_its_names(finished, four_steps, finished_once, capsys):
    """It has no list of files, no checksums, no digests, nothing for transformers, no best weights, no pictures."""
    shutil.rmtree(finished / "best")
    for picture in finished.glob("evaluation-*.jpg"):
        picture.unlink()
    for name in TRANSFORMERS_FILES:
        (finished / name).unlink()
    training = json.loads((finished / TRAINING_FILE).read_text())
    for key in ("files", "checksum", "run", "class_names", "preprocessing", "network"):
        del training[key]
    for key in ("annotations", "pictures"):
        del training["data"][key]
    (finished / TRAINING_FILE).write_text(json.dumps(training))
    edit(finished / CONFIG_FILE, lambda config: config.pop("checksums"))
    mine = plant(finished, ["detector/config.json", "notes.txt"])
    assert main(four_steps(finished, "--resume")) == 0
    assert "finished" in capsys.readouterr().err
    assert main(four_steps(finished, "--overwrite")) == 0
    left = contents(finished)
    assert mine.items() <= left.items()
    assert left[WEIGHTS_FILE] == (finished_once / WEIGHTS_FILE).read_bytes()
    assert len([name for name in left if name.startswith("tensorboard/")]) == 1


@pytest.mark.parametrize("place", ["detector", "data", "annotations", "pictures", "cache", "within the cache"])
def test_output_into_what_is_read_is_refused(place, detector_copy, scenes_copy, four_steps, tmp_path, refused):
    cache = tmp_path / "cache"
    output = {
        "detector": detector_copy,
        "data": scenes_copy,
        "annotations": scenes_copy / "annotations",
        "pictures": scenes_copy / "train2017",
        "cache": cache,
        "within the cache": cache / "run",
    }[place]
    before = contents(detector_copy), contents(scenes_copy)
    for more in ([], ["--overwrite"]):
        assert str(output) in refused(*four_steps(output, "--cache", str(cache), *more))
    assert (contents(detector_copy), contents(scenes_copy)) == before
    assert not cache.exists()
