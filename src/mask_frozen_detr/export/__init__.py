"""From a run to a folder that runs without torch: `export_model`."""

from typing import TYPE_CHECKING

from mask_frozen_detr.machine.lazy import lazily

if TYPE_CHECKING:
    from mask_frozen_detr.export.folder import export_model

__all__ = ["export_model"]

__getattr__ = lazily(__name__, {"export_model": "folder"})
