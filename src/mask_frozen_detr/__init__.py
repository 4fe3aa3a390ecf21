"""Mask Frozen-DETR: instance masks for any DETR detector."""

from typing import TYPE_CHECKING

from mask_frozen_detr.machine.lazy import lazily
from mask_frozen_detr.pipeline.registration import await_transformers

if TYPE_CHECKING:
    from mask_frozen_detr.data.load import load_data
    from mask_frozen_detr.detectors.families import register_detector
    from mask_frozen_detr.detectors.load import load_detector
    from mask_frozen_detr.errors import UserError
    from mask_frozen_detr.evaluation import evaluate
    from mask_frozen_detr.model import MaskFrozenDetr
    from mask_frozen_detr.network.config import MaskNetworkConfig
    from mask_frozen_detr.results.instances import Instances
    from mask_frozen_detr.runtime.model import OnnxModel
    from mask_frozen_detr.training.config import TrainConfig
    from mask_frozen_detr.training.loop import train
    from mask_frozen_detr.training.presets import preset

__all__ = [
    "Instances",
    "MaskFrozenDetr",
    "MaskNetworkConfig",
    "OnnxModel",
    "TrainConfig",
    "UserError",
    "evaluate",
    "load_data",
    "load_detector",
    "preset",
    "register_detector",
    "train",
]

__getattr__ = lazily(
    __name__,
    {
        "Instances": "results.instances",
        "MaskFrozenDetr": "model",
        "MaskNetworkConfig": "network.config",
        "OnnxModel": "runtime.model",
        "TrainConfig": "training.config",
        "UserError": "errors",
        "evaluate": "evaluation",
        "load_data": "data.load",
        "load_detector": "detectors.load",
        "preset": "training.presets",
        "register_detector": "detectors.families",
        "train": "training.loop",
    },
)

await_transformers()
