"""Frozen detectors: `load_detector` finds out what it is given."""

from typing import TYPE_CHECKING

from mask_frozen_detr.machine.lazy import lazily

if TYPE_CHECKING:
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

__getattr__ = lazily(
    __name__,
    {
        "Detections": "base",
        "DetectorInfo": "base",
        "DetectorShapes": "base",
        "FrozenDetector": "base",
        "Identity": "base",
        "FAMILIES": "families",
        "register_detector": "families",
        "Family": "family",
        "Maps": "family",
        "Tokens": "family",
        "format_families": "family_table",
        "load_detector": "load",
        "TransformersDetector": "transformers_detector",
    },
)
