"""The one form that a test knows to be there, of what may come in two."""

from torch import Tensor
from torch.nn import Parameter

from mask_frozen_detr.detectors.base import Detections
from mask_frozen_detr.training.samples import Batch, Sample


def pixels(of: Sample | Batch) -> Tensor:
    """(3, h, w) of a sample, (B, 3, H, W) of a batch."""
    found = of.image if isinstance(of, Sample) else of.images
    assert isinstance(found, Tensor)
    return found


def detections(batch: Batch) -> Detections:
    """Of a batch that a cache made."""
    assert isinstance(batch.images, Detections)
    return batch.images


def gradient(parameter: Parameter | Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
