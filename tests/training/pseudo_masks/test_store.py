"""Which objects have pseudo-masks, and that no file is ever taken for another's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mask_frozen_detr import UserError
from mask_frozen_detr.data.coco import CocoData, ImageRecord
from mask_frozen_detr.training.box_masks import MASK_SIDE
from mask_frozen_detr.training.config import MasksFrom
from mask_frozen_detr.training.pseudo_masks.draw import draw_missing, missing_of
from mask_frozen_detr.training.pseudo_masks.store import PseudoMasks, count_masks


def store(folder: Path, masks_from: MasksFrom = "boxes") -> PseudoMasks:
    return PseudoMasks(masks_from, folder / "first", folder / "own")


@pytest.fixture
def record(scenes: tuple[CocoData, CocoData]) -> ImageRecord:
    """A scene of three objects, the first a crowd, the second without a mask."""
    first = scenes[0].images[0]
    crowd, bare, drawn = first.annotations[:3]
    return replace(first, annotations=(replace(crowd, iscrowd=True), replace(bare, segmentation=None), drawn))


def masks_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, MASK_SIDE, MASK_SIDE), np.uint8)


@pytest.mark.parametrize(
    ("masks_from", "drawn", "counts"),
    [
        ("annotations", [], (1, 0, 0)),
        ("boxes", [1, 2], (0, 2, 1)),
        ("boxes-where-missing", [1], (1, 1, 0)),
    ],
)
def test_which_objects(masks_from, drawn, counts, record, tmp_path):
    assert store(tmp_path, masks_from).objects(record) == [record.annotations[index] for index in drawn]
    assert count_masks(masks_from, [record]) == counts


def test_what_is_written_is_read(record, tmp_path):
    masks = masks_of(2)
    store(tmp_path).write(record, masks)
    assert np.array_equal(store(tmp_path).read(record), masks)
    assert not missing_of(store(tmp_path), [record])


def test_whatever_changes_has_masks_of_its_own(record, tmp_path):
    other = record.annotations[2]
    moved = replace(record, annotations=(*record.annotations[:2], replace(other, bbox=(1.0, 2.0, 30.0, 40.0))))
    picture = tmp_path / "other.jpg"
    picture.write_bytes(record.path.read_bytes() + b"\0")
    later = store(tmp_path)
    later.round = 2
    paths = [store(tmp_path).path(one) for one in (record, moved, replace(record, path=picture))]
    paths += [store(tmp_path, "boxes-where-missing").path(record), later.path(record)]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 torn", "short", "wrong"])
def test_damaged_files_are_named(content, record, tmp_path):
    masks = store(tmp_path)
    masks.write(record, masks_of(1) if content == "wrong" else masks_of(2))
    path = masks.path(record)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "short":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=path.name):
        masks.read(record)


def test_pictures_that_cannot_be_read_are_left_to_training(record, tmp_path):
    gone = replace(record, path=tmp_path / "gone.jpg")
    torn = replace(record, path=tmp_path / "torn.jpg")
    torn.path.write_bytes(record.path.read_bytes()[:200])
    masks = store(tmp_path)
    draw_missing(masks, [gone, record, torn], workers=0, quiet=True)
    assert [one.path for one in missing_of(masks, [gone, record, torn])] == [torn.path]
