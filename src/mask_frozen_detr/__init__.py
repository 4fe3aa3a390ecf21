"""Mask Frozen-DETR: instance masks for any DETR detector."""

from mask_frozen_detr.detectors import load_detector
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.results.instances import Instances

__all__ = ["Instances", "MaskFrozenDetr", "MaskNetworkConfig", "UserError", "load_detector"]
