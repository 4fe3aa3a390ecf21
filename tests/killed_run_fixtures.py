"""Trainings in several variants that are not killed, each made once; for the `pytest_plugins` of a test file."""

from collections.abc import Callable
from pathlib import Path

import pytest
from killed_runs import NETWORK, TRAINING, VARIANTS

from mask_frozen_detr.cli import main


@pytest.fixture(scope="session")
def variant_command(squashing_folder, few_scenes_folder) -> Callable[..., list[str]]:
    """The command line of a run: `variant_command(output, variant, *more)`."""

    def build(output: Path, variant: str = "plain", *more: str) -> list[str]:
        start = ["train", str(squashing_folder), str(few_scenes_folder), "--output", str(output)]
        return [*start, *f"{NETWORK} {TRAINING} {VARIANTS[variant]}".split(), *more]

    return build


@pytest.fixture(scope="session")
def undisturbed(variant_command, tmp_path_factory) -> Callable[[str], Path]:
    """The run folder of a variant's run that nobody killed."""
    runs: dict[str, Path] = {}

    def run(variant: str) -> Path:
        if variant not in runs:
            output = tmp_path_factory.mktemp("undisturbed") / "run"
            assert main(variant_command(output, variant)) == 0
            runs[variant] = output
        return runs[variant]

    return run
