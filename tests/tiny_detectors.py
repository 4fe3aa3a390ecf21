"""The detectors that most tests take: tiny, of random weights that let the image through, of three classes."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

t: Any = transformers  # its configurations take more than their types say

NAMES = dict(enumerate(["disc", "ring", "star"]))  # three of the six kinds of shape
SIDE = 96  # of the squashing detector


def build_squashing_detector(folder: Path, seed: int = 0, names: dict[int, str] = NAMES) -> Path:
    """An RT-DETR of one fixed input size: strides 8, 16 and 32, a stride-4 stage, 20 queries."""
    config = t.RTDetrConfig(
        backbone_config=_resnet("RTDetrResNetConfig", [8, 16, 16, 16], first=2),
        freeze_backbone_batch_norms=False,
        encoder_hidden_dim=16,
        encoder_in_channels=[16, 16, 16],
        hidden_expansion=0.5,
        decoder_in_channels=[16, 16, 16],
        num_denoising=0,
        **_transformer(16, 16, encoder_layers=1, decoder_layers=2),
        **_answers(20, names),
    )
    model = t.RTDetrForObjectDetection(config).eval()
    _draw_weights(model, seed)
    return _save(folder, model, t.RTDetrImageProcessor(size={"height": SIDE, "width": SIDE}))


def build_padding_detector(folder: Path, seed: int = 0) -> Path:
    """A Deformable DETR, which takes any size and pads batches: strides 8 to 64, two encoder layers, 15 queries."""
    config = t.DeformableDetrConfig(
        backbone_config=_resnet("ResNetConfig", [8, 8, 16, 16], first=2),
        **_transformer(32, 16, encoder_layers=2, decoder_layers=2),
        **_answers(15),
    )
    model = t.DeformableDetrForObjectDetection(config).eval()
    _draw_weights(model, seed)
    # Two cells a side at stride 64: group norm wants more than one.
    return _save(folder, model, t.DeformableDetrImageProcessor(size={"shortest_edge": 128, "longest_edge": 192}))


def build_smallest_detector(folder: Path, side: int) -> Path:
    """A DETR of 115 tensors and one fixed input size: one stride, 10 queries, some of which find objects."""
    config = t.DetrConfig(
        backbone_config=_resnet("ResNetConfig", [8, 8, 8, 8], first=4),
        **_transformer(8, 8, encoder_layers=1, decoder_layers=1),
        **_answers(10),
    )
    model = t.DetrForObjectDetection(config).eval()
    _draw_weights(model, seed=0)
    with torch.no_grad():
        model.class_labels_classifier.bias[-1] = -2  # of "no object", or nothing would be found
    return _save(folder, model, t.DetrImageProcessor(size={"height": side, "width": side}))


def _resnet(kind: str, widths: list[int], first: int) -> Any:
    """Stages of these widths at strides 4 to 32, of which those from `first` on are given out."""
    return getattr(t, kind)(
        embedding_size=8,
        hidden_sizes=widths,
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=[f"stage{number}" for number in range(first, 5)],
    )


def _transformer(width: int, hidden: int, encoder_layers: int, decoder_layers: int) -> dict[str, int]:
    sides = {"encoder_attention_heads": 2, "encoder_ffn_dim": hidden, "encoder_layers": encoder_layers}
    sides |= {"decoder_attention_heads": 2, "decoder_ffn_dim": hidden, "decoder_layers": decoder_layers}
    return {"d_model": width, **sides}


def _answers(queries: int, names: dict[int, str] = NAMES) -> dict[str, Any]:
    return {"num_queries": queries, "id2label": names, "label2id": {name: number for number, name in names.items()}}


def _draw_weights(model: nn.Module, seed: int) -> None:
    """Weights that let the image through: transformers' own are small enough to give one answer to every image."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                scale = 1.5 * parameter.shape[1:].numel() ** -0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            elif name.endswith("weight"):
                parameter.fill_(1.0)


def _save(folder: Path, model: Any, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
