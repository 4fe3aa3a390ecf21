"""Official detectors' backbones against transformers' and the equations written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from official_samples import (
    BACKBONES,
    official_tensors,
    random_model,
    randomise,
    small_dino,
)

from mask_frozen_detr.detectors.official.backbones import FocalNetStages, ResNetStages, SwinStages
from mask_frozen_detr.detectors.official.config import BackboneConfig


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Backbones


def test_frozen_batch_norm_and_the_stage_outputs_of_resnet():
    backbone = ResNetStages(BACKBONES["resnet"]).eval()
    randomise(backbone, 1)
    assert not [key for key in backbone.state_dict() if "num_batches" in key]
    values = torch.randn(1, 64, 3, 3)
    norm = backbone.body.bn1
    expected = (values - norm.running_mean.view(-1, 1, 1)) / (norm.running_var.view(-1, 1, 1) + 1e-5).sqrt()
    expected = expected * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    assert torch.allclose(norm(values), expected, atol=1e-5)
    assert torch.equal(norm(values), norm.train()(values))  # training does not change it
    stem, stages = backbone(torch.randn(1, 3, 70, 90))
    assert stem.shape == (1, 256, 18, 23)
    assert [tuple(stage.shape[1:]) for stage in stages] == [(512, 9, 12), (1024, 5, 6), (2048, 3, 3)]


def literal_swin_block(tensors, name, maps, heads, window, shift):
    """One block on (h, w, C), window by window; tokens attend within their window and their own side of the seam."""
    h, w, channels = maps.shape
    width = channels // heads
    normed = F.layer_norm(maps, (channels,), tensors[f"{name}.norm1.weight"], tensors[f"{name}.norm1.bias"])
    rows, columns = (math.ceil(side / window) * window for side in (h, w))
    padded = torch.zeros(rows, columns, channels)
    padded[:h, :w] = normed
    result = torch.zeros_like(padded)

    def region(place, side):  # after the shift: untouched windows, the last window's two parts
        return 0 if place < side - window else 1 if place < side - shift else 2

    for top in range(0, rows, window):
        for left in range(0, columns, window):
            places = [(top + i, left + j) for i in range(window) for j in range(window)]
            source = [((y + shift) % rows, (x + shift) % columns) for y, x in places]
            tokens = torch.stack([padded[y, x] for y, x in source])
            qkv = F.linear(tokens, tensors[f"{name}.attn.qkv.weight"], tensors[f"{name}.attn.qkv.bias"])
            q, k, v = (part.view(-1, heads, width) for part in qkv.chunk(3, -1))
            scores = torch.einsum("qhc,khc->qkh", q, k) / width**0.5
            for a, (ya, xa) in enumerate(places):
                for b, (yb, xb) in enumerate(places):
                    row = (ya - yb + window - 1) * (2 * window - 1) + xa - xb + window - 1
                    scores[a, b] += tensors[f"{name}.attn.relative_position_bias_table"][row]
                    if shift and (region(ya, rows), region(xa, columns)) != (region(yb, rows), region(xb, columns)):
                        scores[a, b] -= 100
            attended = torch.einsum("qkh,khc->qhc", scores.softmax(1), v).flatten(1)
            attended = F.linear(attended, tensors[f"{name}.attn.proj.weight"], tensors[f"{name}.attn.proj.bias"])
            for (y, x), token in zip(source, attended, strict=True):
                result[y, x] = token
    maps = maps + result[:h, :w]
    inner = F.layer_norm(maps, (channels,), tensors[f"{name}.norm2.weight"], tensors[f"{name}.norm2.bias"])
    inner = F.gelu(F.linear(inner, tensors[f"{name}.mlp.fc1.weight"], tensors[f"{name}.mlp.fc1.bias"]))
    return maps + F.linear(inner, tensors[f"{name}.mlp.fc2.weight"], tensors[f"{name}.mlp.fc2.bias"])


@pytest.mark.parametrize("size", [(17, 33), (29, 50)], ids=["maps smaller than a window", "maps padded to windows"])
def test_swin_pads_and_shifts_its_windows_at_every_size(size):
    model = random_model(small_dino("swin", first_stage=0))
    config, tensors = model.config.backbone, official_tensors(model)
    pixels = torch.randn(1, 3, *size)
    stem, stages = model.backbone(pixels)
    name = "backbone.0"
    padded = F.pad(pixels, (0, -size[1] % 4, 0, -size[0] % 4))
    maps = F.conv2d(
        padded, tensors[f"{name}.patch_embed.proj.weight"], tensors[f"{name}.patch_embed.proj.bias"], stride=4
    )
    maps = maps[0].permute(1, 2, 0)
    maps = F.layer_norm(
        maps, (16,), tensors[f"{name}.patch_embed.norm.weight"], tensors[f"{name}.patch_embed.norm.bias"]
    )
    for stage in range(4):
        for block in range(config.depths[stage]):
            shift = config.window // 2 if block % 2 else 0
            block_name = f"{name}.layers.{stage}.blocks.{block}"
            maps = literal_swin_block(tensors, block_name, maps, config.heads[stage], config.window, shift)
        if stage == 0:
            assert torch.allclose(stem[0], maps.permute(2, 0, 1), atol=1e-4)  # C₁: before norm0
        weight, bias = (tensors[f"{name}.norm{stage}.{part}"] for part in ("weight", "bias"))
        expected = F.layer_norm(maps, maps.shape[-1:], weight, bias)
        assert torch.allclose(stages[stage][0], expected.permute(2, 0, 1), atol=1e-4)
        if stage < 3:
            merge = f"{name}.layers.{stage}.downsample"
            even = F.pad(maps, (0, 0, 0, maps.shape[1] % 2, 0, maps.shape[0] % 2))
            parts = [even[0::2, 0::2], even[1::2, 0::2], even[0::2, 1::2], even[1::2, 1::2]]
            merged = torch.cat(parts, -1)
            merged = F.layer_norm(
                merged, merged.shape[-1:], tensors[f"{merge}.norm.weight"], tensors[f"{merge}.norm.bias"]
            )
            maps = F.linear(merged, tensors[f"{merge}.reduction.weight"])


def literal_focal_block(tensors, name, maps, config):
    """One block on (1, C, h, w): post-LayerNorm, layer scale (Yang et al., 2022, section 3)."""

    def channels_last_norm(part, values):
        values = values.permute(0, 2, 3, 1)
        values = F.layer_norm(
            values, values.shape[-1:], tensors[f"{name}.{part}.weight"], tensors[f"{name}.{part}.bias"]
        )
        return values.permute(0, 3, 1, 2)

    def pointwise(part, values):
        weight = tensors[f"{name}.{part}.weight"]
        return F.conv2d(values, weight.reshape(*weight.shape[:2], 1, 1), tensors[f"{name}.{part}.bias"])

    channels = maps.shape[1]
    query, context, gates = pointwise("modulation.f", maps).split([channels, channels, config.focal_levels + 1], 1)
    gathered = torch.zeros_like(context)
    for level in range(config.focal_levels):
        kernel = tensors[f"{name}.modulation.focal_layers.{level}.0.weight"]
        assert kernel.shape[-1] == config.window + 2 * level
        context = F.gelu(F.conv2d(context, kernel, padding=kernel.shape[-1] // 2, groups=channels))
        gathered = gathered + context * gates[:, level : level + 1]
    gathered = gathered + F.gelu(context.mean((2, 3), keepdim=True)) * gates[:, -1:]
    if config.focal_levels == 4:
        gathered = gathered / 5
    modulated = pointwise("modulation.proj", query * pointwise("modulation.h", gathered))
    maps = maps + tensors[f"{name}.gamma_1"].view(-1, 1, 1) * channels_last_norm("norm1", modulated)
    inner = pointwise("mlp.fc2", F.gelu(pointwise("mlp.fc1", maps)))
    return maps + tensors[f"{name}.gamma_2"].view(-1, 1, 1) * channels_last_norm("norm2", inner)


@pytest.mark.parametrize(("focal_levels", "window"), [(4, 3), (3, 5)], ids=["fl4", "fl3"])
def test_focalnet(focal_levels, window):
    backbone = BackboneConfig(
        "focalnet", (1, 1, 1, 2), 8, (), window, focal_levels, normalize_modulator=focal_levels == 4, first_stage=0
    )
    model = random_model(small_dino("focalnet", first_stage=0))
    model.backbone = FocalNetStages(backbone).eval().requires_grad_(False)
    randomise(model.backbone, 3)
    model.config = small_dino("focalnet", first_stage=0)
    model.config = type(model.config)(**{**vars(model.config), "backbone": backbone})
    tensors = official_tensors(model)
    pixels = torch.randn(1, 3, 37, 54)
    stem, stages = model.backbone(pixels)

    def embed(name, values, step, kernel, padding):
        values = F.pad(values, (0, -values.shape[3] % step, 0, -values.shape[2] % step))
        assert tensors[f"{name}.proj.weight"].shape[-1] == kernel
        values = F.conv2d(values, tensors[f"{name}.proj.weight"], tensors[f"{name}.proj.bias"], step, padding)
        values = values.permute(0, 2, 3, 1)
        values = F.layer_norm(values, values.shape[-1:], tensors[f"{name}.norm.weight"], tensors[f"{name}.norm.bias"])
        return values.permute(0, 3, 1, 2)

    maps = embed("backbone.0.patch_embed", pixels, 4, 7, 2)
    for stage in range(4):
        for block in range(backbone.depths[stage]):
            maps = literal_focal_block(tensors, f"backbone.0.layers.{stage}.blocks.{block}", maps, backbone)
        if stage == 0:
            assert torch.allclose(stem, maps, atol=1e-4)  # C₁: before norm0
        weight, bias = (tensors[f"backbone.0.norm{stage}.{part}"] for part in ("weight", "bias"))
        expected = F.layer_norm(maps.permute(0, 2, 3, 1), maps.shape[1:2], weight, bias).permute(0, 3, 1, 2)
        assert torch.allclose(stages[stage], expected, atol=1e-4)
        if stage < 3:
            maps = embed(f"backbone.0.layers.{stage}.downsample", maps, 2, 3, 1)


def test_only_the_stages_read_have_a_norm():
    for first_stage, expected in ((0, ["norm0", "norm1", "norm2", "norm3"]), (1, ["norm1", "norm2", "norm3"])):
        for backbone in ("swin", "focalnet"):
            tensors = official_tensors(random_model(small_dino(backbone, first_stage)))
            norms = {key.split(".")[2] for key in tensors if key.startswith("backbone.0.norm")}
            assert sorted(norms) == expected
    swin = SwinStages(BACKBONES["swin"]).eval()
    stem, stages = swin(torch.randn(1, 3, 64, 48))
    assert stem.shape == (1, 16, 16, 12)
    assert [tuple(stage.shape[1:]) for stage in stages] == [(32, 8, 6), (64, 4, 3), (128, 2, 2)]
