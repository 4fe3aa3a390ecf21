"""Options of the machine, apart from torch: what prints help need not load it."""

from typing import Literal

Precision = Literal["auto", "fp32", "bf16", "fp16"]
ExportPrecision = Literal["fp32", "fp16", "int8"]
Runtime = Literal["onnxruntime", "openvino"]  # what runs an exported model
