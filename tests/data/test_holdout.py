"""A val split from data without one."""

from dataclasses import replace

import pytest

from mask_frozen_detr import UserError, load_data
from mask_frozen_detr.data.coco import Annotation, CocoData
from mask_frozen_detr.data.holdout import hold_out
from mask_frozen_detr.data.load import load_split

SQUARE = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]


def data_of(scenes: tuple[CocoData, CocoData], *classes: list[int]) -> CocoData:
    """An image for each list, with an object of each class in it."""
    images = [
        replace(
            scenes[0].images[0],
            id=number,
            annotations=tuple(Annotation(1, c, (1, 1, 8, 8), SQUARE, False, 32) for c in found),
        )
        for number, found in enumerate(classes, 1)
    ]
    return replace(scenes[0], images=images)


def test_every_class_is_spread(scenes):
    """100 images of a common class; a rare one in 10 and another in 5 of them: a fifth of each is held out."""
    data = data_of(scenes, *[[1, 2]] * 10, *[[1, 3]] * 5, *[[1]] * 75, *[[]] * 10)
    train, val = hold_out(data, 0.2)
    assert len(val.images) == 20
    assert sorted(r.id for r in [*train.images, *val.images]) == list(range(1, 101))
    found = [a.category_id for r in val.images for a in r.annotations]
    assert (found.count(2), found.count(3)) == (2, 1)
    assert found.count(1) == 18
    assert [r.id for r in hold_out(data, 0.2)[1].images] == [r.id for r in val.images], "the same at every call"


@pytest.mark.parametrize(("images", "fraction", "held"), [(2, 0.01, 1), (3, 0.99, 2), (10, 0.25, 2)])
def test_both_have_an_image(images, fraction, held, scenes):
    train, val = hold_out(data_of(scenes, *[[1]] * images), fraction)
    assert (len(train.images), len(val.images)) == (images - held, held)


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 10, float("nan")])
def test_bad_fractions(fraction, scenes):
    with pytest.raises(UserError, match=r"val_fraction: found .*, expected a number, above 0, below 1"):
        hold_out(scenes[0], fraction)


def test_in_load_data(scenes_folder):
    file = scenes_folder / "annotations" / "instances_train2017.json"
    data = load_data(file, val_fraction=0.3)
    assert data.val is not None
    assert (len(data.train.images), len(data.val.images)) == (7, 3)
    assert "3 of 10 images, held out from training" in data.summary()
    assert load_split(file, "val", val_fraction=0.3).images == data.val.images
    assert load_split(file, "val", run=data.train.held_out).images == data.val.images, "as a run keeps it"
    assert load_split(file, "train", run=data.train.held_out).images == data.train.images
    other = scenes_folder / "annotations" / "instances_val2017.json"
    assert len(load_split(other, "val", run=data.train.held_out).images) == 5, "other data is measured whole"
    with pytest.raises(UserError, match=r"val_fraction: found it, but .* has a val split"):
        load_data(scenes_folder, val_fraction=0.3)
    for options in ({"no_val": True}, {"val": other}):
        with pytest.raises(UserError, match="expected one of them"):
            load_data(file, val_fraction=0.3, **options)
    assert "--val-fraction 0.1" in load_data(file).summary()
