"""The figures of the paper's Tables 1 to 16, digit for digit, and the configuration behind each row.

One `PaperRow` a printed row, the repeated ones too; the row `name` of table N is the recipe `tableN-name`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mask_frozen_detr.network.config import MaskNetworkConfig


@dataclass(frozen=True)
class PaperRow:
    """One printed row. None: the table has no such column, or prints "-" there."""

    table: int
    name: str  # unlike all others of its table
    ap: float | None = None  # mask AP and its kinds, in percent, on COCO val; Table 7: on test-dev
    ap50: float | None = None
    ap75: float | None = None
    ap_s: float | None = None
    ap_m: float | None = None
    ap_l: float | None = None
    gmacs: float | None = None  # "#FLOPs (G)", which are multiply-accumulates
    params_m: float | None = None  # "#params (M)" that the mask network adds
    gpu_hours: float | None = None  # V100 hours of training
    ap_box: float | None = None
    network: Mapping[str, Any] | None = None  # `MaskNetworkConfig` fields; None: another method's row
    training: Mapping[str, Any] = field(default_factory=dict)  # what differs from `TRAINING`
    epochs: int = 6  # 0: nothing is trained
    detector: str = "H-DETR"
    backbone: str = "R50"
    objects365: bool = True  # pre-trained on Objects365
    method: str = "Mask Frozen-DETR"

    @property
    def config(self) -> MaskNetworkConfig:
        """The row's mask network. Raises ValueError for a row of another method."""
        if self.network is None:
            raise ValueError(f"table {self.table}, row {self.name!r}: {self.method} has no mask network")
        return MaskNetworkConfig(**self.network)


TRAINING: Mapping[str, Any] = {
    "batch": 8,
    "sampled_points": True,  # comes with Table 12: off in Tables 2 to 5
    "large_scale_jitter": False,
    "encoder_layer": 4,
    "finetune": "none",  # or "partial", the detector's transformer, or "full"
}
"""How the paper trains where a row does not say otherwise."""


def _rows(table: int, columns: str, *rows: tuple[str, str, dict[str, Any]], **common: Any) -> list[PaperRow]:
    """Rows of (name, figures in the order of `columns`, other fields); `common` holds for all of them."""

    def fields(figures: str) -> dict[str, Any]:
        pairs = zip(columns.split(), figures.split(), strict=True)
        return {column: None if figure == "-" else float(figure) for column, figure in pairs}

    return [PaperRow(table, name, **fields(figures), **{**common, **others}) for name, figures, others in rows]


