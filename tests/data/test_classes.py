"""Which class is which category."""

import json

import pytest

from mask_frozen_detr.data.classes import RunClasses, classes_of, map_classes
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.errors import UserError

NAMES = ["person", "traffic light", "tv", "teddy bear"]

ROWS = {
    "in another order, with gaps": (NAMES, {7: "tv", 3: "person"}, {7: 2, 3: 0}, "name"),
    "case, spaces, hyphens, underscores": (NAMES, {1: "Traffic-Light", 2: "TEDDY_bear "}, {1: 1, 2: 3}, "name"),
    "Pascal VOC's spellings": (["tvmonitor", "sofa"], {5: "couch", 6: "tv"}, {5: 1, 6: 0}, "name"),
    "names here and there are missing": (["", "person", "", "tv"], {1: "person", 3: "tv"}, {1: 1, 3: 3}, "name"),
    "an id is no reason where names fit": (["cat", "dog"], {0: "dog", 1: "cat"}, {0: 1, 1: 0}, "name"),
    "no names: ids": ([""] * 91, {1: "person", 90: "toothbrush"}, {1: 1, 90: 90}, "category id"),
    "no names, ids from 0": ([""] * 2, {0: "a", 1: "b"}, {0: 0, 1: 1}, "category id"),
    "no names, ids too large, as many": ([""] * 3, {10: "a", 5: "b", 90: "c"}, {5: 0, 10: 1, 90: 2}, "order"),
    "in another Unicode form": (
        ["cafe\u0301", "\uff34\uff36", "straße"],
        {1: "CAFÉ", 2: "tv", 3: "STRASSE"},
        {1: 0, 2: 1, 3: 2},
        "name",
    ),
    "the same spelling goes first": (["Cat", "cat"], {1: "cat", 2: "Cat"}, {1: 1, 2: 0}, "name"),
    "a name twice in the detector": (["cat", "cat"], {1: "cat"}, {1: 0}, "name"),
    "a name twice in the data": (["cat", "dog"], {1: "cat", 2: "Cat"}, {1: 0}, "name"),
}


@pytest.mark.parametrize(("names", "categories", "index_of", "by"), ROWS.values(), ids=ROWS.keys())
def test_matches(names, categories, index_of, by):
    found = map_classes(names, categories)
    assert found.index_of == index_of
    assert found.category_of == {index: category for category, index in index_of.items()}
    assert found.by == by
    assert f"{len(index_of)} classes of detector and data match by {by}" in found.summary()


def test_what_does_not_match_is_named():
    found = map_classes(NAMES, {1: "person", 2: "unicorn", 3: "gnome"})
    assert found.unmatched_categories == ["unicorn", "gnome"]
    assert found.unmatched_classes == ["traffic light", "tv", "teddy bear"]
    assert "unicorn, gnome" in found.summary()
    assert "traffic light, tv, teddy bear" in found.summary()


def test_a_second_category_of_a_name_is_named():
    assert map_classes(["cat"], {1: "cat", 2: "Cat"}).unmatched_categories == ["Cat"]


def test_long_lists_are_cut():
    found = map_classes(["person"], {0: "person", **{index: f"thing {index}" for index in range(1, 30)}})
    assert "thing 8 and 21 more" in found.summary()


@pytest.mark.parametrize(
    ("names", "categories", "expected"),
    [
        (["cat", "dog"], {0: "unicorn", 1: "gnome"}, ["unicorn, gnome", "cat, dog"]),  # as many, but named
        ([""] * 3, {5: "a", 6: "b"}, ["a, b", "3 unnamed classes"]),
        ([""] * 3, {-1: "a", 1: "b"}, ["a, b", "3 unnamed classes"]),
    ],
)
def test_nothing_in_common_is_an_error(names, categories, expected):
    with pytest.raises(UserError) as error:
        map_classes(names, categories)
    for words in expected:
        assert words in str(error.value)


def test_the_error_names_the_file(scenes_folder):
    with pytest.raises(UserError, match=r"instances_val2017\.json: no category of the data is a class of the detector"):
        classes_of(load_split(scenes_folder, "val"), ["cat"])


UNNAMED = [""] * 4


@pytest.mark.parametrize(
    ("names", "train", "val", "index_of"),
    [
        # The case that went wrong: train by order, val (only the classes that occur) by category id.
        (UNNAMED, {3: "cat", 5: "dog", 7: "cow", 9: "hen"}, {3: "cat", 1: "hen"}, {3: 0, 1: 3}),
        (UNNAMED, {0: "cat", 1: "dog"}, {7: "Dog", 8: "cat"}, {7: 1, 8: 0}),
        (UNNAMED, {0: "cat", 2: "dog"}, {0: "cat", 1: "hen"}, {0: 0, 1: 1}),  # a class that training never saw
        (["cat", "dog", "hen"], {1: "cat"}, {5: "hen", 6: "cat"}, {5: 2, 6: 0}),
        (UNNAMED, {0: "bouteille à café"}, {4: "Bouteille a\u0300 café"}, {4: 0}),
    ],
)
def test_one_map_for_all_files_of_a_run(names, train, val, index_of):
    run = map_classes(names, train).run
    stored = RunClasses.read(json.loads(json.dumps(run.describe())), len(names))
    assert stored == run
    assert map_classes(names, val, stored).index_of == index_of
    assert map_classes(names, train, stored).index_of == map_classes(names, train).index_of


@pytest.mark.parametrize(
    ("val", "message"),
    [
        ({0: "cat", 2: "auto"}, "category 2 is 'auto', but the run was trained with 'dog' as 2"),
        ({5: "unicorn"}, "no category of the data is a class of the run: found unicorn, expected some of cat, dog"),
    ],
)
def test_a_file_that_contradicts_the_run_is_an_error(val, message):
    run = map_classes(UNNAMED, {0: "cat", 2: "dog"}).run
    with pytest.raises(UserError, match=message):
        map_classes(UNNAMED, val, run)


@pytest.mark.parametrize(
    "damage",
    [{"by": "luck"}, {"index_of": {"cat": 9}}, {"index_of": {"cat": "0"}}, {"index_of": {"cat": 0, "dog": 0}}],
)
def test_damaged_classes_of_a_run_are_an_error(damage):
    saved = map_classes(UNNAMED, {0: "cat", 2: "dog"}).run.describe()
    with pytest.raises(ValueError, match="classes: "):
        RunClasses.read(saved | damage, 4)


def test_classes_without_a_name_are_called_as_in_training():
    assert map_classes(UNNAMED, {0: "cat", 2: "dog"}).run.names(UNNAMED) == ["cat", "", "dog", ""]
    assert map_classes(["Tv"], {8: "tvmonitor"}).run.names(["Tv"]) == ["Tv"]
