"""Classes chosen and renamed, and what a run keeps of it."""

from dataclasses import replace

import pytest

from mask_frozen_detr import UserError
from mask_frozen_detr.data.class_choice import choose_classes, read_choice
from mask_frozen_detr.data.classes import RunClasses, classes_of
from mask_frozen_detr.data.coco import ClassChoice, CocoData


def counts(data: CocoData) -> dict[str, int]:
    found = dict.fromkeys(data.categories.values(), 0)
    for record in data.images:
        for a in record.annotations:
            found[data.categories[a.category_id]] += 1
    return found


def test_chosen_and_renamed(scenes):
    data = scenes[0]
    before = counts(data)
    chosen = choose_classes(data, ClassChoice(("disc", "shape"), {"ring": "shape", "star": "shape"}))
    assert counts(chosen) == {"disc": before["disc"], "shape": before["ring"] + before["star"]}
    assert len(chosen.images) == len(data.images)
    lost = sum(before.values()) - sum(counts(chosen).values())
    assert chosen.notes["object of a class that was not chosen, left out"] == lost > 0
    assert counts(data) == before, "what was given stays as it was"


def test_renamed_into_a_class_that_is_there(scenes):
    before = counts(scenes[0])
    found = choose_classes(scenes[0], ClassChoice(None, {"ring": "disc"}))
    assert counts(found)["disc"] == before["disc"] + before["ring"]
    assert {number: name for number, name in found.categories.items() if name == "disc"} == {
        number: name for number, name in scenes[0].categories.items() if name == "disc"
    }


def test_two_categories_of_one_name_are_one_class(scenes):
    """As Roboflow writes them: the name of the project once more, as category 0."""
    data = scenes[0]
    before, number = counts(data), next(key for key, name in data.categories.items() if name == "disc")
    images = [
        replace(record, annotations=tuple(replace(a, category_id=99) if a.id % 2 else a for a in record.annotations))
        for record in data.images
    ]
    twice = replace(data, categories={**dict.fromkeys(data.categories, "disc"), 99: "disc"}, images=images)
    found = choose_classes(twice, ClassChoice())
    assert found.categories == {min(data.categories): "disc"}
    assert counts(found) == {"disc": sum(before.values())}
    assert f"{len(data.categories)} × category called 'disc' as another is: taken as one class" in found.summary()
    assert number in data.categories, "what was given stays as it was"


def test_words(scenes):
    assert read_choice("person, dog,", "a = b,c=d") == ClassChoice(("person", "dog"), {"a": "b", "c": "d"})
    assert read_choice(None, None) == ClassChoice()
    for classes, class_map, message in (
        (" , ", None, "classes: found ' , ', expected names"),
        (None, "a", "class_map: found 'a', expected a name in the data and its new one"),
        (None, "=b", "class_map: found '=b'"),
        (None, "a=b,a=c", "class_map: found two names for 'a', 'b' and 'c'"),
    ):
        with pytest.raises(UserError, match=message):
            read_choice(classes, class_map)


def test_names_that_are_not_there(scenes):
    with pytest.raises(UserError, match=r"classes: found zebra, expected classes of .*disc, ring"):
        choose_classes(scenes[0], ClassChoice(("disc", "zebra")))
    with pytest.raises(UserError, match="class_map: found zebra"):
        choose_classes(scenes[0], ClassChoice(None, {"zebra": "disc"}))
    assert list(counts(choose_classes(scenes[0], ClassChoice(("disc", "zebra")), strict=False))) == ["disc"]
    with pytest.raises(UserError, match="none of its classes was chosen"):
        choose_classes(scenes[0], ClassChoice(("zebra",)), strict=False)


def test_a_run_keeps_them(scenes):
    choice = ClassChoice(("disc", "hoop"), {"ring": "hoop"})
    classes = classes_of(choose_classes(scenes[0], choice), ["disc", "hoop", "star"]).run
    again = RunClasses.read(classes.describe(), 3)
    assert (again.choice, again.index_of) == (choice, {"disc": 0, "hoop": 1})
    older = {key: value for key, value in classes.describe().items() if key in ("by", "index_of")}
    assert RunClasses.read(older, 3).choice == ClassChoice()
    for damage in ({"chosen": [1]}, {"chosen": "disc"}, {"renamed": ["a"]}, {"renamed": {"a": 1}}):
        with pytest.raises(ValueError, match=r"classes: '(chosen|renamed)' is"):
            RunClasses.read(classes.describe() | damage, 3)
