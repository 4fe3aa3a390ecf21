"""What is measured side by side: this project's model and two peers, all with random weights, on the same images.

Time does not depend on the weights, but it does on what is found: where random weights would find nothing, or
nonsense, each contestant is helped to the detections of a trained model. Batches start in the host's memory, as they
come from a loader; images at inference lie on the device.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.absent import absent_packages
from benchmarks.pictures import CLASSES, Picture, draw_detections
from benchmarks.sizes import Sizes
from mask_frozen_detr.detectors.base import Detections, DetectorInfo, Identity, ScoreRule
from mask_frozen_detr.detectors.official import (
    BackboneConfig,
    OfficialConfig,
    OfficialDetector,
    OfficialDetr,
    OfficialOutput,
)
from mask_frozen_detr.detectors.official.config import deformable_detr
from mask_frozen_detr.detectors.preprocessing import IMAGENET_MEAN, IMAGENET_STD, ShortestEdge
from mask_frozen_detr.machine.precision import Precision, autocast
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.results.inference import TopDetections, segment, top_detections
from mask_frozen_detr.training.box_masks import MASK_SIDE
from mask_frozen_detr.training.config import LossConfig, TrainConfig
from mask_frozen_detr.training.loop import LOSS_KEYS
from mask_frozen_detr.training.matching import Matcher, Targets
from mask_frozen_detr.training.samples import Sample, collate
from mask_frozen_detr.training.step import step_losses

OFFICIAL_CLASSES = 91  # COCO's category ids, as the official checkpoints have them
ONE_TO_MANY = 1500  # H-Deformable-DETR's further queries, which training alone uses
HYPER = TrainConfig()


@dataclass(frozen=True)
class Contestant:
    """step: one training step. infer: images to masks. parts: pieces of either, by name."""

    step: Callable[[], Any]
    infer: Callable[[], Any]
    trainable: int  # parameters
    parts: dict[str, Callable[[], Any]] = field(default_factory=dict)


def optimiser(parameters: list[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        parameters, lr=HYPER.lr, betas=HYPER.betas, weight_decay=HYPER.weight_decay, fused=device.type == "cuda"
    )


def update(loss: Tensor, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, HYPER.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def normalised(pictures: list[Picture]) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return torch.stack([(picture.image - mean) / std for picture in pictures])


def find_like_trained(model: OfficialDetr, boxes: Tensor, logits: Tensor) -> OfficialDetr:
    """The whole model still runs; then it hands out these boxes (B, Q, 4) and logits (B, Q, K) in place of its own."""

    def replace_found(_module: nn.Module, _inputs: Any, output: OfficialOutput) -> OfficialOutput:
        count = len(output.boxes)
        return replace(output, boxes=boxes[:count].to(output.boxes), logits=logits[:count].to(output.logits))

    model.register_forward_hook(replace_found)
    return model


def h_deformable_detr(sizes: Sizes) -> OfficialConfig:
    backbone = BackboneConfig("resnet", sizes.depths)
    return deformable_detr(backbone, num_queries=sizes.queries, content_rows=sizes.queries + ONE_TO_MANY)


def h_detr_info() -> DetectorInfo:
    return DetectorInfo(
        identity=Identity("random", None, "", "h-deformable-detr", 4),
        class_names=[""] * OFFICIAL_CLASSES,
        preprocessing=ShortestEdge(),
        # One class a query: so many detections are so many masks.
        score_rule=ScoreRule("sigmoid", best_only=True),
    )


def build_model(sizes: Sizes, pictures: list[Picture], device: torch.device) -> MaskFrozenDetr:
    """H-Deformable-DETR ResNet-50 and the paper's default mask network."""
    torch.manual_seed(0)
    boxes, logits = (found.to(device) for found in draw_detections(pictures, sizes.queries, OFFICIAL_CLASSES))
    detector = find_like_trained(OfficialDetr(h_deformable_detr(sizes)), boxes, logits)
    return MaskFrozenDetr.build(OfficialDetector(detector, h_detr_info()).to(device)).to(device)


