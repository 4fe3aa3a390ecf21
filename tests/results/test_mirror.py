"""A second look in the mirror: what it must be of any network, and what it leaves as it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from family_parts import picture
from PIL import Image, ImageOps
from synthetic_detections import all_queries, scattered
from torch import Tensor

from mask_frozen_detr import MaskFrozenDetr
from mask_frozen_detr.cli import main
from mask_frozen_detr.detectors.base import Detections
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.evaluation import evaluate
from mask_frozen_detr.network.mask_network import MaskOutput
from mask_frozen_detr.results.evaluation_record import read_evaluation
from mask_frozen_detr.results.mirror import mean_with_mirror


@pytest.fixture(scope="module")
def models(squashing, padding, tiny_network) -> dict[str, MaskFrozenDetr]:
    return {
        "squashing": scattered(squashing, tiny_network),
        "padding": scattered(padding, tiny_network),
        "finer": scattered(squashing, replace(tiny_network, finer_look=True)),
    }


@torch.no_grad()
def both_masks(
    model: MaskFrozenDetr, images: list[Image.Image], queries: Tensor | None = None, boxes: Tensor | None = None
) -> tuple[MaskOutput, MaskOutput, Detections]:
    """A first look alone and the mean with the mirror, of all queries or of these, over these boxes."""
    pixels, mask = collate_images([model.preprocessing(image) for image in images])
    found = model.detector(pixels, mask)
    if queries is not None and boxes is not None:
        found = replace(found, queries=queries, boxes=boxes)
    indices = all_queries(found)
    first = model.network(found, mask, *indices)
    return first, mean_with_mirror(model.detector, model.network, pixels, mask, found, *indices, first), found


@pytest.mark.parametrize(("kind", "sizes"), [("squashing", [1]), ("padding", [1, 2]), ("finer", [1])])
def test_the_mean_of_a_picture_is_that_of_the_picture_in_the_mirror(models, kind, sizes):
    """With equal queries, of boxes that are each other's mirror images; a first look alone differs."""
    model = models[kind]
    images = [picture(64 * size, 96 * size, size) for size in sizes]  # of two sizes one is padded
    first, mean, found = both_masks(model, images)
    boxes = found.boxes.clone()
    boxes[..., 0] = 1 - boxes[..., 0]
    turned_first, turned, _ = both_masks(model, [ImageOps.mirror(image) for image in images], found.queries, boxes)
    torch.testing.assert_close(turned.logits.flip(-1), mean.logits, rtol=1e-3, atol=5e-3)
    torch.testing.assert_close(turned.iou, mean.iou, rtol=1e-3, atol=1e-3)
    assert float((turned_first.logits.flip(-1) - first.logits).abs().max()) > 0.1
    expected = (first.logits.sigmoid() + turned_first.logits.flip(-1).sigmoid()) / 2
    torch.testing.assert_close(mean.logits.sigmoid(), expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(mean.frames, first.frames, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["squashing", "padding", "finer"])
def test_pixels_in_the_mirror_are_those_of_the_picture_in_the_mirror(models, kind):
    preprocessing, image = models[kind].preprocessing, picture(128, 128)
    mirrored = preprocessing.mirror(preprocessing(image))
    torch.testing.assert_close(mirrored, preprocessing(ImageOps.mirror(image)), rtol=0, atol=0.02)


def test_boxes_and_classes_stay_and_the_fingerprint_tells(model, photo):
    plain = model.predict(photo, 0.0)
    fingerprint = model.fingerprint()
    model.mirror = True
    try:
        better = model.predict(photo, 0.0)
        assert model.fingerprint() == {**fingerprint, "mirror": True}
    finally:
        model.mirror = False
    order, other = (np.lexsort((one.labels, *one.boxes.T)) for one in (plain, better))
    assert np.array_equal(plain.boxes[order], better.boxes[other])
    assert np.array_equal(plain.labels[order], better.labels[other])
    assert np.array_equal(plain.class_scores[order], better.class_scores[other])
    assert not np.array_equal(plain.masks[order], better.masks[other])


def test_evaluations_tell_of_it(model, scenes, tiny_run, scenes_folder, tmp_path, capfd):
    assert main(["evaluate", str(tiny_run), str(scenes_folder), "--mirror", "--json", str(tmp_path / "e.json")]) == 0
    assert "masks: each the mean with one of a look in the mirror" in capfd.readouterr().out
    assert read_evaluation(tmp_path / "e.json").mirror
    plain = evaluate(model, scenes[1])
    assert not plain.mirror
    assert "mirror" not in plain.table()


def test_masks_of_the_whole_picture_have_no_look_in_the_mirror(squashing_folder, scenes_folder, refused):
    assert "RoIAlign" in refused("evaluate", squashing_folder, scenes_folder, "--no-roi-align", "--mirror")
