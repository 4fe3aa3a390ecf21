"""Ctrl-C while the package is imported, before any line of the command line runs."""

import subprocess
import sys
from pathlib import Path

import pytest

import mask_frozen_detr_command
from mask_frozen_detr.cli import main

BESIDE = str(Path(mask_frozen_detr_command.__file__).parent)


def test_interrupted_while_the_package_is_imported(tmp_path):
    package = tmp_path / "mask_frozen_detr"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(10**9): pass"
    )
    path = f"import sys; sys.path[:0] = {[str(tmp_path), BESIDE]!r}"
    code = f"{path}; import mask_frozen_detr_command as command; sys.exit(command.main())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "mask-frozen-detr: interrupted\n")


def test_interruptions_that_others_wrap(monkeypatch, capfd):
    """As Python 3.11 does amid the definition of a class; other errors stay what they are."""

    class Interrupted:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    def define(_arguments: list[str]) -> int:
        type("Train", (), {"batch": Interrupted()})
        return 0

    def fail(_arguments: list[str]) -> int:
        raise RuntimeError("of our own")

    monkeypatch.setattr("mask_frozen_detr.cli.run.run_command", define)
    assert main(["recipes"]) == 130
    assert capfd.readouterr().err == "mask-frozen-detr: interrupted\n"
    monkeypatch.setattr("mask_frozen_detr.cli.run.run_command", fail)
    with pytest.raises(RuntimeError, match="of our own"):
        main(["recipes"])
