"""What one official checkpoint is: H-Deformable-DETR (Jia et al., 2023) or DINO (Zhang et al., 2023), any backbone.

One model serves both families (`model.OfficialDetr`); it reads the fields below and never the family's name. They
differ in the fields that `deformable_detr` and `dino` fill in.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True)
class BackboneConfig:
    """A ResNet (bottleneck), Swin or FocalNet of four stages."""

    kind: Literal["resnet", "swin", "focalnet"]
    depths: tuple[int, ...]  # blocks a stage
    width: int = 64  # channels of the first stage; in a ResNet a quarter of them
    heads: tuple[int, ...] = ()  # Swin: attention heads a stage
    window: int = 0  # Swin: side of the attention window; FocalNet: kernel of the first focal level
    focal_levels: int = 0  # FocalNet: context levels; each kernel is 2 wider than the one before
    normalize_modulator: bool = False  # FocalNet: divide the modulator by the levels + 1 (fl4)
    first_stage: int = 1  # the detector reads the stages from this one on: 1 = stride 8, 0 = stride 4

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of the four stages (strides 4, 8, 16, 32)."""
        first = 4 * self.width if self.kind == "resnet" else self.width
        return tuple(first * 2**stage for stage in range(4))


@dataclass(frozen=True)
class OfficialConfig:
    """All that decides the outputs besides the weights."""

    family: Literal["deformable-detr", "h-deformable-detr", "dino"]
    backbone: BackboneConfig
    num_classes: int
    num_queries: int  # queries at inference
    levels: int  # feature maps: those of the backbone and coarser ones on top

    # What the two families do differently.
    content_rows: int  # learned content queries; 0: the content comes from the proposal's position
    position_per_layer: bool  # query position from each layer's reference box, or once from the proposal
    score_best_class: bool  # proposals ranked by their best class' logit, or by that of class 0
    decoder_norm: bool  # LayerNorm on what leaves the decoder; the refinement inside it never sees it
    shared_heads: bool  # one class and one box head for all decoder layers
    temperature: float  # of the image's sine position encoding
    cell_offset: float  # subtracted from a cell's index in that encoding
    logit_eps: float  # references are clamped by this much from 0 and 1 before their logit
    look_forward_twice: bool  # gradients of a layer's boxes reach the layer before; outputs are the same
    class_loss: float  # weight of the classification loss

    width: int = 256
    heads: int = 8
    points: int = 4
    ffn: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def deformable_detr(
    backbone: BackboneConfig,
    *,
    num_classes: int = 91,
    num_queries: int = 300,
    content_rows: int = 0,
    look_forward_twice: bool | None = None,
    **rest: Any,
) -> OfficialConfig:
    """Two-stage Deformable DETR with box refinement; H-Deformable-DETR where it has one-to-many queries.

    content_rows: rows of `query_embed` (mixed selection); the first `num_queries` of them serve inference.
    look_forward_twice: None = with mixed selection, as the authors train it.
    """
    return OfficialConfig(
        family="h-deformable-detr" if content_rows > num_queries else "deformable-detr",
        backbone=backbone,
        num_classes=num_classes,
        num_queries=num_queries,
        content_rows=content_rows,
        look_forward_twice=content_rows > 0 if look_forward_twice is None else look_forward_twice,
        **{
            "levels": 4,
            "position_per_layer": False,
            "score_best_class": False,
            "decoder_norm": False,
            "shared_heads": False,
            "temperature": 10000.0,
            "cell_offset": 0.5,
            "logit_eps": 1e-5,
            "class_loss": 2.0,
        }
        | rest,
    )


def dino(
    backbone: BackboneConfig, *, num_classes: int = 91, num_queries: int = 900, levels: int = 4, **rest: Any
) -> OfficialConfig:
    """DINO. Its code clamps references at 1e-3 before their logit where Deformable DETR's clamps at 1e-5."""
    return OfficialConfig(
        family="dino",
        backbone=backbone,
        num_classes=num_classes,
        num_queries=num_queries,
        content_rows=num_queries,
        levels=levels,
        **{
            "position_per_layer": True,
            "score_best_class": True,
            "decoder_norm": True,
            "shared_heads": True,
            "temperature": 20.0,
            "cell_offset": 0.0,
            "logit_eps": 1e-3,
            "look_forward_twice": True,
            "class_loss": 1.0,
        }
        | rest,
    )


def config_from_dict(values: dict[str, Any]) -> OfficialConfig:
    """The inverse of `OfficialConfig.as_dict` after a trip through JSON. Raises KeyError, TypeError on other keys."""
    backbone = dict(values["backbone"])
    for name in ("depths", "heads"):
        backbone[name] = tuple(backbone[name])
    known = {field.name for field in fields(OfficialConfig)}
    values = {key: value for key, value in values.items() if key != "max_detections"}  # of folders of older versions
    if unknown := sorted(set(values) - known):
        raise KeyError(f"unknown fields {unknown}")
    return OfficialConfig(**{**values, "backbone": BackboneConfig(**backbone)})
