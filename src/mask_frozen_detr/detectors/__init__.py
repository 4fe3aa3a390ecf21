"""Frozen detectors: `load_detector` finds out what it is given."""

from mask_frozen_detr.detectors.base import Detections, DetectorInfo, DetectorShapes, FrozenDetector, Identity
from mask_frozen_detr.detectors.load import load_detector

__all__ = ["Detections", "DetectorInfo", "DetectorShapes", "FrozenDetector", "Identity", "load_detector"]
