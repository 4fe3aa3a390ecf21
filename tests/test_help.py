"""Help: quick, for people, and complete."""

import re
import subprocess
import sys

import pytest

from mask_frozen_detr.cli import main
from mask_frozen_detr.cli.run import COMMANDS

BOX = "│|"  # borders, with and without a terminal that shows lines


def options_of(text: str) -> list[str]:
    """Each option with its words, which may begin on the next line."""
    options: list[str] = []
    for line in text.splitlines():
        inside = line.strip()
        if not inside or inside[0] not in BOX:
            continue
        inside = inside.strip(BOX)
        if re.match(r" (--?[a-z]|[A-Z]{3,}( [A-Z…]+)*(\s{2,}|$)|\{)", inside):
            options.append(inside.strip())
        elif inside.startswith("     ") and options:
            options[-1] += "  " + inside.strip()
    return options


def help_of(command: str, capfd, monkeypatch) -> str:
    monkeypatch.setenv("COLUMNS", "400")  # an option and its text on one line
    assert main([command, "--help"]) == 0
    return capfd.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_lacks_a_word_on_what_it_does(command, capfd, monkeypatch):
    options = options_of(help_of(command, capfd, monkeypatch))
    assert options
    for option in options:
        words = re.split(r"\s{2,}", option, maxsplit=1)[1]
        words = re.sub(r"\((default|required|sets).*\)$", "", words)
        assert len(words.split()) >= 3, option


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_for_people(command, capfd, monkeypatch):
    text = help_of(command, capfd, monkeypatch)
    for words in ("Raises", "dataclass", "UserError", "ValueError", "`run`"):
        assert words not in text


@pytest.mark.parametrize("words", ["predict RUN --output out", "benchmark RUN", "compare", "inspect"])
def test_what_help_calls_required_is(words, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    assert capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_loads_nothing_heavy():
    """What makes commands start slowly is imported when they run."""
    heavy = ("torch", "transformers", "accelerate", "scipy", "matplotlib", "supervision", "PIL")
    code = (
        "import sys; from mask_frozen_detr.cli import main; code = main(['train', '--help']); "
        f"loaded = [name for name in {heavy} if name in sys.modules]; sys.exit(code or ', '.join(loaded) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--output" in done.stdout
