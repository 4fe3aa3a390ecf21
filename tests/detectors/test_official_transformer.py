"""Official detectors' transformers, layer by layer, against the equations written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from official_samples import (
    FAMILIES,
    official_tensors,
    padded_batch,
    random_model,
    small_deformable,
    small_dino,
)

from mask_frozen_detr.detectors.official.position import inverse_sigmoid, sine_of_boxes, sine_of_cells
from mask_frozen_detr.detectors.official.proposals import best_proposals, proposal_logits
from mask_frozen_detr.detectors.official.transformer import Levels
from mask_frozen_detr.errors import UserError


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def masks_of(*shapes_and_valid) -> list[torch.Tensor]:
    """((h, w), [(valid h, valid w) an image]) a level → masks, True = image."""
    masks = []
    for (h, w), valid in shapes_and_valid:
        mask = torch.zeros(len(valid), h, w, dtype=torch.bool)
        for image, (valid_h, valid_w) in enumerate(valid):
            mask[image, :valid_h, :valid_w] = True
        masks.append(mask)
    return masks


def literal_sine(angle: float, width: int, temperature: float) -> list[float]:
    return [(math.sin, math.cos)[i % 2](angle / temperature ** (2 * (i // 2) / width)) for i in range(width)]


# Position encodings


@pytest.mark.parametrize(
    ("config", "temperature", "offset"),
    [(small_deformable(), 10000, 0.5), (small_dino(), 20, 0.0)],
    ids=["h-detr", "dino"],
)
def test_position_encoding_of_the_image(config, temperature, offset):
    assert (config.temperature, config.cell_offset) == (temperature, offset)
    (mask,) = masks_of(((3, 4), [(2, 3)]))
    found = sine_of_cells(mask, 8, config.temperature, config.cell_offset)[0]
    for row in range(2):
        for column in range(3):
            y = (row + 1 - offset) / (2 + 1e-6) * 2 * math.pi
            x = (column + 1 - offset) / (3 + 1e-6) * 2 * math.pi
            expected = literal_sine(y, 4, temperature) + literal_sine(x, 4, temperature)
            assert found[row * 4 + column].tolist() == pytest.approx(expected, abs=1e-5)


def test_position_encoding_of_a_box():
    box = [0.1, 0.3, 0.25, 0.75]
    expected = [part for value in box for part in literal_sine(value * 2 * math.pi, 6, 10000)]
    assert sine_of_boxes(torch.tensor(box), 6).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("config", "eps"), [(small_deformable(), 1e-5), (small_dino(), 1e-3)], ids=["h-detr", "dino"])
def test_logits_of_references_are_clamped(config, eps):
    assert config.logit_eps == eps
    found = inverse_sigmoid(torch.tensor([0.0, 0.2, 1.0]), eps).tolist()
    assert found == pytest.approx([math.log(eps), math.log(0.2 / 0.8), math.log(1 / eps)], rel=1e-5)


# Proposals


def test_the_grid_of_proposals():
    valid = [((6, 8), [(6, 8), (5, 3)]), ((3, 4), [(3, 4), (3, 2)])]
    found, keep = proposal_logits(Levels.of(masks_of(*valid)))
    for image in range(2):
        token = 0
        for level, ((h, w), sizes) in enumerate(valid):
            valid_h, valid_w = sizes[image]
            for row in range(h):
                for column in range(w):
                    side = 0.05 * 2**level
                    box = [(column + 0.5) / valid_w, (row + 0.5) / valid_h, side, side]
                    kept = row < valid_h and column < valid_w and all(0.01 < value < 0.99 for value in box)
                    expected = [math.log(v / (1 - v)) for v in box] if kept else [math.inf] * 4
                    assert keep[image, token] == kept
                    assert found[image, token].tolist() == pytest.approx(expected, abs=1e-5)
                    token += 1


def test_proposals_at_the_border_are_dropped():
    """A cell centre nearer to the border than 1 % of the image makes no proposal."""
    _, keep = proposal_logits(Levels.of(masks_of(((1, 60), [(1, 60)]))))
    assert keep[0].tolist() == [False] + [True] * 58 + [False]


def test_proposals_are_ranked_by_class_0_or_by_the_best_class():
    logits = torch.tensor([[[1.0, 9.0], [3.0, 0.0], [2.0, 5.0]]])
    assert best_proposals(logits, 2, best_class=small_deformable().score_best_class).tolist() == [[1, 2]]
    assert best_proposals(logits, 2, best_class=small_dino().score_best_class).tolist() == [[0, 2]]


def test_an_image_with_too_few_cells_is_an_error():
    model = random_model(small_dino())
    with pytest.raises(UserError, match=r"too small for this detector: .* 7 cells in all, fewer than the 20 queries"):
        model(torch.zeros(1, 3, 16, 16), torch.ones(1, 16, 16))


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_proposals_come_from_zeroed_memory_and_the_heads_of_their_own(config):
    model = random_model(config)
    tensors = official_tensors(model)
    levels = Levels.of(masks_of(((6, 8), [(6, 8), (5, 3)]), ((3, 4), [(3, 4), (3, 2)])))
    memory = torch.randn(2, 60, config.width)
    index, logits, boxes = model.propose(memory, levels)
    head = "transformer.enc_out_{}_embed" if config.family == "dino" else "{}_embed.3"
    grid, keep = proposal_logits(levels)
    for image, token in ((0, 0), (0, 59), (1, 0), (1, 7), (1, 20)):
        kept = memory[image, token] if keep[image, token] else torch.zeros(config.width)
        kept = F.linear(kept, tensors["transformer.enc_output.weight"], tensors["transformer.enc_output.bias"])
        norm = "transformer.enc_output_norm"
        kept = F.layer_norm(kept, kept.shape, tensors[f"{norm}.weight"], tensors[f"{norm}.bias"])
        name = head.format("class")
        expected = F.linear(kept, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
        assert torch.allclose(logits[image, token], expected, atol=1e-5)
        expected = literal_box_head(tensors, head.format("bbox"), kept) + grid[image, token]
        assert torch.allclose(boxes[image, token], expected, atol=1e-5)
    scores = logits.max(-1).values if config.family == "dino" else logits[..., 0]
    assert torch.equal(scores.gather(1, index), scores.sort(descending=True).values[:, :20])


def literal_box_head(tensors, name, state):
    for layer in range(3):
        state = F.linear(state, tensors[f"{name}.layers.{layer}.weight"], tensors[f"{name}.layers.{layer}.bias"])
        state = state.relu() if layer < 2 else state
    return state


def test_content_of_the_queries():
    start = torch.randn(2, 20, 4)
    model = random_model(small_deformable(content_rows=32))  # one-to-one queries first, then the one-to-many ones
    content, position = model.queries(start)
    assert torch.equal(content[1], official_tensors(model)["query_embed.weight"][:20])
    assert position is not None
    assert position.shape == (2, 20, 64)
    model = random_model(small_dino())
    content, position = model.queries(start)
    assert torch.equal(content[1], official_tensors(model)["transformer.tgt_embed.weight"])
    assert position is None


def test_without_mixed_selection_content_is_the_second_half_of_the_position():
    model = random_model(small_deformable(content_rows=0))
    tensors = official_tensors(model)
    assert "query_embed.weight" not in tensors
    start = torch.randn(1, 20, 4)
    content, position = model.queries(start)
    box = start[0, 7].sigmoid().tolist()
    encoding = torch.tensor([part for value in box for part in literal_sine(value * 2 * math.pi, 32, 10000)])
    encoding = F.linear(encoding, tensors["transformer.pos_trans.weight"], tensors["transformer.pos_trans.bias"])
    weight, bias = (tensors[f"transformer.pos_trans_norm.{name}"] for name in ("weight", "bias"))
    encoding = F.layer_norm(encoding, (128,), weight, bias)
    assert position is not None
    assert torch.allclose(torch.cat([position[0, 7], content[0, 7]]), encoding, atol=1e-4)


# Encoder and decoder


def literal_deformable_attention(tensors, name, config, query, references, memory, levels, image):
    """One query of one image, sample by sample. references: (L, 2 or 4)."""
    heads, points, width = config.heads, config.points, config.width // config.heads

    def linear(part, values):
        return F.linear(values, tensors[f"{name}.{part}.weight"], tensors[f"{name}.{part}.bias"])

    value = linear("value_proj", memory).view(-1, heads, width)
    offsets = linear("sampling_offsets", query).view(heads, len(levels.shapes), points, 2)
    weights = linear("attention_weights", query).view(heads, -1).softmax(-1)
    output = torch.zeros(heads, width)
    for head in range(heads):
        start = 0
        for level, (h, w) in enumerate(levels.shapes):
            for point in range(points):
                dx, dy = offsets[head, level, point].tolist()
                reference = references[level].tolist()
                if len(reference) == 2:
                    x, y = reference[0] * w + dx, reference[1] * h + dy
                else:
                    x = (reference[0] + dx / points * reference[2] * 0.5) * w
                    y = (reference[1] + dy / points * reference[3] * 0.5) * h
                x, y = x - 0.5, y - 0.5  # cell centres lie at half cells
                for row in (math.floor(y), math.floor(y) + 1):
                    for column in (math.floor(x), math.floor(x) + 1):
                        token = start + row * w + column
                        if 0 <= row < h and 0 <= column < w and levels.valid[image, token]:
                            share = (1 - abs(y - row)) * (1 - abs(x - column))
                            weight = weights[head, level * points + point]
                            output[head] += share * weight * value[token, head]
            start += h * w
    return linear("output_proj", output.flatten())


LEVELS = (((4, 5), [(4, 5), (3, 2)]), ((2, 3), [(2, 3), (2, 1)]))


def small_levels(config):
    """A configuration with two levels, and padded sizes for it."""
    return type(config)(**{**vars(config), "levels": 2}), Levels.of(masks_of(*LEVELS))


@pytest.mark.parametrize("coordinates", [2, 4])
def test_deformable_attention_samples_points_and_boxes(coordinates):
    config, levels = small_levels(small_dino())
    model = random_model(config)
    attention = model.transformer.decoder.get_submodule("layers.1.cross_attn")
    queries, memory = torch.randn(2, 3, config.width), torch.randn(2, 26, config.width)
    references = torch.rand(2, 3, 2, coordinates)
    found = attention(queries, references, memory, levels)
    tensors = official_tensors(model)
    for image, query in ((0, 0), (0, 2), (1, 1)):
        expected = literal_deformable_attention(
            tensors, "transformer.decoder.layers.1.cross_attn", config,
            queries[image, query], references[image, query], memory[image], levels, image,
        )  # fmt: skip
        assert torch.allclose(found[image, query], expected, atol=1e-5)


def literal_decoder(model, content, boxes, memory, levels, image):
    """All layers for one image, as the two papers' appendices and the authors' files define them."""
    config, tensors = model.config, official_tensors(model)
    ratios = levels.valid_sizes[image] / levels.sizes
    state, reference = content, boxes
    outputs, predictions = [], []
    position = None if config.family == "dino" else model.queries(boxes.logit()[None])[1][0]
    eps = 1e-3 if config.family == "dino" else 1e-5
    for layer in range(config.decoder_layers):
        name = f"transformer.decoder.layers.{layer}"

        def linear(part, values, name=name):
            return F.linear(values, tensors[f"{name}.{part}.weight"], tensors[f"{name}.{part}.bias"])

        def norm(part, values, name=name):
            return F.layer_norm(
                values, values.shape[-1:], tensors[f"{name}.{part}.weight"], tensors[f"{name}.{part}.bias"]
            )

        if config.family == "dino":
            encoded = []
            for cx, cy, w, h in reference.tolist():
                (rx, ry) = ratios[0].tolist()  # the finest level's
                ordered = (cy * ry, cx * rx, w * rx, h * ry)
                encoded.append([part for v in ordered for part in literal_sine(v * 2 * math.pi, 32, 10000)])
            head = "transformer.decoder.ref_point_head.layers"
            position = F.linear(torch.tensor(encoded), tensors[f"{head}.0.weight"], tensors[f"{head}.0.bias"]).relu()
            position = F.linear(position, tensors[f"{head}.1.weight"], tensors[f"{head}.1.bias"])

        project = tensors[f"{name}.self_attn.in_proj_weight"], tensors[f"{name}.self_attn.in_proj_bias"]
        q = F.linear(state + position, project[0][:64], project[1][:64]).view(-1, 4, 16)
        k = F.linear(state + position, project[0][64:128], project[1][64:128]).view(-1, 4, 16)
        v = F.linear(state, project[0][128:], project[1][128:]).view(-1, 4, 16)
        shares = torch.einsum("qhc,khc->hqk", q, k).div(4.0).softmax(-1)
        attended = torch.einsum("hqk,khc->qhc", shares, v).flatten(1)
        state = norm("norm2", state + linear("self_attn.out_proj", attended))

        sampled = torch.stack(
            [
                literal_deformable_attention(
                    tensors, f"{name}.cross_attn", config, (state + position)[query],
                    reference[query] * ratios.repeat(1, 2), memory, levels, image,
                )
                for query in range(len(state))
            ]
        )  # fmt: skip
        state = norm("norm1", state + sampled)
        state = norm("norm3", state + linear("linear2", linear("linear1", state).relu()))

        start = reference.clamp(eps, 1 - eps).logit()
        leaving = state
        if config.family == "dino":
            leaving = F.layer_norm(
                state, (64,), tensors["transformer.decoder.norm.weight"], tensors["transformer.decoder.norm.bias"]
            )
        outputs.append(leaving)
        predictions.append((literal_box_head(tensors, f"bbox_embed.{layer}", leaving) + start).sigmoid())
        reference = (literal_box_head(tensors, f"bbox_embed.{layer}", state) + start).sigmoid()  # un-normed
    return outputs, predictions


@pytest.mark.parametrize("family", ["h-detr", "dino"])
def test_the_decoder_layer_by_layer(family):
    config, levels = small_levels(FAMILIES[family])
    model = random_model(config)
    boxes = torch.rand(2, 20, 4)
    boxes[0, :3] = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.5, 0.9999, 0.3], [0.5, 0.5, 2e-4, 0.1]])
    boxes = boxes.clamp(1e-7, 1 - 1e-7)
    memory = torch.randn(2, 26, config.width)
    content, position = model.queries(boxes.logit())
    states, predictions = model.transformer.decoder(content, position, boxes, memory, levels, model.bbox_embed)
    for image in range(2):
        outputs, expected = literal_decoder(model, content[image], boxes[image], memory[image], levels, image)
        for layer in range(config.decoder_layers):
            assert torch.allclose(states[layer][image], outputs[layer], atol=1e-4)
            assert torch.allclose(predictions[layer][image], expected[layer], atol=1e-5)


def test_heads_are_shared_in_dino_and_separate_in_h_detr():
    dino, hdetr = random_model(small_dino()), random_model(small_deformable())
    assert len({id(head) for head in dino.class_embed}) == 1
    assert len({id(head) for head in hdetr.bbox_embed}) == 3
    for model in (dino, hdetr):
        pixel_values, pixel_mask = padded_batch()
        output = model(pixel_values, pixel_mask)
        assert torch.equal(output.logits, model.class_embed[2](output.states))
        assert torch.equal(output.logits, output.layer_logits[-1])
        assert torch.equal(output.boxes, output.layer_boxes[-1])


@pytest.mark.parametrize("layer", [1, 2, 4])
def test_features_are_the_encoder_tokens_after_the_layer_asked_for(layer):
    model = random_model(small_dino(), encoder_layer=layer)
    tokens: dict[int, torch.Tensor] = {}
    for index, module in enumerate(model.transformer.encoder.layers):
        module.register_forward_hook(lambda _m, _i, output, index=index: tokens.__setitem__(index + 1, output))
    output = model(*padded_batch())
    assert [tuple(level.shape[2:]) for level in output.features] == [(16, 17), (8, 9), (4, 5), (2, 3)]
    assert torch.equal(torch.cat([level.flatten(2).transpose(1, 2) for level in output.features], 1), tokens[layer])


def test_coarser_levels_start_from_the_raw_last_map():
    model = random_model(small_dino("resnet", levels=5))
    tensors = official_tensors(model)
    stages = [torch.randn(1, channels, 16 // 2**k, 12 // 2**k) for k, channels in enumerate((512, 1024, 2048))]
    maps = model.project(stages)
    assert [tuple(level.shape[2:]) for level in maps] == [(16, 12), (8, 6), (4, 3), (2, 2), (1, 1)]
    for level, source in ((3, stages[2]), (4, maps[3])):
        name = f"input_proj.{level}"
        expected = F.conv2d(source, tensors[f"{name}.0.weight"], tensors[f"{name}.0.bias"], stride=2, padding=1)
        expected = F.group_norm(expected, 32, tensors[f"{name}.1.weight"], tensors[f"{name}.1.bias"])
        assert torch.allclose(maps[level], expected, atol=1e-5)
