"""The detectors of transformers, a table entry each: where their feature maps and the backbone's first stage are."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """How to read one model type of transformers.

    `encoder_maps` families hand out feature maps themselves; `encoder_tokens` families are tapped at the output of
    an encoder layer, as flat tokens, and at the input projections, whose maps give the levels' shapes.
    """

    model_type: str
    features: Literal["encoder_tokens", "encoder_maps"]
    backbone: str  # path of the module that holds the backbone
    cost_prefix: str = ""  # what stands before class_cost, bbox_cost, giou_cost in the configuration
    takes_mask: bool = False  # the forward pass uses pixel_mask
    encoder_layers: str = "model.encoder.layers"  # encoder_tokens only
    projections: str = "model.input_proj"  # encoder_tokens only


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("deformable_detr", "encoder_tokens", "model.backbone", takes_mask=True),
        Family("rt_detr", "encoder_maps", "model.backbone", cost_prefix="matcher_"),
        Family("rt_detr_v2", "encoder_maps", "model.backbone", cost_prefix="matcher_"),
        Family("d_fine", "encoder_maps", "model.backbone", cost_prefix="matcher_"),
        Family("deimv2", "encoder_maps", "model.conv_encoder", cost_prefix="matcher_"),
    )
}

# The first stage of each kind of backbone, below the family's backbone module: its output is C₁.
FIRST_STAGES: tuple[str, ...] = (
    "model.encoder.stages.0",  # transformers' ResNet, RT-DETR ResNet, HGNet-V2
    "model.layer1",  # timm's ResNet
)
