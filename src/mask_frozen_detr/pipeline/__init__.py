"""Runs as transformers knows models: a configuration, a model and an image processor for its auto classes.

The modules load nothing of the package that loads a detector before a run is loaded: they are imported amid imports.
"""


def register() -> None:
    """Tell transformers' auto classes of runs. Twice is as once."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageSegmentation
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES

    from mask_frozen_detr.pipeline.config import MaskFrozenDetrConfig
    from mask_frozen_detr.pipeline.model import MaskFrozenDetrForImageSegmentation
    from mask_frozen_detr.pipeline.processor import MaskFrozenDetrImageProcessor

    AutoConfig.register(MaskFrozenDetrConfig.model_type, MaskFrozenDetrConfig, exist_ok=True)
    AutoModelForImageSegmentation.register(MaskFrozenDetrConfig, MaskFrozenDetrForImageSegmentation, exist_ok=True)
    processors: dict[str, type] = {"torchvision": MaskFrozenDetrImageProcessor, "pil": MaskFrozenDetrImageProcessor}
    AutoImageProcessor.register(MaskFrozenDetrConfig, image_processor_classes=processors, exist_ok=True)
    # The pipeline logs an error for models whose name this table lacks, and works all the same.
    name = MaskFrozenDetrForImageSegmentation.__name__
    MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES[MaskFrozenDetrConfig.model_type] = name
