"""transformers' Deformable DETR with its own deformable attention and with this project's, random weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.contestants import normalised
from benchmarks.measure import Timing, interleaved, rounded
from benchmarks.pictures import draw_pictures
from benchmarks.sizes import Sizes
from mask_frozen_detr.detectors.transformers_attention import share_attention
from mask_frozen_detr.machine.config import Precision
from mask_frozen_detr.machine.precision import autocast


def deformable_detr(sizes: Sizes, device: torch.device) -> nn.Module:
    import transformers

    t: Any = transformers  # its configurations take more than their types say
    torch.manual_seed(0)
    backbone = t.ResNetConfig(depths=list(sizes.depths), out_features=["stage2", "stage3", "stage4"])
    config = t.DeformableDetrConfig(backbone_config=backbone, use_timm_backbone=False)
    return t.DeformableDetrForObjectDetection(config).eval().to(device)


def shared_attention(
    sizes: Sizes, device: torch.device, precision: Precision, until: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """One row an attention: milliseconds of one image, and how far its boxes lie from the first row's."""
    images = normalised(draw_pictures(sizes, 1)).to(device)
    mask = torch.ones(1, *images.shape[2:], dtype=torch.long, device=device)
    models = {"transformers'": deformable_detr(sizes, device), "ours": deformable_detr(sizes, device)}
    replaced = share_attention(models["ours"])

    def detect(model: nn.Module) -> Callable[[], torch.Tensor]:
        @torch.no_grad()
        def run() -> torch.Tensor:
            with autocast(precision, device):
                return model(images, pixel_mask=mask).pred_boxes.float()

        return run

    works = {name: detect(model) for name, model in models.items()}
    times = interleaved(works, device, sizes.rounds, until)
    expected = works["transformers'"]()
    rows = [
        {
            "deformable attention": name,
            "ms": rounded(timing.median),
            "least … most": f"{timing.least:.4g} … {timing.most:.4g}",
            "boxes differ by": rounded((works[name]() - expected).abs().max().item(), 2),
            "rounds": timing.rounds,
        }
        for name, timing in times.items()
        if isinstance(timing, Timing)
    ]
    failures = [f"{name}: {timing}" for name, timing in times.items() if isinstance(timing, str)]
    if not replaced:
        failures.append("no attention was replaced: transformers has another module for it")
    return rows, failures
