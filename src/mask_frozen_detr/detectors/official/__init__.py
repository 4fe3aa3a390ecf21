"""The paper's own detectors, from their official checkpoints: H-Deformable-DETR, DINO, two-stage Deformable DETR."""

from typing import TYPE_CHECKING

from mask_frozen_detr.machine.lazy import lazily

if TYPE_CHECKING:
    from mask_frozen_detr.detectors.official.checkpoint import is_official_checkpoint
    from mask_frozen_detr.detectors.official.config import BackboneConfig, OfficialConfig
    from mask_frozen_detr.detectors.official.convert import convert_checkpoint
    from mask_frozen_detr.detectors.official.detector import OfficialDetector, load_official
    from mask_frozen_detr.detectors.official.model import OfficialDetr
    from mask_frozen_detr.detectors.official.names import OFFICIAL_NAMES, Published
    from mask_frozen_detr.detectors.official.output import OfficialOutput

__all__ = [
    "OFFICIAL_NAMES",
    "BackboneConfig",
    "OfficialConfig",
    "OfficialDetector",
    "OfficialDetr",
    "OfficialOutput",
    "Published",
    "convert_checkpoint",
    "is_official_checkpoint",
    "load_official",
]

__getattr__ = lazily(
    __name__,
    {
        "is_official_checkpoint": "checkpoint",
        "BackboneConfig": "config",
        "OfficialConfig": "config",
        "convert_checkpoint": "convert",
        "OfficialDetector": "detector",
        "load_official": "detector",
        "OfficialDetr": "model",
        "OFFICIAL_NAMES": "names",
        "Published": "names",
        "OfficialOutput": "output",
    },
)
