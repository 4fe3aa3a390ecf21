"""A run that is killed at any moment goes on, and ends with the weights of the run that never was; nothing is lost.

The killed runs are real processes that end by SIGKILL.
"""

import signal
import time

import pytest
from killed_runs import MOMENTS, VARIANTS, check_same_outcome, kill
from nursery import NURSERY, run_main

from mask_frozen_detr.cli import main
from mask_frozen_detr.model import CONFIG_FILE, WEIGHTS_FILE
from mask_frozen_detr.run.description import TRAINING_FILE
from mask_frozen_detr.training.run_folder import METRICS_FILE

pytest_plugins = ["killed_run_fixtures"]

SLOW = {  # each like another one, or tried by the campaign's kills
    "before a checkpoint takes its place",
    "with half a checkpoint written",  # this and the next in `test_killed_three_times`, too
    "in the last evaluation",
    "with half a line of metrics written",
    "in the write of that evaluation",
}


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(moment, marks=pytest.mark.slow if moment in SLOW else [])
        for moment in MOMENTS
        if not moment.startswith("before the first")
    ],
)
def test_killed_at_any_moment(moment, variant_command, undisturbed, tmp_path):
    kill(variant_command(tmp_path / "run"), moment)
    assert main(variant_command(tmp_path / "run", "plain", "--resume")) == 0
    check_same_outcome(tmp_path / "run", undisturbed("plain"))


def test_options_are_known_from_the_first_description(variant_command, undisturbed, tmp_path):
    """As a user goes on who gives no options again."""
    command = variant_command(tmp_path / "run")
    kill(command, "with one of two descriptions written")
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {TRAINING_FILE}
    assert not (tmp_path / "run" / CONFIG_FILE).exists()
    assert main([*command[: command.index("--preset")], "--resume", "--workers", "0"]) == 0
    check_same_outcome(tmp_path / "run", undisturbed("plain"))


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=[] if name == "a loader process" else pytest.mark.slow)
        for name in VARIANTS
        if name != "plain"
    ],
)
def test_killed_three_times(variant, variant_command, undisturbed, tmp_path):
    output = tmp_path / "run"
    kill(variant_command(output, variant), "with half a checkpoint written")
    kill(variant_command(output, variant, "--resume"), "before the first step")
    kill(variant_command(output, variant, "--resume"), "in the last evaluation")
    assert main(variant_command(output, variant, "--resume")) == 0
    check_same_outcome(output, undisturbed(variant))


@pytest.mark.parametrize(
    "moment", ["while masks are drawn", pytest.param("while masks are drawn anew", marks=pytest.mark.slow)]
)
def test_killed_while_masks_are_drawn(moment, variant_command, undisturbed, tmp_path):
    output = tmp_path / "run"
    kill(variant_command(output, "pseudo-masks"), moment)
    drawn = {path.name for path in output.glob("pseudo-masks/round-1/*.npz")}
    assert drawn, "nothing was drawn before"
    assert main(variant_command(output, "pseudo-masks", "--resume")) == 0
    check_same_outcome(output, undisturbed("pseudo-masks"))


@pytest.mark.slow
def test_variants_differ(undisturbed):
    """Or equal weights would show nothing."""
    weights = {(undisturbed(variant) / WEIGHTS_FILE).read_bytes() for variant in VARIANTS}
    assert len(weights) == len(VARIANTS)


def test_killed_from_outside(variant_command, undisturbed, tmp_path):
    output = tmp_path / "run"
    child = NURSERY.Process(target=run_main, args=(variant_command(output), {}))
    child.start()
    metrics = output / METRICS_FILE
    while child.is_alive() and not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
        time.sleep(0.005)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL, "the run ended before it could be killed"
    assert main(variant_command(output, "plain", "--resume")) == 0
    check_same_outcome(output, undisturbed("plain"))
