"""Exported models, run without torch: this room and all that it imports need numpy, Pillow and a runtime alone."""

from mask_frozen_detr.runtime.model import OnnxModel

__all__ = ["OnnxModel"]
