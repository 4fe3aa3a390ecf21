"""From what a run folder says of a pre-processing back to one that does the same."""

from collections.abc import Mapping
from typing import Any

from mask_frozen_detr.detectors.finer_look import FinerLook
from mask_frozen_detr.detectors.preprocessing import Preprocessing, ShortestEdge
from mask_frozen_detr.errors import UserError, printable, reason


def described_preprocessing(described: Mapping[str, Any]) -> Preprocessing:
    """What `Preprocessing.describe` described. Raises UserError where it cannot be made again.

    That is so for a detector with a pre-processing of its own kind (`register_detector`), and for an image processor
    that the installed transformers lacks: then `MaskFrozenDetr.predict`, which loads the detector, is the way.
    """
    import transformers
    from transformers.image_processing_utils import BaseImageProcessor

    from mask_frozen_detr.detectors.transformers_preprocessing import TransformersPreprocessing

    settings = dict(described)
    if settings.pop("finer_look", None):
        return FinerLook(described_preprocessing(settings))
    try:
        if settings.pop("kind", None) == "shortest-edge":
            mean, std = tuple(settings.pop("mean")), tuple(settings.pop("std"))
            return ShortestEdge(mean=mean, std=std, **settings)
        name = str(settings.pop("image_processor_type", None))
        kind = getattr(transformers, name.removesuffix("Fast"), None)
        if not (isinstance(kind, type) and issubclass(kind, BaseImageProcessor)):
            raise UserError(
                f"preprocessing: found {printable(name, 60)!r}, expected an image processor of transformers "
                f"{transformers.__version__}; use MaskFrozenDetr.predict"
            )
        return TransformersPreprocessing(kind(**settings))
    except UserError:
        raise
    except Exception as error:  # whatever settings that do not go together bring about
        raise UserError(f"preprocessing: cannot be made again: {reason(error)}") from error
