"""Which operators of a graph TensorRT does not take, by its own documentation: no TensorRT is needed to see.

Source: docs/operators.md of https://github.com/onnx/onnx-tensorrt, as of TensorRT 10.15.
"""

from collections import Counter
from pathlib import Path

VERSION = "10.15"
OPSETS = (9, 24)  # lowest and highest that it takes
_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BlackmanWindow
Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv
DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements
GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization
GRU HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool
Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad Pow PRelu
QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
ReverseSequence RMSNormalization RNN RoiAlign RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu
Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan
Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
SUPPORTED = frozenset(_NAMES.split())


def unsupported(file: Path) -> list[str]:
    """Operators of an ONNX graph, its functions and inner graphs included, that TensorRT does not list as supported.

    Each with how often it occurs, "Unique (2 ×)", most frequent first.
    """
    import onnx

    graph = onnx.load(file)
    ours = {(function.domain, function.name) for function in graph.functions}
    found: Counter[str] = Counter()
    stack = [graph.graph.node, *(function.node for function in graph.functions)]
    while stack:
        for node in stack.pop():
            stack += [attribute.g.node for attribute in node.attribute if attribute.HasField("g")]
            if (node.domain, node.op_type) not in ours and (node.domain or node.op_type not in SUPPORTED):
                found[f"{node.domain}.{node.op_type}" if node.domain else node.op_type] += 1
    return [f"{name} ({count} ×)" for name, count in found.most_common()]
