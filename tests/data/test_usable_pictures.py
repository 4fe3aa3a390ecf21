"""One bad picture of several is one line; all bad ones are an error."""

from pathlib import Path

import pytest
from PIL import Image

from mask_frozen_detr import UserError
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.data.usable_pictures import usable_pictures


def width_of_small(path: Path) -> int:
    width = read_image(path).width
    if width > 100:
        raise MemoryError
    return width


def test_bad_pictures_are_named(tmp_path: Path):
    for name, width in (("good.png", 8), ("large.png", 200)):
        Image.new("RGB", (width, 8)).save(tmp_path / name)
    (tmp_path / "text.jpg").write_text("404")
    (tmp_path / "folder.png").mkdir()
    paths = [tmp_path / name for name in ("text.jpg", "good.png", "folder.png", "large.png", "gone.png")]
    usable, problems = usable_pictures(paths, width_of_small, "benchmark")
    assert usable == [8]
    assert [next(path.name for path in paths if str(path) in problem) for problem in problems] == [
        "text.jpg",
        "folder.png",
        "large.png",
        "gone.png",
    ]
    assert problems[2].endswith("large.png: not enough memory")
    with pytest.raises(UserError, match=r"^benchmark: none of 1 pictures can be used, the first: .*text\.jpg: is not"):
        usable_pictures(paths[:1], width_of_small, "benchmark")
    assert usable_pictures([], width_of_small, "benchmark") == ([], [])
