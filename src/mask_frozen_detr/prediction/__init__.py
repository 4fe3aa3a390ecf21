"""Pictures and films in; overlays and data sets out."""

from typing import TYPE_CHECKING

from mask_frozen_detr.machine.lazy import lazily

if TYPE_CHECKING:
    from mask_frozen_detr.prediction.files import predict_files
    from mask_frozen_detr.prediction.films import predict_film, predict_frames

__all__ = ["predict_files", "predict_film", "predict_frames"]

__getattr__ = lazily(__name__, {"predict_files": "files", "predict_film": "films", "predict_frames": "films"})
