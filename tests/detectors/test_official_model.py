"""Official detectors as a whole."""

import pytest
import torch
import torch.nn.functional as F
from narrow import gradient
from official_samples import (
    FAMILIES,
    padded_batch,
    random_model,
    small_deformable,
    small_dino,
)

from mask_frozen_detr.detectors.official.transformer import Levels


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Whole models


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_padding_after_the_backbone(config):
    """The same maps alone and at the corner of larger ones, with anything in the padding.

    Padded tokens are candidates like all others, in the authors' code too: here none of them wins.
    """
    model = random_model(config)
    transformer, head = model.transformer, model.proposal_class
    empty = transformer.enc_output_norm(transformer.enc_output(torch.zeros(config.width)))
    head.weight -= torch.outer(head(empty) + 20, empty) / empty.square().sum()  # their logits become -20
    shapes = [(12, 14), (6, 7), (3, 4), (2, 2)]
    alone = [torch.randn(1, config.width, *shape) for shape in shapes]
    padded = [F.pad(level, (0, 3, 0, 2), value=7.0) for level in alone]
    everywhere = [torch.ones(1, *shape, dtype=torch.bool) for shape in shapes]
    at_the_corner = [F.pad(mask, (0, 3, 0, 2)) for mask in everywhere]

    def run(maps, masks):
        levels = Levels.of(masks)
        memory, kept = model.encode(maps, masks, levels)
        index, _, boxes = model.propose(memory, levels)
        start = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        content, position = model.queries(start)
        states, predictions = model.transformer.decoder(
            content, position, start.sigmoid(), memory, levels, model.bbox_embed
        )
        return levels.split(kept), start.sigmoid(), states[-1], predictions[-1]

    features, proposals, states, boxes = run(alone, everywhere)
    padded_features, padded_proposals, padded_states, padded_boxes = run(padded, at_the_corner)
    for level, padded_level, (h, w) in zip(features, padded_features, shapes, strict=True):
        assert torch.allclose(padded_level[:, :, :h, :w], level, atol=1e-4)
    assert torch.allclose(padded_proposals, proposals, atol=1e-4)
    # DINO encodes a query's place in the *padded* finest map, so its decoder sees the padding.
    unchanged = torch.allclose(padded_states, states, atol=1e-3) and torch.allclose(padded_boxes, boxes, atol=1e-4)
    assert unchanged == (config.family != "dino")


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_an_image_in_a_batch_of_its_size_gives_what_it_gives_alone(config):
    model = random_model(config)
    pixel_values, pixel_mask = padded_batch(sizes=((96, 120), (96, 120)))
    both, alone = model(pixel_values, pixel_mask), model(pixel_values[:1], pixel_mask[:1])
    assert torch.allclose(both.boxes[:1], alone.boxes, atol=1e-4)
    assert torch.allclose(both.states[:1], alone.states, atol=1e-3)


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_what_lies_in_the_padding_of_the_mask_is_all_that_counts(config):
    """Level masks are the nearest pixel's; a mask of ones equals no padding at all; repeated runs agree."""
    model = random_model(config)
    pixel_values, pixel_mask = padded_batch()
    first, second = model(pixel_values, pixel_mask), model(pixel_values, pixel_mask.bool())
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.logits, second.logits)
    unmasked = model(pixel_values, torch.ones_like(pixel_mask))
    assert not torch.allclose(unmasked.boxes, first.boxes, atol=1e-3)


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_bfloat16(config):
    """Sampling locations and boxes stay float32, so that half precision moves a box by its rounding and no more."""
    model = random_model(config)
    pixel_values, pixel_mask = padded_batch()
    full = model(pixel_values, pixel_mask)
    half = model.bfloat16()(pixel_values.bfloat16(), pixel_mask)
    assert half.boxes.dtype == torch.float32
    assert half.states.dtype == half.features[0].dtype == torch.bfloat16
    for a, b in zip(half.features, full.features, strict=True):
        assert (a.float() - b).abs().mean() < 0.02 * b.abs().mean()


# Training


@pytest.mark.parametrize("config", [small_dino(), small_deformable()], ids=["dino", "h-detr"])
def test_the_training_losses(config):
    model = random_model(config).train().requires_grad_(True)
    targets = [
        {"class_labels": torch.tensor([2, 6]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3], [0.2, 0.3, 0.1, 0.1]])},
        {"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)},  # nothing in this image
    ]
    pixel_values, pixel_mask = padded_batch()
    outputs = model(pixel_values, pixel_mask)
    total, parts = model.detection_loss(outputs, targets)
    endings = ("", "_0", "_1", "_proposal")
    names = [f"{name}{end}" for name in ("loss_ce", "loss_bbox", "loss_giou") for end in endings]
    assert sorted(parts) == sorted(names)
    weights = {"loss_ce": config.class_loss, "loss_bbox": 5.0, "loss_giou": 2.0}
    expected = sum(weights[name] * parts[f"{name}{end}"] for name in weights for end in endings)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    total.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(gradient(parameter).isfinite().all() for parameter in model.parameters())


def test_proposals_are_trained_as_objects_in_h_detr_and_as_classes_in_dino():
    targets = [{"class_labels": torch.tensor([6]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])}] * 2
    for config, shape in ((small_deformable(), None), (small_dino(), (2, 20, 7))):
        model = random_model(config)
        outputs = model(*padded_batch())
        assert outputs.proposal_logits.shape == (shape or (2, 370, 7))
        outputs.proposal_logits = torch.full_like(outputs.proposal_logits, -9.0)
        outputs.proposal_logits[..., 0 if config.family != "dino" else 6] = 9.0
        right = model.detection_loss(outputs, targets)[1]["loss_ce_proposal"]
        outputs.proposal_logits = outputs.proposal_logits.flip(-1)
        wrong = model.detection_loss(outputs, targets)[1]["loss_ce_proposal"]
        # Only the matched proposals differ: 9 · ¼ for the class they lack, 9 · ¾ for the one they claim.
        assert (wrong - right).item() == pytest.approx(9.0, rel=1e-3)


def test_look_forward_twice_changes_gradients_only():
    once, twice = (random_model(small_deformable(look_forward_twice=value)) for value in (False, True))
    grads = []
    for model in (once, twice):
        model.requires_grad_(True)
        outputs = model(*padded_batch())
        outputs.layer_boxes[1].sum().backward()
        grads.append((outputs.layer_boxes[1].detach(), model.get_parameter("bbox_embed.0.layers.2.weight").grad))
    assert torch.allclose(grads[0][0], grads[1][0], atol=1e-6)
    assert grads[0][1] is None
    assert grads[1][1] is not None
    assert grads[1][1].abs().sum() > 0
