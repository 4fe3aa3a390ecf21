"""A graph in fewer bits, by ONNX Runtime's own tools: half precision, or 8 bits that pictures have calibrated."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mask_frozen_detr.export.tracing import tidy

# Of a value: a running mean of what pictures show, not the most that any of a hundred did.
RANGES = {"CalibMovingAverage": True, "CalibMovingAverageConstant": 0.05}
HALVED = ("Conv", "BatchNormalization", "Relu", "MaxPool")
Feed = dict[str, np.ndarray]


def halve(graph: Path) -> None:
    """Convolutions and their weights in half precision, in place; all else, inputs and outputs too, stays float32.

    ONNX Runtime's own conversion casts every value of the graph to half precision and back, boxes and reference points
    between the float32 operators as well: a quarter of a small detector's box AP is lost that way (docs/export.md).
    """
    import onnx_ir as ir

    model = ir.load(graph)
    lowered: list[ir.Node] = []
    raised: dict[ir.Value, ir.Value] = {}
    for node in [node for node in model.graph if node.op_type in HALVED]:
        for place, value in enumerate(node.inputs):
            if value is not None:
                down = ir.node("Cast", [value], {"to": ir.DataType.FLOAT16})
                model.graph.insert_before(node, down)
                node.replace_input_with(place, down.outputs[0])
                lowered.append(down)
        result = node.outputs[0]
        up = ir.node("Cast", [result], {"to": ir.DataType.FLOAT})
        result.replace_all_uses_with(up.outputs[0], replace_graph_outputs=True)
        up.replace_input_with(0, result)
        result.dtype = ir.DataType.FLOAT16
        model.graph.insert_after(node, up)
        raised[up.outputs[0]] = result
    for down in lowered:  # between two convolutions nothing is cast
        value = down.inputs[0]
        if value is not None and (half := raised.get(value)) is not None:
            down.outputs[0].replace_all_uses_with(half)
    tidy(model)
    ir.save(model, graph)


def quantise(graph: Path, feeds: Sequence[Feed]) -> None:
    """Convolutions in 8 bits, in place, with the ranges that they take on these inputs; all else stays float32.

    Matrix products stay as they are: boxes and queries are made of them. So do depth-wise convolutions, whose few
    products cost most of what 8 bits cost in AP and next to no time (docs/export.md). Weights have a scale a channel
    and 7 bits: with 8, older processors' sums of products overflow.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static

    class Feeds(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[Feed] = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        quant_pre_process(graph, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared, load_external_data=False).graph.node
        quantize_static(
            prepared,
            made,
            Feeds(),
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[node.name for node in nodes if _is_grouped(node)],
            per_channel=True,
            reduce_range=True,
            extra_options=RANGES,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        graph.write_bytes(made.read_bytes())


def _is_grouped(node: Any) -> bool:
    """Whether an `onnx.NodeProto` is a convolution of groups of channels."""
    return node.op_type == "Conv" and any(part.name == "group" and part.i > 1 for part in node.attribute)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back the tools' advice to the root logger, and the runtime's on what it cannot fold."""
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
