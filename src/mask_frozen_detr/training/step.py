"""One training step, from a batch to its losses: frozen forward → matching → mask network → losses."""

import torch
from torch import Tensor, nn

from mask_frozen_detr.detectors.base import Detections
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network.mask_network import pixel_boxes
from mask_frozen_detr.ops.padding import extents
from mask_frozen_detr.training.config import LossConfig
from mask_frozen_detr.training.losses import mask_losses
from mask_frozen_detr.training.matching import Matcher
from mask_frozen_detr.training.points import sample_points
from mask_frozen_detr.training.samples import Batch


class TrainingStep(nn.Module):
    """All that learns and all that it learns from, as one module for `DistributedDataParallel` to wrap."""

    def __init__(self, model: MaskFrozenDetr, matcher: Matcher, loss: LossConfig):
        super().__init__()
        self.model, self.matcher, self.loss = model, matcher, loss

    def forward(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """The losses of one batch (`step_losses`)."""
        return step_losses(self.model, self.matcher, batch, self.loss, seed)


def step_losses(
    model: MaskFrozenDetr, matcher: Matcher, batch: Batch, loss: LossConfig, seed: int
) -> dict[str, Tensor]:
    """Losses of one forward pass, summed over its matched masks, and how many those were.

    With a detector that is fine-tuned also its own loss, a mean over objects: `detection`. seed: of the run, for the
    points that the losses are sampled on.
    """
    device = model.device
    detections = batch.images if isinstance(batch.images, Detections) else _detect(model, batch.images, batch)
    matches = matcher(detections, batch.targets)
    images = matches.image_index
    output = model.network(detections, batch.pixel_mask, images, matches.query_index, matches.boxes)
    with torch.autocast(device.type, enabled=False):
        truth = matches.truth(batch.targets)  # a processor's autocast refuses the float16 of pseudo-masks
        points = None
        if loss.sampled_points:
            points = sample_points(output.logits, loss, seed, [batch.numbers[b] for b in images.tolist()])
        losses = mask_losses(
            output.logits,
            output.iou,
            output.frames.float(),
            send(truth.masks, device),
            send(pixel_boxes(truth.boxes, extents(batch.pixel_mask)[images]), device),
            send(truth.labels, device),
            loss,
            points,
            send(truth.weights, device),
        )
        if not len(matches):
            # Attention among no queries gives its parameters no gradient, but other processes wait for one.
            losses["bce"] = losses["bce"] + 0 * sum(parameter.sum() for parameter in model.network.parameters())
    if detections.loss is not None:
        losses["detection"] = detections.loss
    return {**losses, "matches": torch.tensor(float(len(matches)))}


def _detect(model: MaskFrozenDetr, pixels: Tensor, batch: Batch) -> Detections:
    """The detector's forward pass; one that is fine-tuned gets the ground truth for its own loss."""
    labels = None
    if model.detector.finetuned != "none":
        labels = [
            {"class_labels": send(target.labels, model.device), "boxes": send(target.boxes, model.device)}
            for target in batch.targets
        ]
    return model.detector(send(pixels, model.device), batch.pixel_mask, labels)
