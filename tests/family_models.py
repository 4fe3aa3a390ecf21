"""A tiny random detector of every family in the table, with its own processor: nothing to download.

Configurations are shrunk field by field, so that a new entry of the table needs nothing here as long as its fields
have the usual names; `CHANGES` holds what has not. `VARIANTS` are further models of a family.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from mask_frozen_detr.detectors import FAMILIES, TransformersDetector, load_detector
from mask_frozen_detr.errors import UserError

t: Any = transformers  # its configurations take more than their types say

NAMES = dict(enumerate(("ant", "bee", "cow", "dog", "elk")))
PROMPT = "ant. bee. red cow. dog."
SIDE = 96  # of squashed images, and the shorter side of others
QUERIES = 12

SMALL: dict[str, Any] = {
    "num_queries": QUERIES,
    "two_stage_num_proposals": QUERIES,
    "num_detection_tokens": QUERIES,
    "d_model": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "encoder_layers": 5,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 4,
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 24, 32],
    "decoder_in_channels": [32, 32, 32],
    "hidden_expansion": 0.5,
    "num_denoising": 0,
    "group_detr": 2,
    "c2f_num_blocks": 1,
    "max_text_len": 32,
    "fusion_droppath": 0.0,
    "image_size": [SIDE, SIDE],
}


def resnet(kind: str, last: int) -> Any:
    """Stages of 16, 16, 24 and 32 channels at strides 4 to 32, of which those from `last` on are given out."""
    return getattr(t, kind)(
        embedding_size=16,
        hidden_sizes=[16, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=[f"stage{k}" for k in range(last, 5)],
    )


def hgnet(*stages: int) -> Any:
    return t.HGNetV2Config(
        embedding_size=8,
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 16, 24],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 16, 24, 32],
        hidden_sizes=[16, 16, 24, 32],
        depths=[1, 1, 1, 1],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_features=[f"stage{k}" for k in stages],
    )


def swin() -> Any:
    return t.SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        drop_path_rate=0.0,
        image_size=SIDE,
        out_features=["stage2", "stage3", "stage4"],
    )


def vit(kind: str, **settings: Any) -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "out_indices": [1, 2, 3]}
    return getattr(t, kind)(**{**sizes, **settings})


def bert() -> Any:
    return t.BertConfig(
        vocab_size=1100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )


GROUNDING = {"backbone_config": swin, "text_config": bert}
TOKENS = {"backbone_config": lambda: resnet("ResNetConfig", 4), "encoder_layers": 2}
CHANGES: dict[str, dict[str, Any]] = {
    "detr": TOKENS,
    "table-transformer": TOKENS,
    "conditional_detr": TOKENS,
    "dab-detr": TOKENS,
    "lw_detr": {
        "backbone_config": lambda: vit(
            "LwDetrViTConfig", num_windows=4, window_block_indices=[0], pretrain_image_size=SIDE, image_size=SIDE
        ),
        "projector_scale_factors": [1.0],
    },
    "rf_detr": {
        "backbone_config": lambda: vit("RfDetrDinov2Config", num_windows=2, image_size=84, patch_size=14),
        "image_size": 84,
    },
    "grounding-dino": GROUNDING,
    "mm-grounding-dino": GROUNDING,
    "yolos": {"use_mid_position_embeddings": False},
    "pp_doclayout_v2": {
        "class_thresholds": [0.1] * len(NAMES),  # some queries lie above it, some below, and so are sorted
        "class_order": [*range(len(NAMES))],
        "reading_order_config": {
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "intermediate_size": 16,
            "num_classes": len(NAMES),
            "coordinate_size": 4,
            "shape_size": 4,
        },
    },
    "pp_doclayout_v3": {
        "backbone_config": lambda: hgnet(1, 2, 3, 4),
        "x4_feat_dim": 16,
        "mask_feature_channels": [16, 16],
        "num_prototypes": 8,
        "mask_enhanced": False,
    },
}
PROCESSORS = {  # as their checkpoints have it, where transformers names none
    "dab-detr": "ConditionalDetrImageProcessor",
    "rt_detr_v2": "RTDetrImageProcessor",
    "d_fine": "RTDetrImageProcessor",
    "mm-grounding-dino": "GroundingDinoImageProcessor",
}
TWO_LEVELS = {"feat_strides": [16, 32], "decoder_in_channels": [32, 32], "num_feature_levels": 2}


@dataclass(frozen=True)
class TinyModel:
    """A model of one family; `changes` are fields of its configuration, or functions that make them."""

    name: str
    model_type: str
    changes: dict[str, Any] = field(default_factory=dict, hash=False)
    cell: int | None = None  # pixels that E₁ tells apart, where they are more than its stride

    @property
    def family(self):
        return FAMILIES[self.model_type]

    @property
    def pads(self) -> bool:
        """Whether images keep their shape, so that batches of different sizes occur."""
        return self.family.takes_mask or self.model_type == "yolos"

    def config(self) -> Any:
        kind = self.family.load_class().config_class
        names = {entry.name for entry in dataclasses.fields(kind)}
        backbones = {"backbone_config": lambda: resnet("ResNetConfig", 2)}
        settings = {**SMALL, **backbones, **CHANGES.get(self.model_type, {}), **self.changes}
        made = {name: value() if callable(value) else value for name, value in settings.items() if name in names}
        return kind(**made, id2label=NAMES, label2id={name: k for k, name in NAMES.items()})

    def build(self, seed: int = 0) -> transformers.PreTrainedModel:
        torch.manual_seed(seed)
        model = self.family.load_class()(self.config()).eval()
        scatter(model)
        if not self.pads:
            calibrate(model, 84 if self.model_type == "rf_detr" else SIDE)
        return model

    def processor(self) -> Any:
        kind = PROCESSORS.get(self.model_type) or IMAGE_PROCESSOR_MAPPING_NAMES[self.model_type]["torchvision"]
        side = 84 if self.model_type == "rf_detr" else SIDE
        size = {"shortest_edge": side, "longest_edge": 2 * side} if self.pads else {"height": side, "width": side}
        return getattr(t, kind)(size=size)

    def save(self, folder: Path, seed: int = 0) -> Path:
        """The model and its processors, as transformers' Trainer leaves them."""
        self.build(seed).save_pretrained(folder)
        self.processor().save_pretrained(folder)
        if self.family.prompted:
            tokenizer().save_pretrained(folder)
        return folder

    def load(self, folder: Path) -> TransformersDetector:
        detector = load_detector(folder, prompt=PROMPT if self.family.prompted else None)
        assert isinstance(detector, TransformersDetector)
        return detector


