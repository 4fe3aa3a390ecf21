"""Pictures that an evaluation draws, and the gallery of a report: one that cannot be drawn costs no other."""

from pathlib import Path

import pytest

from mask_frozen_detr import MaskFrozenDetr
from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.evaluation import Measured, measure
from mask_frozen_detr.report.gallery import make_examples
from mask_frozen_detr.report.matches import find_errors
from mask_frozen_detr.training.val_pictures import draw_val_pictures


@pytest.fixture(scope="module")
def measured(squashing, tiny_network, scenes) -> Measured:
    return measure(MaskFrozenDetr.build(squashing, tiny_network), scenes[1])


@pytest.fixture
def victim(measured, monkeypatch) -> Path:
    """The first val picture, which now takes more memory than there is."""
    found = measured.images[0].path

    def lack(record, orientation):
        if record.path == found:
            raise MemoryError
        return open_picture(record, orientation)

    for room in ("report.gallery", "training.val_pictures"):
        monkeypatch.setattr(f"mask_frozen_detr.{room}.open_picture", lack)
    return found


def test_val_pictures(measured, victim, monkeypatch):
    walls = []
    monkeypatch.setattr("mask_frozen_detr.training.val_pictures.draw_wall", lambda pairs, _titles: walls.append(pairs))
    draw_val_pictures(measured, seed=0)
    assert len(walls[0]) == len(measured.images) - 1


def test_the_gallery(measured, victim):
    shown = {example.finding.record.path for example in make_examples(find_errors(measured))}
    assert shown == {record.path for record in measured.images} - {victim}
