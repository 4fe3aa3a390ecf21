"""Masks on detectors of every family: they learn, and lie where the objects are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from family_models import NAMES, PROMPT, TINY_MODELS, TinyModel
from family_parts import CONFIG, lost_biases, masks, one_of_each_kind, picture, random_network
from family_scenes import blinker, draw_scenes, overfit
from synthetic_detections import all_queries
from torch import nn

from mask_frozen_detr.detectors import (
    TransformersDetector,
    load_detector,
)
from mask_frozen_detr.detectors.base import hash_weights
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.model import MaskFrozenDetr

# --- the mask network on top ---


@one_of_each_kind
def test_one_step_of_training_changes_the_mask_network_alone(tiny, family_folder):
    detector = tiny.load(family_folder(tiny))
    model = MaskFrozenDetr(detector, random_network(detector)).train()
    before = hash_weights(detector.model)
    statistics = {name: value.clone() for name, value in detector.model.named_buffers()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scenes = draw_scenes([detector.info.preprocessing.probe_size()] * 2, 16)
    found = detector(scenes.pixel_values, scenes.pixel_mask)
    output = model.network(found, scenes.pixel_mask, *all_queries(found))
    assert output.iou.shape == (2 * found.queries.shape[1], 4 if tiny.family.prompted else len(NAMES))
    (output.logits.square().mean() + output.iou.square().mean()).backward()
    idle = {n for n, p in model.network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert idle <= lost_biases(model.network)
    assert not any(p.requires_grad or p.grad is not None for p in detector.parameters())
    weights = [p.clone() for p in model.network.parameters()]
    optimizer.step()
    assert all(not torch.equal(p, w) for p, w in zip(model.network.parameters(), weights, strict=True))
    assert hash_weights(detector.model) == before
    assert all(torch.equal(value, statistics[name]) for name, value in detector.model.named_buffers())
    assert not detector.model.training


@one_of_each_kind
def test_a_saved_run_gives_the_same_masks(tiny, family_detector, tmp_path):
    detector, image = family_detector(tiny), picture()
    model = MaskFrozenDetr(detector, random_network(detector))
    model.save_pretrained(tmp_path)
    again = MaskFrozenDetr.from_pretrained(tmp_path)
    first, second = (m.predict(image, 0.0, 20, probabilities=True) for m in (model, again))
    assert 10 <= len(first) == len(second)
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert first.names == second.names
    for one, other in zip(first.probability_crops, second.probability_crops, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    assert any(crop.values.size and crop.values.std() > 0.01 for crop in first.probability_crops)


@one_of_each_kind
def test_a_detector_that_learns_is_saved_whole(tiny, family_folder, tmp_path):
    """Table 11: its own losses reach it, and what is written is what was learned."""
    detector = tiny.load(family_folder(tiny))
    if not tiny.family.has_loss:
        with pytest.raises(UserError, match="has no training losses for family"):
            detector.unfreeze("full")
        return
    parameters = detector.unfreeze("full")
    height, width = detector.info.preprocessing.probe_size()
    pixel_values = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.6, 0.6, 0.3, 0.2]])
    labels = [{"class_labels": torch.tensor([0, 2]), "boxes": boxes}] * 2
    loss = detector(pixel_values, torch.ones(2, height, width, dtype=torch.long), labels).loss
    assert loss is not None
    loss.backward()
    reached = [p for p in parameters if p.grad is not None and p.grad.any()]
    assert len(reached) > 0.5 * len(parameters)
    with torch.no_grad():
        for parameter in reached:
            parameter -= 1e-3 * parameter.grad.sign()
    detector.save(tmp_path)
    again = tiny.load(tmp_path)
    assert hash_weights(again.model) == hash_weights(detector.model)
    assert again.info.identity.weights == detector.hash_checkpoint() != detector.info.identity.weights
    image = picture()
    assert torch.equal(again.info.preprocessing(image), detector.info.preprocessing(image))
    if tiny.model_type == "yolos":
        with pytest.raises(UserError, match="no transformer apart from its backbone"):
            again.unfreeze("partial")
    else:
        assert 0 < len(again.unfreeze("partial")) < len(parameters)


padding_models = pytest.mark.parametrize(
    "tiny", [tiny for tiny in TINY_MODELS if tiny.pads], ids=lambda tiny: tiny.name.replace(" ", "-")
)


@padding_models
def test_a_padded_batch_gives_what_each_image_gives_alone(tiny, family_folder):
    """But for what the models themselves let in from the padding, which is taken out here: convolutions that reach
    over the border, group norms whose statistics count it, and Grounding DINO's decoder, which tells its queries
    where they are within the padded input."""
    detector = tiny.load(family_folder(tiny))
    blinker(detector.model)
    for module in detector.model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    network = random_network(detector)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, *size, generator=generator) for size in ((64, 128), (128, 64), (128, 128))]
    pixel_values, pixel_mask = collate_images(images)
    together = detector(pixel_values, pixel_mask)
    alone = [detector(image[None], torch.ones(1, *image.shape[1:])) for image in images]
    for name in ("queries", "boxes", "logits"):
        expected = torch.cat([getattr(one, name) for one in alone])
        if tiny.family.prompted:
            together = replace(together, **{name: expected})
        assert torch.allclose(getattr(together, name), expected, atol=1e-3)
    found = masks(network, together, pixel_mask).unflatten(0, together.queries.shape[:2])
    blind = masks(network, together, torch.ones_like(pixel_mask)).unflatten(0, together.queries.shape[:2])
    for b, image in enumerate(images):
        whole = torch.ones(1, *image.shape[1:])
        expected = masks(network, alone[b], whole)
        assert expected.std() > 0.05
        assert torch.allclose(found[b], expected, atol=1e-3)
        padded = whole.shape != pixel_mask[:1].shape
        assert torch.allclose(blind[b], expected, atol=1e-2) != padded  # taking padding for image shows


# --- where the maps lie ---


def geometry(tiny: TinyModel, detector: TransformersDetector, stem: bool) -> tuple[list[tuple[int, int]], int]:
    """Sizes of four images, and pixels of a cell, for `draw_scenes`."""
    cell = 4 if stem else tiny.cell or detector.shapes.strides[0]
    height, width = detector.info.preprocessing.probe_size()
    if tiny.pads:
        height = width = max(96, 10 * cell)
        return [(height, width), (height - 32, width), (height, width - 32), (height - 32, width - 32)], cell
    step = 32 if cell != 14 else 28  # what the patches and windows divide
    side = max(height, -(-10 * cell // step) * step)
    return [(side, side)] * 4, cell


@one_of_each_kind
def test_masks_lie_where_the_objects_are(tiny, family_folder):
    """Overfit with boxes given: through C₁ and through E₁ alone, each on batches with padding where the model pads.

    Frames half a cell too far, and the same training fails.
    """
    detector = tiny.load(family_folder(tiny))
    blinker(detector.model)
    has_stem = detector.shapes.stem_width is not None and detector.shapes.stem_stride == 4
    for stem in (True, False) if has_stem else (False,):
        sizes, cell = geometry(tiny, detector, stem)
        scenes = draw_scenes(sizes, 2 * cell)
        assert overfit(detector, scenes, stem).mean() > 0.9
        if stem == has_stem:
            assert overfit(detector, scenes, stem, shift=cell / 2).mean() < 0.9


@pytest.mark.parametrize("model_type", ["rt_detr", "deformable_detr", "yolos"])
def test_half_a_cell_to_the_other_side_fails_too(model_type, family_folder):
    tiny = TinyModel(model_type, model_type)
    detector = tiny.load(family_folder(tiny))
    blinker(detector.model)
    stem = model_type != "yolos"
    sizes, cell = geometry(tiny, detector, stem)
    assert overfit(detector, draw_scenes(sizes, 2 * cell), stem, shift=-cell / 2).mean() < 0.9


@pytest.mark.parametrize("model_type", ["deformable_detr", "detr", "grounding-dino"])
@pytest.mark.parametrize("layer", [1, 2])
def test_the_encoder_layer_is_the_one_that_was_asked_for(model_type, layer, family_folder):
    tiny = TinyModel(model_type, model_type)
    detector = load_detector(family_folder(tiny), encoder_layer=layer, prompt=PROMPT if tiny.family.prompted else None)
    assert detector.info.identity.encoder_layer == layer
    pixel_values = torch.randn(1, 3, 64, 128).contiguous(memory_format=torch.channels_last)  # as the detector has it
    found = detector(pixel_values, torch.ones(1, 64, 128))
    assert isinstance(detector, TransformersDetector)
    text = {} if detector.prompt is None else detector.prompt.inputs(1)
    with torch.no_grad():
        output = detector.model(pixel_values=pixel_values, output_hidden_states=True, **text)
    states = output.encoder_vision_hidden_states if text else output.encoder_hidden_states
    joined = torch.cat([level.flatten(2).transpose(1, 2) for level in found.features], 1)
    # Grounding DINO gives the states that go into each layer, from the second on.
    assert any(torch.allclose(joined, state, atol=1e-5) for state in states[layer : layer + 1])


@pytest.mark.parametrize("model_type", ["detr", "dab-detr", "deformable_detr", "rt_detr"])
def test_backbones_of_timm_have_a_stem(model_type, tmp_path):
    """Published checkpoints of the older families have them."""
    pytest.importorskip("timm")
    last = (4,) if model_type in ("detr", "dab-detr") else (2, 3, 4)
    options: dict[str, Any] = {"backbone": "resnet18", "out_indices": last}
    changes = {
        "backbone_config": lambda: transformers.TimmBackboneConfig(**options),
        "encoder_in_channels": [128, 256, 512],
    }
    tiny = TinyModel("timm", model_type, changes)
    shapes = tiny.load(tiny.save(tmp_path)).shapes
    assert (shapes.stem_width, shapes.stem_stride) == (64, 4)


# --- the stem of detectors without a stride-4 map ---


@pytest.mark.parametrize("source", ["pixels", "backbone"])
@pytest.mark.parametrize("model_type", ["yolos", "lw_detr", "rf_detr"])
def test_other_stems_learn_and_know_no_padding(model_type, source, family_folder):
    tiny = TinyModel(model_type, model_type)
    detector = tiny.load(family_folder(tiny))
    network = random_network(detector, replace(CONFIG, stem_from=source))
    assert network.fusion.uses_stem
    height, width = detector.info.preprocessing.probe_size()
    sizes = [(64, 128), (128, 64)] if tiny.pads else [(height, width)] * 2
    images = [torch.randn(3, *size) for size in sizes]
    pixel_values, pixel_mask = collate_images(images)
    together = detector(pixel_values, pixel_mask)
    output = network(together, pixel_mask, *all_queries(together))
    output.logits.square().sum().backward()
    fusion = {n: p for n, p in network.named_parameters() if n.startswith(("fusion", "pixel_stem"))}
    assert len(fusion) == (8 if source == "pixels" else 4)
    idle = {n for n, p in fusion.items() if p.grad is None or not p.grad.abs().sum() > 0}
    assert idle <= lost_biases(network)
    queries = together.queries.shape[1]
    for b, image in enumerate(images):
        whole = torch.ones(1, *image.shape[1:])
        expected = masks(network, detector(image[None], whole), whole)
        assert torch.allclose(output.logits[b * queries : (b + 1) * queries], expected, atol=1e-3)


def test_a_stem_that_is_not_there_is_refused(family_folder):
    tiny = next(tiny for tiny in TINY_MODELS if tiny.name == "lw_detr two maps")
    with pytest.raises(UserError, match="no map finer than E₁; expected 'pixels' or 'auto'"):
        MaskFrozenDetr.build(tiny.load(family_folder(tiny)), replace(CONFIG, stem_from="backbone"))