def ours(sizes: Sizes, pictures: list[Picture], device: torch.device, precision: Precision) -> Contestant:
    """parts: the frozen forward pass in training, the detector alone and masks with their run lengths at inference."""
    model = build_model(sizes, pictures, device)
    parameters = list(model.network.parameters())
    optimizer = optimiser(parameters, device)
    matcher = Matcher(model.detector.info.costs, model.detector.info.score_rule, HYPER.min_box_iou)
    batch = collate(
        [
            Sample(
                image,
                Targets(
                    picture.boxes,
                    picture.labels,
                    picture.box_masks(MASK_SIDE),
                    torch.ones(len(picture.labels), dtype=torch.bool),
                    torch.ones(len(picture.labels)),
                ),
            )
            for image, picture in zip(normalised(pictures), pictures, strict=True)
        ]
    )
    objects = sum(len(picture.boxes) for picture in pictures)
    images = normalised(pictures).to(device), batch.pixel_mask  # the mask where it is best: on the host

    def step() -> dict[str, Tensor]:
        model.network.train()
        with autocast(precision, device):
            losses = step_losses(model, matcher, batch, LossConfig(), 0)
        total = torch.stack([losses[key] for key in LOSS_KEYS if key in losses]).sum()
        update(total / objects, optimizer, parameters)
        return losses

    def detect() -> list[TopDetections]:
        with torch.no_grad(), autocast(precision, device):
            found = model.detector(*images)
            return top_detections(found.logits, model.detector.info.score_rule, sizes.boxes)

    def forward() -> Detections:
        with autocast(precision, device):
            return model.detector(*images)

    def infer() -> list:
        model.network.eval()
        with autocast(precision, device):
            return segment(model.detector, model.network, *images, [sizes.image] * len(pictures), sizes.boxes)

    parts: dict[str, Callable[[], Any]] = {"frozen forward": forward, "detector alone": detect}
    if "pycocotools" not in absent_packages():
        parts["masks and run lengths"] = lambda: [instances.to_rle() for instances in infer()]
    return Contestant(step, infer, sum(p.numel() for p in parameters if p.requires_grad), parts)


def mask2former(sizes: Sizes, pictures: list[Picture], device: torch.device, precision: Precision) -> Contestant:
    """transformers' Mask2Former with its ResNet-50; masks at image size, one by one, as its processor makes them."""
    import transformers

    t: Any = transformers  # its configurations take more than their types say
    torch.manual_seed(0)
    backbone = t.ResNetConfig(depths=list(sizes.depths), out_features=["stage1", "stage2", "stage3", "stage4"])
    config = t.Mask2FormerConfig(backbone_config=backbone, num_labels=CLASSES, num_queries=sizes.boxes)
    model = t.Mask2FormerForUniversalSegmentation(config).to(device)
    processor = t.Mask2FormerImageProcessor()
    pixel_values, on_device = normalised(pictures), normalised(pictures).to(device)
    pixel_mask = torch.ones(len(pictures), *sizes.image, dtype=torch.long, device=device)
    masks, labels = [picture.masks for picture in pictures], [picture.labels for picture in pictures]
    parameters = list(model.parameters())
    optimizer = optimiser(parameters, device)

    def step() -> None:
        model.train()
        with autocast(precision, device):
            outputs = model(
                pixel_values.to(device),
                pixel_mask=pixel_mask,
                mask_labels=[mask.to(device).float() for mask in masks],
                class_labels=[label.to(device) for label in labels],
            )
        update(outputs.loss.sum(), optimizer, parameters)

    @torch.no_grad()
    def infer() -> list:
        model.eval()
        with autocast(precision, device):
            outputs = model(on_device, pixel_mask=pixel_mask)
        outputs.masks_queries_logits = outputs.masks_queries_logits.float()
        return processor.post_process_instance_segmentation(
            outputs, threshold=0.0, target_sizes=[sizes.image] * len(pictures), return_binary_maps=True
        )

    return Contestant(step, infer, sum(p.numel() for p in parameters if p.requires_grad))


def mask_rcnn(sizes: Sizes, pictures: list[Picture], device: torch.device, precision: Precision) -> Contestant:
    """torchvision's Mask R-CNN R50-FPN."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import Bottleneck, ResNet

    torch.manual_seed(0)
    # `maskrcnn_resnet50_fpn(weights=None)`, but for the number of blocks, which small sizes cut.
    stages = {f"layer{stage}": str(stage - 1) for stage in (1, 2, 3, 4)}
    body = ResNet(Bottleneck, list(sizes.depths))
    model = MaskRCNN(
        BackboneWithFPN(body, stages, [256, 512, 1024, 2048], 256),
        num_classes=OFFICIAL_CLASSES,
        min_size=min(sizes.image),
        max_size=max(sizes.image),
        box_score_thresh=0.0,  # so that random weights find as many boxes as they may
        box_detections_per_img=sizes.boxes,
    ).to(device)
    on_device = [picture.image.to(device) for picture in pictures]
    targets = [{"boxes": p.corners, "labels": p.labels, "masks": p.masks} for p in pictures]
    parameters = list(model.parameters())
    optimizer = optimiser(parameters, device)

    def step() -> None:
        model.train()
        with autocast(precision, device):
            losses = model(
                [picture.image.to(device) for picture in pictures],
                [{key: value.to(device) for key, value in target.items()} for target in targets],
            )
        update(sum(losses.values()), optimizer, parameters)

    @torch.no_grad()
    def infer() -> list:
        model.eval()
        with autocast(precision, device):
            return [found["masks"] > 0.5 for found in model(on_device)]

    return Contestant(step, infer, sum(p.numel() for p in parameters if p.requires_grad))


Builder = Callable[[Sizes, list[Picture], torch.device, Precision], Contestant]
OURS, MASK2FORMER, MASK_RCNN = "Mask Frozen-DETR", "Mask2Former (transformers)", "Mask R-CNN (torchvision)"
CONTESTANTS: dict[str, Builder] = {OURS: ours, MASK2FORMER: mask2former, MASK_RCNN: mask_rcnn}
