"""Prompts that name a detector's classes."""

import pytest
import torch
from family_models import PROMPT, TinyModel
from family_parts import picture, random_network

from mask_frozen_detr.detectors import (
    TransformersDetector,
    load_detector,
)
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.model import MaskFrozenDetr

# --- prompts ---


def test_a_prompt_names_the_classes(family_folder):
    tiny = TinyModel("grounding-dino", "grounding-dino")
    listed = load_detector(family_folder(tiny), prompt=["Ant", "bee", "red  cow", "dog"])
    assert isinstance(listed, TransformersDetector)
    assert listed.prompt is not None
    assert listed.info.class_names == ["ant", "bee", "red cow", "dog"]
    assert listed.info.identity.prompt == PROMPT
    assert listed.prompt.owners.tolist() == [0, 1, 2, 2, 3]
    logits = torch.arange(32.0).expand(1, 3, -1).clone()
    assert listed.prompt.class_logits(logits)[0, 0].tolist() == [1.0, 3.0, 6.0, 8.0]


def test_another_prompt_goes_with_the_same_mask_network(family_folder, tmp_path):
    tiny = TinyModel("grounding-dino", "grounding-dino")
    detector = tiny.load(family_folder(tiny))
    MaskFrozenDetr(detector, random_network(detector)).save_pretrained(tmp_path)
    other = MaskFrozenDetr.from_pretrained(tmp_path, load_detector(family_folder(tiny), prompt="elk. bee."))
    found = other.predict(picture(), score_threshold=0.0)
    assert len(found) > 1
    assert set(found.names) <= {"elk", "bee"}


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (None, "finds what a prompt names, found none; expected prompt = 'cat. dog.'"),
        ("", "found '', expected class names"),
        ([], r"found \[\], expected class names"),
        (["ant", ""], "expected class names"),
        (["st. bernard"], "found the class name 'st. bernard', expected one without"),
        (["what?"], "expected one without"),
        ("ant. Ant.", "found 'ant' twice"),
        (["ant"] + ["elk " * k for k in range(1, 9)], "9 classes of 48 tokens, expected at most 32"),
    ],
)
def test_prompts_that_will_not_do(prompt, reason, family_folder):
    with pytest.raises(UserError, match=reason):
        load_detector(family_folder(TinyModel("grounding-dino", "grounding-dino")), prompt=prompt)


def test_a_prompt_for_a_detector_with_classes_is_refused(family_folder):
    with pytest.raises(UserError, match=r"prompt: found 'cat\.', but family 'rt_detr' has classes of its own"):
        load_detector(family_folder(TinyModel("rt_detr", "rt_detr")), prompt="cat.")
