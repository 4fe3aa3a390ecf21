"""Small official detectors for the tests: every layer kind, few of each, random weights from a seed."""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from mask_frozen_detr.detectors.official.config import BackboneConfig, OfficialConfig, deformable_detr, dino
from mask_frozen_detr.detectors.official.model import OfficialDetr
from mask_frozen_detr.detectors.official.renames import official_name
from mask_frozen_detr.detectors.preprocessing import collate_images

BACKBONES = {
    "resnet": BackboneConfig("resnet", (1, 1, 1, 1)),
    "swin": BackboneConfig("swin", (2, 1, 2, 2), width=16, heads=(1, 2, 2, 4), window=3),
    "focalnet": BackboneConfig("focalnet", (1, 1, 2, 1), width=16, window=3, focal_levels=4, normalize_modulator=True),
}
SMALL = {"width": 64, "heads": 4, "points": 2, "ffn": 48, "encoder_layers": 4, "decoder_layers": 3, "num_classes": 7}


def small_dino(backbone: str = "swin", first_stage: int = 1, **changes) -> OfficialConfig:
    built = BackboneConfig(**{**vars(BACKBONES[backbone]), "first_stage": first_stage})
    return dino(built, **{"num_queries": 20, "levels": 5 - first_stage, **SMALL, **changes})


def small_deformable(backbone: str = "swin", content_rows: int = 32, **changes) -> OfficialConfig:
    return deformable_detr(BACKBONES[backbone], **{"num_queries": 20, "content_rows": content_rows, **SMALL, **changes})


def random_model(config: OfficialConfig, seed: int = 0, encoder_layer: int = 4) -> OfficialDetr:
    """Weights that keep activations of order one, so that nothing hides behind a zero.

    Without gradients: torch's CPU kernels round differently for weights that require them, even under `no_grad`.
    """
    model = OfficialDetr(config, encoder_layer).eval().requires_grad_(False)
    randomise(model, seed)
    return model


def randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for key, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if key.endswith("running_var"):
            value.copy_(noise.abs() + 0.5)
        elif value.ndim > 1 and value.is_floating_point():
            value.copy_(noise / math.sqrt(value[0].numel()))
        elif value.is_floating_point():
            centre = 1.0 if key.endswith(("weight", "gamma_1", "gamma_2")) else 0.0
            value.copy_(centre + 0.1 * noise)


def official_tensors(model: OfficialDetr) -> dict[str, Tensor]:
    """The model's weights in the layout of the authors' files, with all that those repeat or hold besides."""
    config = model.config
    tensors: dict[str, Tensor] = {}
    projections: dict[str, list[Tensor]] = {}
    body = config.family != "dino" or config.backbone.kind == "resnet"
    for key, value in model.state_dict().items():
        name = official_name(key, config)
        if body:
            name = name.replace("backbone.0.", "backbone.0.body.")
        if ".attn.qkv." in name:
            projections.setdefault(name, []).append(value)
        else:
            tensors[name] = value
    for name, parts in projections.items():
        order = [parts[0], parts[1], parts[2]]
        tensors[name] = torch.cat(order)
    for name in list(tensors):
        if name.startswith(("class_embed.", "bbox_embed.")):
            tensors[f"transformer.decoder.{name}"] = tensors[name]
        if name.endswith("relative_position_bias_table"):
            side = config.backbone.window**2
            tensors[name.replace("bias_table", "index")] = torch.zeros(side, side, dtype=torch.long)
    if config.family == "dino":
        tensors["label_enc.weight"] = torch.zeros(config.num_classes + 1, config.width)
    return tensors


def write_checkpoint(model: OfficialDetr, path: Path, **args) -> Path:
    """A file as the authors' training writes it."""
    config = model.config
    args = {"nheads": config.heads, "lr": 1e-4, "backbone": "some", **args}
    if config.family != "dino":
        args["num_queries_one2one"] = config.num_queries
    content = {
        "model": official_tensors(model),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "epoch": 11,
        "args": argparse.Namespace(**args),
    }
    torch.save(content, path)
    return path


def padded_batch(seed: int = 0, sizes=((90, 133), (128, 70))) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return collate_images([torch.randn(3, *size, generator=generator) for size in sizes])


FAMILIES = {"h-detr": small_deformable(), "dino": small_dino(), "deformable detr": small_deformable(content_rows=0)}
