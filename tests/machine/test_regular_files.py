"""What is no regular file is neither read, waited for, nor replaced."""

import os
import socket
from pathlib import Path

import pytest

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.cli import main
from mask_frozen_detr.machine.files import write_text_atomic
from mask_frozen_detr.machine.regular_files import read_regular
from mask_frozen_detr.model import CONFIG_FILE, WEIGHTS_FILE
from mask_frozen_detr.results.evaluation_record import check_evaluation_file

PIPE = "is a pipe or a device"
WORDS = {
    "folder": "is a folder",
    "pipe": PIPE,
    "device": PIPE,
    "socket": PIPE,
    "loop": "leads back to itself",
    "lost": "is a link to nothing",
}


def put(path: Path, kind: str) -> Path:
    """Something at `path` that is no regular file."""
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            here = os.getcwd()
            os.chdir(path.parent)  # a socket's name is short
            one.bind(path.name)
            os.chdir(here)
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path.name, "lost": "nowhere"}[kind])
    return path


@pytest.mark.parametrize("kind", WORDS)
def test_neither_read_nor_replaced(kind, tmp_path):
    path = put(tmp_path / "a.json", kind)
    before = os.lstat(path)
    with pytest.raises(UserError, match=rf"a\.json: {WORDS[kind].replace('leads', '.*leads')}"):
        read_regular(path)
    with pytest.raises(UserError, match=WORDS[kind]):
        write_text_atomic(path, "text")
    with pytest.raises(UserError, match=WORDS[kind]):
        check_evaluation_file(path)
    assert os.lstat(path) == before
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_a_limit(tmp_path):
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # without content: no disk is that large
    with pytest.raises(UserError, match="large: found more than 1,000 bytes"):
        read_regular(path, 1000)
    path.write_bytes(b"x" * 1000)
    assert read_regular(path, 1000) == b"x" * 1000
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_regular(path)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_in_a_run_folder(name, kind, squashing, tiny_network, tmp_path):
    MaskFrozenDetr.build(squashing, tiny_network).save_pretrained(tmp_path)
    put(tmp_path / name, kind)
    with pytest.raises(UserError, match=f"{name}: is a pipe or a device|no {CONFIG_FILE} in it"):
        MaskFrozenDetr.from_pretrained(tmp_path, squashing)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "lost"])
def test_as_a_place_for_figures(kind, tmp_path, capsys):
    path = put(tmp_path / "figures.json", kind)
    assert main(["complexity", "--table", "9", "--json", str(path)]) == 2
    assert f"{path}: {WORDS[kind]}, expected the name of a file to write" in capsys.readouterr().err
