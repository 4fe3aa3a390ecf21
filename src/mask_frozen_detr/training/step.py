"""One training step, from a batch to its losses: frozen forward → matching → mask network → losses."""

import torch
from torch import nn

from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network.mask_network import pixel_boxes
from mask_frozen_detr.ops.padding import extents
from mask_frozen_detr.training.losses import LossConfig, mask_losses
from mask_frozen_detr.training.matching import Matcher
from mask_frozen_detr.training.samples import Batch


class TrainingStep(nn.Module):
    """All that learns and all that it learns from, as one module for `DistributedDataParallel` to wrap."""

    def __init__(self, model: MaskFrozenDetr, matcher: Matcher, loss: LossConfig):
        super().__init__()
        self.model, self.matcher, self.loss = model, matcher, loss

    def forward(self, batch: Batch, seed: int | None) -> dict[str, torch.Tensor]:
        """See `step_losses`."""
        return step_losses(self.model, self.matcher, batch, self.loss, seed)


def step_losses(
    model: MaskFrozenDetr,
    matcher: Matcher,
    batch: Batch,
    loss: LossConfig,
    seed: int | None,
) -> dict[str, torch.Tensor]:
    """Losses of one forward pass, summed over its matched masks, and how many those were.

    With a detector that is fine-tuned also its own loss, a mean over objects: `detection`. seed: of the run, for the
    points that the losses are sampled on.
    """
    device = model.device
    detections = batch.detections
    if detections is None:
        labels = None
        if model.detector.finetuned != "none":
            labels = [
                {"class_labels": send(target.labels, device), "boxes": send(target.boxes, device)}
                for target in batch.targets
            ]
        detections = model.detector(send(batch.pixel_values, device), batch.pixel_mask, labels)
    matches = matcher(detections, batch.targets)
    images = matches.image_index
    output = model.network(detections, batch.pixel_mask, images, matches.query_index)
    starts = torch.tensor([0] + [len(target.labels) for target in batch.targets[:-1]]).cumsum(0)
    chosen = starts[images] + matches.target_index
    boxes, labels_of, crops = (
        torch.cat([getattr(target, name) for target in batch.targets])[chosen] for name in ("boxes", "labels", "crops")
    )
    with torch.autocast(device.type, enabled=False):
        losses = mask_losses(
            output.logits,
            output.iou,
            output.frames.float(),
            send(crops, device),
            send(pixel_boxes(boxes, extents(batch.pixel_mask)[images]), device),
            send(labels_of, device),
            loss,
            None if seed is None else _generators(seed, batch.numbers, images),
        )
    if detections.loss is not None:
        losses["detection"] = detections.loss
    return {**losses, "matches": torch.tensor(float(len(matches)))}


def _generators(seed: int, numbers: list[int], image_index: torch.Tensor) -> list[tuple[torch.Generator, int]]:
    """Of each image, by its sample's number alone: neither processes nor accumulation change its points."""
    counts = image_index.bincount(minlength=len(numbers)).tolist()
    return [
        (torch.Generator().manual_seed((seed << 40) + number), count)
        for number, count in zip(numbers, counts, strict=True)
    ]
