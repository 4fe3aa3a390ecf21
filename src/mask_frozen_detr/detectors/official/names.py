"""The published detectors by name: what a file under that name must be, and where its authors publish it."""

from dataclasses import dataclass

from mask_frozen_detr.detectors.official.config import BackboneConfig, OfficialConfig
from mask_frozen_detr.errors import UserError, shorten

H_DETR = "https://github.com/HDETR/H-Deformable-DETR/releases/download/v0.1/"
DINO = (
    "https://drive.google.com/drive/folders/1qD5m1NmK0kjE5hh-G17XUX751WsEG-h_ "
    "(linked from https://github.com/IDEA-Research/DINO), "
)
FOCALNET_DINO = "https://github.com/FocalNet/FocalNet-DINO, "
TWO_STAGE = "deformable_detr_plus_iterative_bbox_refinement_plus_plus_two_stage_36eps.pth"
HYBRID = f"hybrid_branch_lambda1_group6_t1500_dp0_mqs_lft_{TWO_STAGE}"


@dataclass(frozen=True)
class Published:
    """One name. `families` are those that the file may turn out to be: keys alone do not tell H-Deformable-DETR
    without mixed selection from plain two-stage Deformable DETR."""

    families: tuple[str, ...]
    backbone: str
    levels: tuple[int, ...]
    where: str


BACKBONE_NAMES: dict[tuple[str, int, tuple[int, ...]], str] = {
    ("resnet", 64, (3, 4, 6, 3)): "resnet50",
    ("resnet", 64, (3, 4, 23, 3)): "resnet101",
    ("swin", 96, (2, 2, 6, 2)): "swin-tiny",
    ("swin", 96, (2, 2, 18, 2)): "swin-small",
    ("swin", 128, (2, 2, 18, 2)): "swin-base",
    ("swin", 192, (2, 2, 18, 2)): "swin-large",
    ("focalnet", 192, (2, 2, 18, 2)): "focalnet-large",
    ("focalnet", 256, (2, 2, 18, 2)): "focalnet-xlarge",
}

HYBRID_FAMILIES = ("h-deformable-detr", "deformable-detr")
OFFICIAL_NAMES: dict[str, Published] = {
    "h-deformable-detr-resnet50": Published(HYBRID_FAMILIES, "resnet50", (4,), f"{H_DETR}r50_{HYBRID}"),
    "h-deformable-detr-swin-tiny": Published(
        HYBRID_FAMILIES, "swin-tiny", (4,), f"{H_DETR}decay0.05_swin_tiny_{HYBRID}"
    ),
    "h-deformable-detr-swin-small": Published(HYBRID_FAMILIES, "swin-small", (4,), f"{H_DETR}swin_small_{HYBRID}"),
    "h-deformable-detr-swin-large": Published(
        HYBRID_FAMILIES,
        "swin-large",
        (4,),
        f"{H_DETR}decay0.05_drop_path0.5_swin_large_{HYBRID.replace('t1500', 't1500_n900')} (900 queries) or "
        f"{H_DETR}drop_path0.5_swin_large_{HYBRID} (300)",
    ),
    "deformable-detr-two-stage-resnet50": Published(("deformable-detr",), "resnet50", (4,), f"{H_DETR}r50_{TWO_STAGE}"),
    "deformable-detr-two-stage-swin-tiny": Published(
        ("deformable-detr",), "swin-tiny", (4,), f"{H_DETR}swin_tiny_{TWO_STAGE}"
    ),
    "deformable-detr-two-stage-swin-large": Published(
        ("deformable-detr",), "swin-large", (4,), f"{H_DETR}drop_path0.5_swin_large_{TWO_STAGE}"
    ),
    "dino-resnet50": Published(("dino",), "resnet50", (4,), f"{DINO}checkpoint0033_4scale.pth"),
    "dino-resnet50-5scale": Published(("dino",), "resnet50", (5,), f"{DINO}checkpoint0031_5scale.pth"),
    "dino-swin-large": Published(("dino",), "swin-large", (4,), f"{DINO}checkpoint0029_4scale_swin.pth"),
    "dino-swin-large-5scale": Published(("dino",), "swin-large", (5,), f"{DINO}checkpoint0027_5scale_swin.pth"),
    "dino-focalnet-large": Published(
        ("dino",),
        "focalnet-large-fl4",
        (5,),
        "https://huggingface.co/microsoft/focalnet-large-fl4-dino-o365-cocoft, "
        "focalnet_large_fl4_o365_finetuned_on_coco.pth",
    ),
    "dino-focalnet-large-fl3": Published(
        ("dino",), "focalnet-large-fl3", (4, 5), f"{FOCALNET_DINO}FocalNet-L with 3 focal levels"
    ),
}


def backbone_name(backbone: BackboneConfig) -> str:
    """`resnet50`, `swin-large`, `focalnet-large-fl4` …, or the kind with its width and depths where it has no name."""
    unnamed = f"{backbone.kind} of width {backbone.width} and depths {backbone.depths}"
    name = BACKBONE_NAMES.get((backbone.kind, backbone.width, backbone.depths), unnamed)
    return f"{name}-fl{backbone.focal_levels}" if backbone.kind == "focalnet" else name


def published(name: str) -> Published:
    """Raises UserError for a name that is not in the table."""
    if name not in OFFICIAL_NAMES:
        raise UserError(f"detector name: found {name!r}, expected one of {', '.join(OFFICIAL_NAMES)}")
    return OFFICIAL_NAMES[name]


def check_name(name: str, config: OfficialConfig, source: str) -> None:
    """Raises UserError that lists what differs where the file is not what its name says."""
    expected = published(name)
    pairs = (
        ("family", config.family, expected.families),
        ("backbone", backbone_name(config.backbone), (expected.backbone,)),
        ("feature levels", config.levels, expected.levels),
    )
    differing = [f"{what} {found} (expected {shorten(wanted)})" for what, found, wanted in pairs if found not in wanted]
    if differing:
        raise UserError(f"checkpoint {source} is not {name}: it has {'; '.join(differing)}")
