"""The project's own promises: dependencies, extras, targets and the README's Python."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from mask_frozen_detr.cli import main
from mask_frozen_detr.model import WEIGHTS_FILE

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "av",
    "gradio",
    "hotcoco",
    "matplotlib",
    "mkdocs-material",
    "mkdocstrings-python",
    "msgspec",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "plotly",
    "supervision",
    "tensorboard",
    "trackers",
}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", one)[0].lower() for one in requirements}


def test_what_the_main_job_does_not_need_is_an_extra():
    assert not names(PROJECT["dependencies"]) & EXTRAS
    optional = PROJECT["optional-dependencies"]
    assert names([one for name, extra in optional.items() if name not in ("all", "dev") for one in extra]) == EXTRAS


def test_the_main_job_loads_without_the_extras():
    """In a process where importing any of them fails, as where they are not installed."""
    program = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(EXTRAS)!r}))
import mask_frozen_detr.training.loop, mask_frozen_detr.prediction.files, mask_frozen_detr.paper.reproduce
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_reproduce_without_matplotlib_names_its_extra(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr("mask_frozen_detr.paper.reproduce.find_spec", lambda name: None)
    output = tmp_path / "tables"
    assert main(["reproduce", "table5", str(tmp_path), str(tmp_path), "--output", str(output)]) == 2
    assert "pip install 'mask-frozen-detr[reproduce]'" in capfd.readouterr().err
    assert not output.exists()


def test_each_requirement_says_its_lowest_version():
    extras = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
    ours = [one for one in [*PROJECT["dependencies"], *extras] if not one.startswith("mask-frozen-detr")]
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", one) for one in ours)
    assert "--resolution lowest-direct" in targets("test-lowest")


def targets(name: str) -> str:
    """What make would run, without running it."""
    command = ["make", "--dry-run", "INSTALLED=", name]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_clean_keeps_what_a_user_may_have_put_there():
    removed = targets("clean").split()
    assert ".venv" in removed
    assert not any("runs" in one or "demo-output" in one for one in removed)


def test_a_check_changes_nothing_and_looks_at_format_lint_and_types():
    commands = targets("check")
    for command in ("ruff format --check", "ruff check", "mypy"):
        assert command in commands
    assert "--fix" not in commands
    assert "make check" in (ROOT / ".ci" / "run").read_text()


def test_the_readme_trains_from_python(squashing_folder, scenes_folder, tmp_path, monkeypatch, capfd):
    """Its very lines, with the tests' detector and scenes, for two steps."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (program,) = [block for block in blocks if "train(" in block]
    for words, tiny in (
        ('"DETECTOR"', repr(str(squashing_folder))),
        ('"DATA"', repr(str(scenes_folder))),
        ("training)\n", "replace(training, iterations=2, workers=0, min_box_iou=0))\n"),
    ):
        assert words in program
        program = program.replace(words, tiny)
    program = f"from dataclasses import replace\n{program}"
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec"), {})
    assert "AP50" in capfd.readouterr().out
    assert (tmp_path / "runs" / "mine" / WEIGHTS_FILE).exists()


def test_what_took_the_place_of_older_imports_can_be_imported():
    """Modules, and what the package and its rooms export."""
    table = (ROOT / "CHANGELOG.md").read_text().partition("| before | now |")[2]
    places = re.findall(r"`(mask_frozen_detr[\w.]+)`", "\n".join(row.split("|")[2] for row in table.splitlines()[2:]))
    assert len(places) > 30
    for place in places:
        module, _, name = place.rpartition(".")
        assert hasattr(importlib.import_module(module), name) or importlib.util.find_spec(place), place
