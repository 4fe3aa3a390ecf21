"""Files appear whole or not at all, and a failure says which file and why."""

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine import files
from mask_frozen_detr.machine.files import (
    save_image_atomic,
    save_torch_atomic,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow over 1,000 bytes: writing fails as on a full disk. Over before pytest writes its report."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_writes_into_a_new_folder(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    write_text_atomic(path, "Grüße\n")
    assert path.read_text(encoding="utf-8") == "Grüße\n"
    write_text_atomic(str(path), "again")
    assert path.read_text() == "again"
    assert list(path.parent.iterdir()) == [path]


def test_the_place_is_taken_only_when_all_is_written(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    seen: list[tuple[bytes, bytes, str]] = []
    path.write_bytes(b"old")
    flush = os.fsync

    def look(descriptor: int) -> None:
        if not seen:
            (temporary,) = set(tmp_path.iterdir()) - {path}
            seen.append((path.read_bytes(), temporary.read_bytes(), temporary.suffix))
        flush(descriptor)

    monkeypatch.setattr(files.os, "fsync", look)
    write_bytes_atomic(path, b"new")
    assert seen == [(b"old", b"new", ".safetensors")]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt], ids=["a bug", "Ctrl-C"])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / "state.bin"
    path.write_bytes(b"old")

    def stop(_descriptor: int) -> None:
        raise error("stop")

    monkeypatch.setattr(files.os, "fsync", stop)
    with pytest.raises(error, match="stop"):
        write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_replaced_never_followed(tmp_path, monkeypatch):
    """Also one that somebody plants where the temporary file will be."""
    precious = tmp_path / "precious"
    precious.write_text("of the user")
    path = tmp_path / "out.txt"
    path.symlink_to(precious)
    write_text_atomic(path, "x")
    assert (path.is_symlink(), path.read_text()) == (False, "x")
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 2 * count)
    planted = tmp_path / f".out.{'0' * 16}.part.txt"
    planted.symlink_to(precious)
    with pytest.raises(UserError, match=r"out\.txt: cannot be written: File exists"):
        write_text_atomic(path, "y")
    assert planted.is_symlink()
    assert precious.read_text() == "of the user"


def test_temporary_names_cannot_be_guessed(tmp_path, monkeypatch):
    names = set()
    replace = os.replace

    def note(source: Path, target: Path) -> None:
        names.add(source)
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", note)
    for _ in range(20):
        write_text_atomic(tmp_path / "a.txt", "x")
    assert len(names) == 20


def test_only_unfinished_files_of_ones_own_are_swept(tmp_path):
    own = [f".state.{'0a' * 8}.part.pt", f".detector.{'1b' * 8}.part"]
    others = [
        ".state.part.pt",
        ".state.12.part.pt",
        f".film.{'0a' * 8}.part.mkv",
        f"state.{'0a' * 8}.part.pt",
        "a.part",
    ]
    for name in [*own, *others]:
        (tmp_path / name).write_text("x")
    files.sweep(tmp_path, {"state.pt", "detector"}.__contains__, age=100.0)
    assert len(list(tmp_path.iterdir())) == len(own) + len(others), "somebody may be writing them"
    files.sweep(tmp_path, {"state.pt", "detector"}.__contains__)
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def writers(path: Path) -> dict:
    tensors = {"a": torch.zeros(4000)}
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    return {
        "bytes": lambda: write_bytes_atomic(path, b"x" * 5000),
        "text": lambda: write_text_atomic(path, "x" * 5000),
        "json": lambda: write_json_atomic(path, ["x" * 5000]),
        "picture": lambda: save_image_atomic(noise, path),
        "torch": lambda: save_torch_atomic(path, tensors),
    }


@pytest.mark.parametrize("kind", list(writers(Path())))
def test_a_full_disk_is_a_clear_error(tmp_path, kind):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    write = writers(path)[kind]
    with pytest.raises(UserError, match=r"out\.png: cannot be written: .*File too large"), full_disk():
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", list(writers(Path())))
def test_each_writer_writes(tmp_path, kind):
    path = tmp_path / "out.png"
    writers(path)[kind]()
    assert path.stat().st_size > 1000
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode  # not private, as temporary files often are


def test_no_permission_is_a_clear_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"out\.txt: cannot be written: Permission denied"):
        write_text_atomic(tmp_path / "out.txt", "x")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"file/out\.txt: cannot be written: (Not a directory|File exists)"):
        write_text_atomic(tmp_path / "file" / "out.txt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder: is a folder, expected a regular file"):
        write_text_atomic(tmp_path / "folder", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_json_takes_numpy_and_paths(tmp_path):
    data = {"ap": np.float32(0.5), "n": np.int64(3), "boxes": np.eye(2), "at": Path("a/b"), "name": "tüv"}
    write_json_atomic(tmp_path / "a.json", data)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "ap": 0.5,
        "n": 3,
        "boxes": [[1.0, 0.0], [0.0, 1.0]],
        "at": "a/b",
        "name": "tüv",
    }
    with pytest.raises(TypeError, match="found set"):
        write_json_atomic(tmp_path / "a.json", {"a": {1}})
    assert json.loads((tmp_path / "a.json").read_text())["n"] == 3


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP")]
)
def test_pictures_by_suffix(tmp_path, name, kind):
    save_image_atomic(Image.new("RGBA", (9, 7), (200, 30, 30, 255)), tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        assert (picture.format, picture.size) == (kind, (9, 7))
        assert np.asarray(picture.convert("RGB"))[3, 4, 0] > 190


def test_a_picture_of_unknown_type_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"found picture type '\.xyz', expected one of \.png"):
        save_image_atomic(Image.new("RGB", (2, 2)), tmp_path / "a.xyz")


def test_torch_state_comes_back(tmp_path):
    save_torch_atomic(tmp_path / "a.pt", {"step": 3, "w": torch.arange(4)})
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    assert state["step"] == 3
    assert state["w"].tolist() == [0, 1, 2, 3]


def test_an_older_folder_outlives_a_failed_swap(tmp_path, monkeypatch):
    folder = tmp_path / "detector"

    def fill(text: str) -> Callable[[Path], None]:
        def write(part: Path) -> None:
            (part / "a").write_text(text)

        return write

    files.write_folder_atomic(folder, fill("old"))
    replace, seen = os.replace, []

    def fail_for_the_new(source, target):
        seen.append(source)
        if len(seen) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fail_for_the_new)
    with pytest.raises(UserError, match="detector: cannot be written: No space left"):
        files.write_folder_atomic(folder, fill("new"))
    assert (folder / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["detector"]


def test_half_letters_are_written_as_escapes(tmp_path):
    """JSON may hold them, UTF-8 may not."""
    write_json_atomic(tmp_path / "a.json", {"name": "caf\u00e9 \ud800"})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"name": "caf\u00e9 \ud800"}
