"""Which parts the mask network is built from: one field a choice that the paper's tables vary."""

from dataclasses import dataclass
from typing import Literal

EncoderKind = Literal["deformable", "swin", "convnext", "none"]
HeadKind = Literal["dot-product", "segmenter"]
StemKind = Literal["auto", "backbone", "pixels"]


@dataclass(frozen=True)
class MaskNetworkConfig:
    """The paper's default network; `training_free()` is its section 3.1.

    Raises ValueError where a combination makes no sense, with the reason.
    """

    image_encoder: EncoderKind = "deformable"  # Table 2
    image_layers: int = 2  # Tables 2 and 16
    box_encoder: EncoderKind = "deformable"  # Table 3
    box_layers: int = 2  # Tables 3 and 16; the query encoder has as many
    mask_width: int | None = 128  # c of Table 4; None leaves the detector's width, without a channel mapper
    query_ffn: bool = True  # Table 5
    query_b2o: bool = True  # box-to-object attention, equation 11
    query_o2o: bool = False  # object-to-object attention, equation 10: lowers AP in the paper
    roi_align: bool = True  # Table 1; off = equation 1
    roi_size: int = 32  # r of Table 10
    stem: bool = True  # add the backbone's stride-4 map C₁ to E₁ (Table 1)
    # C₁ of the backbone, or a stem learned from the pixels; auto: the backbone's earliest map where it is finer than E₁
    stem_from: StemKind = "auto"
    neck: bool = True  # 1 × 1 conv and GroupNorm on C₁, equation 14 (Table 12)
    head: HeadKind = "dot-product"  # Table 14
    mask_scoring: bool = True  # equations 12 and 13; off = equation 2 (Table 12)

    def __post_init__(self) -> None:
        for kind, layers, name in (
            (self.image_encoder, self.image_layers, "image"),
            (self.box_encoder, self.box_layers, "box"),
        ):
            if kind not in ("deformable", "swin", "convnext", "none"):
                raise ValueError(f"{name}_encoder: found {kind!r}, expected 'deformable', 'swin', 'convnext' or 'none'")
            if not 0 <= layers <= 8:
                raise ValueError(f"{name}_layers: found {layers}, expected 0 to 8")
            if (kind == "none") != (layers == 0):
                raise ValueError(
                    f"{name}_encoder {kind!r} with {layers} layers: 'none' goes with 0 layers, others with 1 or more"
                )
        if self.stem_from not in ("auto", "backbone", "pixels"):
            raise ValueError(f"stem_from: found {self.stem_from!r}, expected 'auto', 'backbone' or 'pixels'")
        if self.head not in ("dot-product", "segmenter"):
            raise ValueError(f"head: found {self.head!r}, expected 'dot-product' or 'segmenter'")
        if self.mask_width is not None and (self.mask_width < 8 or self.mask_width % 8):
            raise ValueError(f"mask_width: found {self.mask_width}, expected a multiple of the 8 attention heads")
        if self.roi_size < 4 or self.roi_size % 4:
            raise ValueError(f"roi_size: found {self.roi_size}, expected a multiple of 4 from 4 on")
        if not self.roi_align:
            for on, part in (
                (self.box_encoder != "none", "a box feature encoder"),
                (self.query_b2o, "box-to-object attention"),
                (self.mask_scoring, "mask scoring"),
            ):
                if on:
                    raise ValueError(f"{part} works on RoIAlign's box features: it needs roi_align")
        if self.neck and not self.stem:
            raise ValueError("neck works on the backbone's stride-4 map: it needs stem")
        if (self.query_ffn or self.query_b2o or self.query_o2o) and self.box_encoder == "none":
            raise ValueError("the query feature encoder has as many layers as the box feature encoder: it needs one")
        if self.query_layers and not self.query_ffn:
            raise ValueError("attention in the query feature encoder goes with its FFN (Table 5): set query_ffn")

    @property
    def query_layers(self) -> int:
        """Layers of the query feature encoder: as many as the box encoder's, or none."""
        return self.box_layers if self.query_ffn or self.query_b2o or self.query_o2o else 0

    @property
    def trainable(self) -> bool:
        """False for the training-free baseline."""
        return self != training_free(roi_align=self.roi_align, stem=self.stem, roi_size=self.roi_size)


def training_free(roi_align: bool = True, stem: bool = True, roi_size: int = 32) -> MaskNetworkConfig:
    """The baseline without any parameter: equations 1 to 4, the four rows of Table 1."""
    return MaskNetworkConfig(
        image_encoder="none",
        image_layers=0,
        box_encoder="none",
        box_layers=0,
        mask_width=None,
        query_ffn=False,
        query_b2o=False,
        roi_align=roi_align,
        roi_size=roi_size,
        stem=stem,
        neck=False,
        mask_scoring=False,
    )
