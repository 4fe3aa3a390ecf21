"""A graph in fewer bits, by ONNX Runtime's own tools: half precision, or 8 bits that pictures have calibrated."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

HALVED = ("Conv", "BatchNormalization", "Relu", "MaxPool")
Feed = dict[str, np.ndarray]


def halve(graph: Path) -> None:
    """Convolutions and their weights in half precision, in place; all else, inputs and outputs too, stays float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(graph)
    others = {node.op_type for node in model.graph.node} - set(HALVED)
    halved = convert_float_to_float16(model, keep_io_types=True, op_block_list=sorted(others))
    graph.write_bytes(halved.SerializeToString())


def quantise(graph: Path, feeds: Sequence[Feed]) -> None:
    """Convolutions in 8 bits, in place, with the ranges that they take on these inputs; all else stays float32.

    Matrix products stay as they are: boxes and queries are made of them. Weights have a scale a channel and 7 bits:
    with 8, older processors' sums of products overflow.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static

    class Feeds(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[Feed] = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        quant_pre_process(graph, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            made,
            Feeds(),
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        graph.write_bytes(made.read_bytes())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tools' advice to root's logger, and the runtime's on what it cannot fold."""
    import onnxruntime

    root = logging.getLogger()
    level = root.level
    try:
        root.setLevel(logging.ERROR)
        onnxruntime.set_default_logger_severity(3)
        yield
    finally:
        root.setLevel(level)
        onnxruntime.set_default_logger_severity(2)  # as it starts
