"""Which parts the mask network is built from: one field a choice that the paper's tables vary."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

EncoderKind = Literal["deformable", "swin", "convnext", "none"]
HeadKind = Literal["dot-product", "segmenter"]
StemKind = Literal["auto", "backbone", "pixels"]
ActivationKind = Literal["gelu", "relu"]
NormKind = Literal["layer", "batch"]

CHOICES: dict[str, tuple[Any, ...]] = {
    "image_encoder": get_args(EncoderKind),
    "box_encoder": get_args(EncoderKind),
    "stem_from": get_args(StemKind),
    "head": get_args(HeadKind),
    "box_activation": get_args(ActivationKind),
    "box_norm": get_args(NormKind),
}
BOOLEANS = (
    "query_ffn",
    "query_b2o",
    "query_o2o",
    "roi_align",
    "stem",
    "neck",
    "finer_look",
    "mask_scoring",
    "box_pyramid",
)
# Far beyond what helps, and within what memory holds: a configuration may come from a file.
MAX_LAYERS = 8
MAX_MASK_WIDTH = 2048
MAX_ROI_SIZE = 256
MAX_ROI_SAMPLES = 4
MAX_UPSAMPLE = 4
MAX_MASK_SIDE = 512
MAX_SCORING_WEIGHTS = 2**28


@dataclass(frozen=True)
class MaskNetworkConfig:
    """The paper's default network; `training_free()` is its section 3.1.

    Raises ValueError where a combination makes no sense, with the reason.
    """

    # What refines the detector's maps (Table 2): deformable is best and slowest, convnext the fastest that learns.
    image_encoder: EncoderKind = "deformable"
    # Its layers (Tables 2 and 16); 0 goes with none.
    image_layers: int = 2
    # What refines the piece of the maps in each box (Table 3): worth most; convnext is faster on a CPU.
    box_encoder: EncoderKind = "deformable"
    # Its layers (Tables 3 and 16); the query encoder has as many.
    box_layers: int = 2
    # Of ConvNeXt layers in boxes: gelu is theirs in the paper, relu is as good and faster on a CPU.
    box_activation: ActivationKind = "gelu"
    # Their normalisation: layer is the paper's; batch is as good, part of a convolution once it has learned, and
    # faster where it is exported.
    box_norm: NormKind = "layer"
    # Refine a box coarsely first, where a layer is cheap and sees all of the object: each ConvNeXt layer has cells of
    # half the side of those of the layer before, the last all r × r.
    box_pyramid: bool = False
    # c, the channels of masks (Table 4): fewer are faster; None takes the detector's own width.
    mask_width: int | None = 128
    # Refine each query by a feed-forward network (Table 5).
    query_ffn: bool = True
    # Let each query look at its box (box-to-object attention, equation 11).
    query_b2o: bool = True
    # Let queries look at each other (object-to-object attention, equation 10): lowers AP in the paper.
    query_o2o: bool = False
    # Make masks within boxes (Table 1); off, over the whole image (equation 1).
    roi_align: bool = True
    # r, the cells of a box's side (Table 10): 16 is several times faster than 32.
    roi_size: int = 32
    # Points along the side of each of its cells that RoIAlign reads: 1 is faster than the usual 2, and as good.
    roi_samples: int = 2
    # f, the cells of a mask that each cell of a box draws along its side: 2 with --roi-size 8 makes a hundred masks
    # much faster than 16 alone, for some 2 AP (docs/presets.md).
    upsample: int = 1
    # Add the backbone's stride-4 map C₁ to E₁ (Table 1).
    stem: bool = True
    # C₁ of the backbone, or a stem learned from the pixels; auto takes the backbone's earliest map where it is finer
    # than E₁.
    stem_from: StemKind = "auto"
    # Normalise C₁ before it is added (equation 14, Table 12).
    neck: bool = True
    # Let the frozen backbone see the picture once more, at twice the size, and add its maps of that: finer masks for
    # four times the backbone's cost (docs/presets.md). Boxes stay the detector's.
    finer_look: bool = False
    # How a query meets its box's features (Table 14).
    head: HeadKind = "dot-product"
    # Predict each mask's IoU and score by it (equations 12 and 13, Table 12); off scores by equation 2, which serves
    # small data.
    mask_scoring: bool = True

    def __post_init__(self) -> None:
        for name in BOOLEANS:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: found {getattr(self, name)!r}, expected True or False")
        for name, expected in CHOICES.items():
            if getattr(self, name) not in expected:
                *others, last = map(repr, expected)
                raise ValueError(f"{name}: found {getattr(self, name)!r}, expected {', '.join(others)} or {last}")
        self._check_number("image_layers", 0, MAX_LAYERS)
        self._check_number("box_layers", 0, MAX_LAYERS)
        self._check_number("roi_size", 4, MAX_ROI_SIZE, "a multiple of 4")
        self._check_number("roi_samples", 1, MAX_ROI_SAMPLES)
        self._check_number("upsample", 1, MAX_UPSAMPLE)
        if self.mask_side > MAX_MASK_SIDE:
            raise ValueError(
                f"upsample {self.upsample} with roi_size {self.roi_size}: found {self.mask_side} cells a side of a "
                f"mask, expected at most {MAX_MASK_SIDE}; make either smaller"
            )
        if self.mask_width is not None:
            self._check_number("mask_width", 8, MAX_MASK_WIDTH, "a multiple of the 8 attention heads")
            flattened = self.mask_width * (self.roi_size // 8) ** 2 * self.mask_width
            if self.mask_scoring and flattened > MAX_SCORING_WEIGHTS:
                raise ValueError(
                    f"mask_width {self.mask_width} with roi_size {self.roi_size}: found a layer of {flattened} weights "
                    f"in mask scoring, expected at most {MAX_SCORING_WEIGHTS}; make either smaller"
                )
        for kind, layers, name in (
            (self.image_encoder, self.image_layers, "image"),
            (self.box_encoder, self.box_layers, "box"),
        ):
            if (kind == "none") != (layers == 0):
                raise ValueError(
                    f"{name}_encoder {kind!r} with {layers} layers: 'none' goes with 0 layers, others with 1 or more"
                )
        if not self.roi_align:
            for on, part in (
                (self.box_encoder != "none", "a box feature encoder"),
                (self.upsample > 1, "a mask finer than its features"),
                (self.query_b2o, "box-to-object attention"),
                (self.mask_scoring, "mask scoring"),
            ):
                if on:
                    raise ValueError(f"{part} works on RoIAlign's box features: it needs roi_align")
        if self.neck and not self.stem:
            raise ValueError("neck works on the backbone's stride-4 map: it needs stem")
        if self.finer_look and not (self.neck and self.stem_from != "pixels"):
            raise ValueError("finer_look adds maps of the backbone, each normalised: it needs neck, and no other stem")
        if (self.query_ffn or self.query_b2o or self.query_o2o) and self.box_encoder == "none":
            raise ValueError("the query feature encoder has as many layers as the box feature encoder: it needs one")
        if self.query_layers and not self.query_ffn:
            raise ValueError("attention in the query feature encoder goes with its FFN (Table 5): set query_ffn")

    def _check_number(self, name: str, least: int, most: int, multiple: str = "") -> None:
        """A whole number from `least` to `most`; with `multiple` in words, one that `least` divides."""
        found = getattr(self, name)
        whole = isinstance(found, int) and not isinstance(found, bool)
        if not whole or not least <= found <= most or (multiple and found % least):
            raise ValueError(f"{name}: found {found!r}, expected {multiple or 'a whole number'} from {least} to {most}")

    @property
    def query_layers(self) -> int:
        """Layers of the query feature encoder: as many as the box encoder's, or none."""
        return self.box_layers if self.query_ffn or self.query_b2o or self.query_o2o else 0

    @property
    def mask_side(self) -> int:
        """Cells of a mask's side, r · f, of masks within boxes."""
        return self.roi_size * self.upsample

    @property
    def trainable(self) -> bool:
        """False for the training-free baseline."""
        baseline = training_free(roi_align=self.roi_align, stem=self.stem, roi_size=self.roi_size)
        without_weights = ("roi_samples", "box_activation", "box_norm", "box_pyramid")
        return self != replace(baseline, **{name: getattr(self, name) for name in without_weights})


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
