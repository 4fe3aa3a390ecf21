"""Presets: what they give, and which is chosen."""

from typing import get_args

import pytest

from mask_frozen_detr import MaskNetworkConfig, TrainConfig, UserError
from mask_frozen_detr.training.presets import PresetName, choose_preset, preset, preset_remark


def test_paper_is_the_papers():
    assert preset("paper", 118_000) == (MaskNetworkConfig(), TrainConfig())


@pytest.mark.parametrize("name", get_args(PresetName))
def test_few_images_are_seen_more_often(name):
    _, few = preset(name, 10)
    _, many = preset(name, 1_000_000)
    assert many.epochs == TrainConfig().epochs
    assert few.steps(10) == (30 if name == "paper" else pytest.approx(few.epochs * 10 / 2))
    assert few.epochs >= many.epochs


@pytest.mark.parametrize(
    ("images", "steps"), [(10, 1200), (50, 1200), (120, 1200), (200, 2000), (240, 2400), (343, 2400), (1600, 4800)]
)
def test_few_images_are_not_learned_by_heart(images, steps):
    """At a batch of two: twenty passes, within 1,200 to 2,400 steps; many images are seen six times."""
    _, training = preset("light", images)
    assert training.steps(images) == pytest.approx(steps, abs=images / 2)


@pytest.mark.parametrize(
    ("gmacs", "images", "expected"),
    [(1, 50, "light"), (20, 10**6, "light"), (150, 300, "balanced"), (150, 10**5, "paper")],
)
def test_the_choice_follows_cost_and_images(gmacs, images, expected):
    name, why = choose_preset(gmacs, images)
    assert name == expected
    assert f"{gmacs:.3g} GMACs" in why


@pytest.mark.parametrize(("name", "images"), [("fast", 10), ("light", 0)])
def test_what_makes_no_sense_is_refused(name, images):
    with pytest.raises(UserError, match="found"):
        preset(name, images)


@pytest.mark.parametrize(
    ("name", "gmacs", "images", "expected"),
    [
        ("light", 1, 300, ""),
        ("light", 280, 300, "balanced costs little more"),
        ("best", 1, 300, "light keeps its pace"),
        ("best", 280, 300, ""),
        ("paper", 280, 300, "300 images are few"),
        ("paper", 280, 10**5, ""),
    ],
)
def test_a_preset_made_for_others_is_remarked_on(name, gmacs, images, expected):
    remark = preset_remark(name, lambda: gmacs, images)
    assert expected in remark
    assert bool(expected) == bool(remark)
