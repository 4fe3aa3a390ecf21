"""The names by which transformers knows a run folder, and its two files. Nothing is imported for them."""

MODEL_TYPE = "mask_frozen_detr"
MODEL_CLASS = "MaskFrozenDetrForImageSegmentation"
PROCESSOR_CLASS = "MaskFrozenDetrImageProcessor"
MODEL_FILE, PROCESSOR_FILE = "config.json", "preprocessor_config.json"
TRANSFORMERS_FILES = (MODEL_FILE, PROCESSOR_FILE)
