"""transformers' two-stage Deformable DETR on the same weights gives the same outputs, in a padded batch."""

import argparse
import re
from typing import Any

import pytest
import torch
import transformers
from official_samples import SMALL, padded_batch, randomise
from torch import Tensor, nn

from mask_frozen_detr.detectors.official import load_official

t: Any = transformers  # its configurations take more than their types say
NAMES = {
    r"^model\.(encoder|decoder)\.": r"transformer.\1.",
    r"^model\.(level_embed|enc_output|enc_output_norm|pos_trans|pos_trans_norm)(\.|$)": r"transformer.\1\2",
    r"^model\.input_proj\.": "input_proj.",
    r"(encoder.*)\.self_attn_layer_norm\.": r"\1.norm1.",
    r"(encoder.*)\.final_layer_norm\.": r"\1.norm2.",
    r"\.encoder_attn\.": ".cross_attn.",
    r"\.self_attn_layer_norm\.": ".norm2.",
    r"\.encoder_attn_layer_norm\.": ".norm1.",
    r"\.final_layer_norm\.": ".norm3.",
    r"\.(mlp\.)?fc(\d)\.": r".linear\2.",
    r"\.self_attn\.o(ut)?_proj\.": ".self_attn.out_proj.",
    r"^model\.backbone\.(conv_encoder\.)?model\.embedder\.embedder\.convolution\.": "backbone.0.body.conv1.",
    r"^model\.backbone\.(conv_encoder\.)?model\.embedder\.embedder\.normalization\.": "backbone.0.body.bn1.",
    r"\.layers\.(\d+)\.shortcut\.convolution\.": r".layers.\1.downsample.0.",
    r"\.layers\.(\d+)\.shortcut\.normalization\.": r".layers.\1.downsample.1.",
}


def official_name(key: str) -> str:
    for pattern, replacement in NAMES.items():
        key = re.sub(pattern, replacement, key)
    block = re.match(r"model\.backbone\..*?encoder\.stages\.(\d)\.layers\.(\d+)\.(.*)", key)
    if block:
        stage, index, rest = int(block[1]) + 1, block[2], block[3]
        rest = re.sub(r"^layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}", rest)
        rest = re.sub(r"^layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}", rest)
        key = f"backbone.0.body.layer{stage}.{index}.{rest}"
    return key


def official_tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors = {official_name(key): value for key, value in model.state_dict().items()}
    for layer in range(SMALL["decoder_layers"]):
        name = f"transformer.decoder.layers.{layer}.self_attn"
        for part in ("weight", "bias"):
            parts = [tensors.pop(f"{name}.{projection}_proj.{part}") for projection in "qkv"]
            tensors[f"{name}.in_proj_{part}"] = torch.cat(parts)
    return tensors


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    backbone = t.ResNetConfig(
        embedding_size=64,
        hidden_sizes=[256, 512, 1024, 2048],
        depths=[1, 1, 1, 1],
        layer_type="bottleneck",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = t.DeformableDetrConfig(
        backbone_config=backbone,
        d_model=SMALL["width"],
        encoder_layers=SMALL["encoder_layers"],
        decoder_layers=SMALL["decoder_layers"],
        encoder_attention_heads=SMALL["heads"],
        decoder_attention_heads=SMALL["heads"],
        encoder_n_points=SMALL["points"],
        decoder_n_points=SMALL["points"],
        encoder_ffn_dim=SMALL["ffn"],
        decoder_ffn_dim=SMALL["ffn"],
        num_labels=SMALL["num_classes"],
        two_stage=True,
        with_box_refine=True,
        two_stage_num_proposals=20,
    )
    model = t.DeformableDetrForObjectDetection(config).eval().requires_grad_(False)
    randomise(model, 0)
    return model


def test_two_stage_deformable_detr(theirs, tmp_path):
    args = argparse.Namespace(nheads=SMALL["heads"])
    torch.save({"model": official_tensors(theirs), "args": args}, tmp_path / "file.pth")
    ours = load_official(tmp_path / "file.pth", num_queries=20)
    assert ours.info.identity.family == "deformable-detr"
    pixel_values, pixel_mask = padded_batch()
    expected = theirs(pixel_values=pixel_values, pixel_mask=pixel_mask, output_hidden_states=True)
    found = ours(pixel_values, pixel_mask)
    assert torch.allclose(found.logits, expected.logits, atol=1e-4)
    assert torch.allclose(found.boxes, expected.pred_boxes, atol=1e-5)
    assert torch.allclose(found.queries, expected.last_hidden_state, atol=1e-4)
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in found.features], 1)
    assert torch.allclose(tokens, expected.encoder_last_hidden_state, atol=1e-4)  # 4 layers in all
