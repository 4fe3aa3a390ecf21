"""The configuration that config.json of a run folder holds: names for classes, and how many are found."""

from transformers import PreTrainedConfig

from mask_frozen_detr.run.transformers_names import MODEL_TYPE


class MaskFrozenDetrConfig(PreTrainedConfig):
    """`id2label` is all that the pipeline needs; what decides masks is in mask_frozen_detr.json."""

    model_type = MODEL_TYPE