def scatter(model: nn.Module) -> None:
    """Random weights that spread, so that no two queries, boxes or scores are alike. Backbones keep their biases, 0:
    what is 0 in the image stays 0, as in padding."""
    generator = torch.Generator().manual_seed(1)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 4:  # convolutions
                parameter.copy_(1.2 * noise * parameter[0].numel() ** -0.5)
            elif re.search("backbone|conv_encoder", name):
                continue
            elif parameter.ndim < 2:
                parameter.add_(0.1 * noise)
            elif id(parameter) in tables:
                parameter.copy_(2 * noise)
            else:
                gain = 0.7 if "bbox" in name else 0.5 if "encoder" in name else 2.0
                parameter.copy_(gain * noise * parameter[0].numel() ** -0.5)


def calibrate(model: nn.Module, side: int) -> None:
    """Give batch norms the statistics of noise: maps, and with them queries, then differ from place to place."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(pixel_values=torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(2)))
    for norm in norms:
        norm.eval()


def tokenizer() -> Any:
    """BERT's with a thousand idle words; the special tokens have the numbers that Grounding DINO knows them by."""
    words = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    words |= {200 + k: word for k, word in enumerate(("ant", "bee", "red", "cow", "dog", "elk", "##s"))}
    return t.BertTokenizer(vocab={words.get(k, f"[unused{k}]"): k for k in range(1100)})


def installed(model: TinyModel) -> bool:
    try:
        model.family.load_class()
    except UserError:
        return False
    return True


VARIANTS: tuple[TinyModel, ...] = (
    TinyModel("deformable_detr refined", "deformable_detr", {"with_box_refine": True}),
    TinyModel("deformable_detr two-stage", "deformable_detr", {"with_box_refine": True, "two_stage": True}),
    TinyModel("rt_detr own backbone", "rt_detr", {"backbone_config": lambda: resnet("RTDetrResNetConfig", 2)}),
    TinyModel("rt_detr narrow maps", "rt_detr", {"encoder_hidden_dim": 24, "decoder_in_channels": [24, 24, 24]}),
    TinyModel("d_fine hgnet", "d_fine", {"backbone_config": lambda: hgnet(2, 3, 4)}),
    TinyModel(
        "d_fine nano",
        "d_fine",
        {
            "backbone_config": lambda: hgnet(3, 4),
            "encoder_in_channels": [24, 32],
            "encode_proj_layers": [1],
            **TWO_LEVELS,
        },
    ),
    TinyModel("deimv2 hgnet", "deimv2", {"backbone_config": lambda: hgnet(2, 3, 4)}),
    TinyModel(
        "deimv2 femto",
        "deimv2",
        {
            "backbone_config": lambda: hgnet(3),
            "encoder_in_channels": [24],
            "encoder_type": "lite",
            "encoder_layers": 0,
            **TWO_LEVELS,
        },
    ),
    TinyModel(
        "deimv2 dinov3",
        "deimv2",
        {
            "backbone_config": lambda: vit("DINOv3ViTConfig", intermediate_size=16, patch_size=16),
            "encoder_in_channels": [16, 16, 16],
            "spatial_tuning_adapter_inplanes": 8,
        },
    ),
    TinyModel("lw_detr two maps", "lw_detr", {"projector_scale_factors": [2.0, 0.5]}, cell=16),
)
TINY_MODELS = [*(TinyModel(model_type, model_type) for model_type in FAMILIES), *VARIANTS]
