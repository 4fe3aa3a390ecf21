"""Frozen detectors: `load_detector` finds out what it is given."""

from mask_frozen_detr.detectors.base import Detections, DetectorInfo, DetectorShapes, FrozenDetector, Identity
from mask_frozen_detr.detectors.families import FAMILIES, register_detector
from mask_frozen_detr.detectors.family import Family, Maps, Tokens
from mask_frozen_detr.detectors.family_table import format_families
from mask_frozen_detr.detectors.load import load_detector
from mask_frozen_detr.detectors.transformers_detector import TransformersDetector

__all__ = [
    "FAMILIES",
    "Detections",
    "DetectorInfo",
    "DetectorShapes",
    "Family",
    "FrozenDetector",
    "Identity",
    "Maps",
    "Tokens",
    "TransformersDetector",
    "format_families",
    "load_detector",
    "register_detector",
]