def _net(base: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {"network": {**base, **changes}}


AP = "ap ap50 ap75 ap_s ap_m ap_l"
COST = "gmacs params_m"

# The paper builds its network step by step, each from the one before: what differs from the full network at each.
_FULL: dict[str, Any] = {}
_NECK = {"mask_scoring": False}  # Table 12, second and third row
_QUERY = {**_NECK, "neck": False}  # Table 5, last row
_BOX = {**_QUERY, "query_ffn": False, "query_b2o": False}  # Table 4, second row
_WIDE_BOX = {**_BOX, "mask_width": None}  # Table 3, third row
_IMAGE = {**_WIDE_BOX, "box_encoder": "none", "box_layers": 0}  # Table 2, third row
_BASELINE = {**_IMAGE, "image_encoder": "none", "image_layers": 0}  # Table 1, last row

_NO_POINTS = {"sampled_points": False}
# Table 11 names only the encoders as left out: the other parts stay.
_NO_ENCODERS = {
    "image_encoder": "none",
    "image_layers": 0,
    "box_encoder": "none",
    "box_layers": 0,
    "query_ffn": False,
    "query_b2o": False,
}
_PARTIAL, _FINETUNE = {"finetune": "partial"}, {"finetune": "full"}
_H_SWIN = {"backbone": "Swin-L"}
_DINO = {"detector": "DINO", "backbone": "FocalNet-L"}


def _other(method: str, backbone: str, epochs: int, objects365: bool = False) -> dict[str, Any]:
    return {
        "method": method,
        "detector": "",
        "backbone": backbone,
        "epochs": epochs,
        "objects365": objects365,
        "network": None,
    }


def _encoder(base: Mapping[str, Any], part: str, kind: str, layers: int) -> dict[str, Any]:
    return _net(base, **{f"{part}_encoder": kind, f"{part}_layers": layers})


PAPER: list[PaperRow] = [
    *_rows(
        1,
        f"{COST} {AP}",
        ("plain", "1.49 0.0 0.0 0.1 0.0 0.0 0.0 0.1", _net(_BASELINE, roi_align=False, stem=False)),
        ("roi", "0.53 0.0 4.4 14.8 1.3 2.7 4.6 7.5", _net(_BASELINE, stem=False)),
        ("stem", "1.50 0.0 0.0 0.1 0.0 0.0 0.0 0.1", _net(_BASELINE, roi_align=False)),
        ("roi-stem", "0.54 0.0 5.1 17.0 1.5 3.2 4.9 8.4", _net(_BASELINE)),
        epochs=0,
    ),
    *_rows(
        2,
        f"{COST} {AP}",
        ("none", "0.54 0.0 5.1 17.0 1.5 3.2 4.9 8.4", {**_net(_BASELINE), "epochs": 0}),
        ("deformable-1", "14.71 0.76 30.8 58.2 29.5 13.5 32.7 49.0", _encoder(_IMAGE, "image", "deformable", 1)),
        ("deformable-2", "28.88 1.51 32.9 60.0 32.4 14.9 35.3 52.1", _encoder(_IMAGE, "image", "deformable", 2)),
        ("deformable-3", "43.04 2.27 33.7 60.5 33.7 15.1 36.3 53.4", _encoder(_IMAGE, "image", "deformable", 3)),
        ("swin-1", "14.20 0.80 30.0 58.0 28.0 13.8 32.3 46.3", _encoder(_IMAGE, "image", "swin", 1)),
        ("swin-2", "27.86 1.59 31.6 59.2 30.4 14.5 34.2 48.6", _encoder(_IMAGE, "image", "swin", 2)),
        ("swin-3", "41.51 2.39 32.2 59.6 31.3 14.9 34.8 49.5", _encoder(_IMAGE, "image", "swin", 3)),
        ("convnext-1", "8.12 0.54 27.5 55.9 24.4 12.7 29.8 42.1", _encoder(_IMAGE, "image", "convnext", 1)),
        ("convnext-2", "15.70 1.08 30.0 58.1 27.8 13.9 32.4 46.0", _encoder(_IMAGE, "image", "convnext", 2)),
        ("convnext-3", "23.27 1.62 30.7 58.5 28.9 14.3 33.2 46.9", _encoder(_IMAGE, "image", "convnext", 3)),
        training=_NO_POINTS,
    ),
    *_rows(
        3,
        f"{COST} {AP}",
        ("none", "28.88 1.51 32.9 60.0 32.4 14.9 35.3 52.1", _net(_IMAGE)),
        ("deformable-1", "98.55 2.46 44.4 67.6 48.0 24.5 47.7 62.8", _encoder(_WIDE_BOX, "box", "deformable", 1)),
        ("deformable-2", "168.23 3.14 44.9 67.7 48.6 24.9 48.2 63.4", _encoder(_WIDE_BOX, "box", "deformable", 2)),
        ("deformable-3", "237.91 3.82 45.1 67.8 48.9 25.2 48.4 63.7", _encoder(_WIDE_BOX, "box", "deformable", 3)),
        ("swin-1", "112.84 2.31 42.5 66.3 45.4 23.0 45.5 61.2", _encoder(_WIDE_BOX, "box", "swin", 1)),
        ("swin-2", "196.81 3.10 43.7 66.9 46.8 23.8 46.8 62.3", _encoder(_WIDE_BOX, "box", "swin", 2)),
        ("swin-3", "280.77 3.89 44.3 67.3 47.6 24.4 47.6 62.8", _encoder(_WIDE_BOX, "box", "swin", 3)),
        ("convnext-1", "83.90 2.05 40.9 65.8 43.4 21.4 43.8 59.9", _encoder(_WIDE_BOX, "box", "convnext", 1)),
        ("convnext-2", "138.92 2.59 43.0 66.9 46.0 23.4 46.1 61.7", _encoder(_WIDE_BOX, "box", "convnext", 2)),
        ("convnext-3", "193.95 3.13 43.7 67.2 47.1 23.9 47.0 62.1", _encoder(_WIDE_BOX, "box", "convnext", 3)),
        training=_NO_POINTS,
    ),
    *_rows(
        4,
        f"{COST} {AP}",
        ("width-256", "168.23 3.14 44.9 67.7 48.6 24.9 48.2 63.4", _net(_BOX, mask_width=None)),
        ("width-128", "66.60 2.07 44.7 67.6 48.2 24.8 48.1 63.2", _net(_BOX)),
        ("width-96", "50.76 1.87 44.6 67.5 48.2 24.7 47.9 63.2", _net(_BOX, mask_width=96)),
        ("width-64", "39.11 1.71 44.5 67.5 48.0 24.7 47.9 63.0", _net(_BOX, mask_width=64)),
        training=_NO_POINTS,
    ),
    *_rows(
        5,
        f"{COST} {AP}",
        ("none", "66.60 2.07 44.7 67.6 48.2 24.8 48.1 63.2", _net(_BOX)),
        ("ffn", "66.63 2.33 44.7 67.6 48.3 24.9 48.0 63.2", _net(_QUERY, query_b2o=False)),
        ("ffn-o2o", "66.65 2.53 43.9 67.1 47.3 24.4 47.3 61.8", _net(_QUERY, query_b2o=False, query_o2o=True)),
        ("ffn-b2o", "73.40 2.46 44.8 67.6 48.4 24.9 48.1 63.4", _net(_QUERY)),
        training=_NO_POINTS,
    ),
    *_rows(
        6,
        f"ap_box {AP} gpu_hours",
        ("k-net-r50", "- 38.6 60.9 41.0 19.1 42.0 57.7 -", _other("K-Net-N256", "R50", 36)),
        ("queryinst-swin-l", "56.1 48.9 74.0 53.9 30.8 52.6 68.3 -", _other("QueryInst", "Swin-L", 50)),
        ("mask2former-r50", "- 43.7 - - 23.4 47.2 64.8 502", _other("Mask2Former", "R50", 50)),
        ("mask2former-swin-l", "- 50.1 - - 29.9 53.9 72.1 1700", _other("Mask2Former", "Swin-L", 100)),
        ("mask-dino-r50", "50.5 46.0 68.9 50.3 26.0 49.3 65.5 1404", _other("Mask DINO", "R50", 50)),
        ("mask-dino-swin-l", "58.3 52.1 76.5 57.6 32.9 55.4 72.5 2400", _other("Mask DINO", "Swin-L", 50)),
        ("h-detr-resnet50", "49.9 44.1 66.2 47.8 24.4 47.0 62.6 49", {"objects365": False}),
        ("h-detr-swin-large", "59.1 51.9 75.8 57.2 31.6 55.1 71.6 179", {**_H_SWIN, "objects365": False}),
        ("vit-adapter-l-o365", "61.8 53.0 - - - - - 1068", _other("ViT-Adapter-L", "ViT-L", 8, True)),
        ("mask-dino-swin-l-o365", "- 54.5 - - - - - 1600", _other("Mask DINO", "Swin-L", 24, True)),
        ("h-detr-resnet50-o365", "52.2 45.7 67.5 49.8 25.6 48.9 64.1 49", {}),
        ("h-detr-swin-large-o365", "62.3 54.0 77.9 59.5 35.6 57.4 73.0 172", _H_SWIN),
        ("dino-focalnet-large", "63.2 54.9 78.9 60.8 37.2 58.4 72.9 136", _DINO),
        network=_FULL,
    ),
    *_rows(
        7,
        f"ap_box {AP}",
        ("k-net-r101", "- 40.6 63.3 43.7 18.8 43.3 59.0", _other("K-Net-N256", "R101", 36)),
        ("solq-swin-l", "56.5 46.7 - - 29.2 50.1 60.9", _other("SOLQ", "Swin-L", 50)),
        ("soit-swin-l", "56.9 49.2 74.3 53.5 30.2 52.7 65.2", _other("SOIT", "Swin-L", 36)),
        ("queryinst-swin-l", "56.1 49.1 74.2 53.8 31.5 51.8 63.2", _other("QueryInst", "Swin-L", 50)),
        ("mask2former-swin-l", "- 50.5 74.9 54.9 29.1 53.8 71.2", _other("Mask2Former", "Swin-L", 100)),
        ("mask-dino-swin-l-o365", "- 54.7 - - - - -", _other("Mask DINO", "Swin-L", 24, True)),
        # Appendix B: three image layers here, two in Table 6
        ("dino-focalnet-large", "63.2 55.3 79.3 61.4 37.8 58.4 70.4", {**_DINO, **_net(_FULL, image_layers=3)}),
    ),
    *_rows(
        8,
        AP,
        ("batch-2", "45.9 67.7 50.0 25.7 49.0 64.2", {"training": {"batch": 2}}),
        ("batch-4", "45.9 67.6 49.9 25.8 49.0 64.3", {"training": {"batch": 4}}),
        ("batch-8", "45.7 67.5 49.8 25.6 48.9 64.1", {"training": {"batch": 8}}),
        network=_FULL,
    ),
    *_rows(
        9,
        AP,
        ("epochs-6", "45.7 67.5 49.8 25.6 48.9 64.1", {}),
        ("epochs-12", "46.0 67.7 50.3 25.9 49.1 64.3", {"epochs": 12}),
        network=_FULL,
    ),
    *_rows(
        10,
        f"{COST} {AP}",
        ("roi-16", "46.09 2.97 44.8 67.5 49.1 25.4 48.0 62.0", _net(_FULL, roi_size=16)),
        ("roi-32", "82.09 3.26 45.7 67.5 49.8 25.6 48.9 64.1", _net(_FULL, roi_size=32)),
        ("roi-64", "225.86 4.44 45.9 67.6 50.2 25.8 49.1 64.4", _net(_FULL, roi_size=64)),
    ),
    *_rows(
        11,
        "ap gpu_hours",
        ("h-detr-r50-frozen", "45.7 49", _net(_FULL)),
        ("h-detr-r50-bare-partial", "43.8 92", {**_net(_NO_ENCODERS), "training": _PARTIAL}),
        ("h-detr-r50-bare-full", "43.9 99", {**_net(_NO_ENCODERS), "training": _FINETUNE}),
        ("h-detr-r50-partial", "45.6 100", {**_net(_FULL), "training": _PARTIAL}),
        ("h-detr-r50-full", "46.0 108", {**_net(_FULL), "training": _FINETUNE}),
        ("h-detr-swin-l-frozen", "54.0 172", {**_net(_FULL), **_H_SWIN}),
        ("h-detr-swin-l-partial", "54.1 406", {**_net(_FULL), **_H_SWIN, "training": _PARTIAL}),
        ("h-detr-swin-l-full", "54.1 532", {**_net(_FULL), **_H_SWIN, "training": _FINETUNE}),
        ("dino-focalnet-l-frozen", "54.9 136", {**_net(_FULL), **_DINO}),
        ("dino-focalnet-l-partial", "54.9 218", {**_net(_FULL), **_DINO, "training": _PARTIAL}),
        ("dino-focalnet-l-full", "55.0 319", {**_net(_FULL), **_DINO, "training": _FINETUNE}),
    ),
    *_rows(
        12,
        f"{COST} {AP}",
        ("none", "73.40 2.46 44.8 67.6 48.4 24.9 48.1 63.4", {**_net(_QUERY), "training": _NO_POINTS}),
        ("neck", "77.07 2.53 45.2 67.8 48.9 25.3 48.5 63.8", {**_net(_NECK), "training": _NO_POINTS}),
        ("neck-points", "77.07 2.53 45.3 67.8 49.2 25.4 48.6 64.1", _net(_NECK)),
        ("neck-points-scoring", "82.09 3.26 45.7 67.5 49.8 25.6 48.9 64.1", _net(_FULL)),
    ),
    *_rows(
        13,
        f"gpu_hours {AP}",
        ("no-jitter", "49 45.7 67.5 49.8 25.6 48.9 64.1", {}),
        ("jitter", "63 46.0 67.7 50.1 26.1 49.1 64.0", {"training": {"large_scale_jitter": True}}),
        network=_FULL,
    ),
    *_rows(
        14,
        f"{COST} {AP}",
        ("dot-product", "82.09 3.26 45.7 67.5 49.8 25.6 48.9 64.1", _net(_FULL)),
        ("segmenter", "83.77 3.29 45.7 67.6 49.9 25.6 48.9 64.1", _net(_FULL, head="segmenter")),
    ),
    *_rows(
        15,
        AP,
        ("layer-2", "45.7 67.5 49.8 25.7 48.9 64.0", {"training": {"encoder_layer": 2}}),
        ("layer-4", "45.7 67.5 49.8 25.6 48.9 64.1", {"training": {"encoder_layer": 4}}),
        ("layer-6", "45.5 67.5 49.3 25.6 48.7 63.7", {"training": {"encoder_layer": 6}}),
        network=_FULL,
    ),
    *_rows(
        16,
        f"{COST} {AP}",
        ("image-2-box-2", "262.27 3.24 54.9 78.9 60.8 37.2 58.4 72.9", _net(_FULL)),
        ("image-2-box-3", "326.65 3.62 54.9 78.9 60.7 37.0 58.5 72.9", _net(_FULL, box_layers=3)),
        ("image-3-box-2", "320.44 4.03 55.0 78.9 60.9 37.1 58.5 73.0", _net(_FULL, image_layers=3)),
        ("image-3-box-3", "384.82 4.40 55.0 78.9 60.9 37.2 58.5 73.1", _net(_FULL, image_layers=3, box_layers=3)),
        ("image-4-box-4", "507.38 5.56 55.0 78.9 60.8 37.2 58.4 73.2", _net(_FULL, image_layers=4, box_layers=4)),
        **_DINO,
    ),
]
"""All rows, in the paper's order."""

REPEATED = {(2, "none"), (3, "none"), (12, "none"), (12, "neck-points"), (14, "dot-product")}
"""Rows whose cost is that of an earlier one and which the count of 41 complexity rows leaves out."""


def paper_rows(table: int | None = None) -> list[PaperRow]:
    """The rows of one table, or of all."""
    return [row for row in PAPER if table is None or row.table == table]
