"""Which operators of the ONNX standard each target converts.

Names only: what a target asks of an operator's attributes and inputs is in
:mod:`boxwright.graph.rules`. Operators that are functions of others in the standard count
as missing where the target does not know their name, for that is when it refuses them.

Sources, by their words in :data:`SOURCES`.
"""

from __future__ import annotations

SOURCES = {
    "onnx-tensorrt 8.5": "onnx-tensorrt, docs/operators.md of TensorRT 8.5 (opset <= 17)",
    "tensorrt 8.6 run": "TensorRT 8.6.1's own parser, run on an H200: each graph of "
    "tests/graph/zoo.py parsed, none built (benchmarks/graph_doctor_truth.py)",
    "onnx-tensorrt changelog": "onnx-tensorrt, docs/Changelog.md, releases 8.2 to 10.6",
    "onnx-tensorrt 9.2": "onnx-tensorrt, docs/operators.md of TensorRT 9.2 (opset <= 19)",
    "onnx-tensorrt 10.15": "onnx-tensorrt, docs/operators.md of TensorRT 10.15 (opset 9 to 24)",
    "rtx parser": "TensorRT-RTX 1.7's own parser and builder, run: OnnxParser.supports_operator "
    "for every operator, and each graph of tests/graph/zoo.py parsed and built",
    "openvino run": "OpenVINO 2026.4's ONNX frontend and CPU plugin, run on every operator "
    "and on each graph of tests/graph/zoo.py",
    "onnxruntime run": "ONNX Runtime's CPU provider, run on each graph of tests/graph/zoo.py",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# "Y" in the table of TensorRT 8.5, and what the changelog adds for 8.6 (the last line). Run,
# OnnxParser.supports_operator agreed, but for NonMaxSuppression, NonZero and RoiAlign: it
# always denies these three, for ONNX Runtime's sake, and graphs with the first two parse.
TENSORRT_8_6 = _words(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool
    BatchNormalization Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu
    Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GRU
    HardSwish HardSigmoid Identity If ImageScaler InstanceNormalization IsNaN LeakyRelu
    Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool
    Mean MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or
    Pad ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal RandomNormalLike
    RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
    Relu Reshape Resize ReverseSequence RNN RoiAlign Round ScaledTanh Scan Scatter
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
    Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile
    TopK Transpose Trilu Unsqueeze Upsample Where Xor
    GroupNormalization LayerNormalization IsInf
    """
)

# The table of TensorRT 9.2: 10.0 is the release after 9.3.
_TENSORRT_10_0 = TENSORRT_8_6 | _words("CastLike Hardmax")

# What the changelog adds later, by release.
_ADDED_IN_10 = {
    (10, 1): _words("DeformConv"),
    (10, 4): _words("BlackmanWindow HammingWindow HannWindow"),
    (10, 5): _words("STFT"),
    # The table of 10.15. When these came is not said, so before it they are UNCERTAIN_IN_10.
    (10, 15): _words("Attention Gelu Mish RMSNormalization RotaryEmbedding Swish TensorScatter"),
}

# Between 10.0 and 10.14: neither in the older table nor known to be missing.
UNCERTAIN_IN_10 = _words("Gelu Mish")

# OnnxParser.supports_operator, asked for every operator of ONNX 1.23, so without what is
# known by another name. RoiAlign and NonZero are named there but need a plugin that RTX
# has not: parsing them fails.
TENSORRT_RTX_1 = (TENSORRT_8_6 - _words("ImageScaler NonZero RoiAlign")) | _words(
    """
    Attention BlackmanWindow CastLike CausalConvWithState Gelu HammingWindow HannWindow Hardmax
    LinearAttention Mish RMSNormalization RotaryEmbedding STFT Swish TensorScatter
    """
)

# "No conversion rule found", asked of OpenVINO for every operator of ONNX 1.23.
OPENVINO_MISSING = _words(
    """
    BitCast CumProd DeformConv Det ImageDecoder MaxUnpool MelWeightMatrix Optional
    OptionalGetElement OptionalHasElement RegexFullMatch SequenceErase SequenceInsert
    SequenceLength SequenceMap StringConcat StringNormalizer StringSplit TensorScatter
    TfIdfVectorizer
    """
)

# Converted as part of a pattern only, such as SequenceConstruct with ConcatFromSequence.
OPENVINO_IN_PATTERNS = _words(
    "ConcatFromSequence SequenceConstruct SequenceEmpty SequenceAt SplitToSequence"
)

# Operators of the domain com.microsoft that OpenVINO's ONNX frontend converts (its
# documentation, "Supported Operations", and checked by running those that a detector has).
OPENVINO_MICROSOFT = _words(
    """
    Attention BiasAdd BiasGelu BiasSplitGelu DequantizeLinear DynamicQuantizeMatMul
    EmbedLayerNormalization FastGelu FusedConv FusedGemm FusedMatMul GatherND Gelu
    GroupNorm GroupQueryAttention MatMulIntegerToFloat MatMulNBits Pad QLinearAdd
    QLinearLeakyRelu QLinearMul QuantizeLinear QuickGelu Range SimplifiedLayerNormalization
    SkipLayerNormalization SkipSimplifiedLayerNormalization Trilu
    """
)


def tensorrt(version: tuple[int, int]) -> frozenset[str]:
    """What the parser of that TensorRT converts; 11 as RTX, which has 11's interface."""
    if version < (10, 0):
        return TENSORRT_8_6
    operators = _TENSORRT_10_0
    for release, added in _ADDED_IN_10.items():
        if version >= release:
            operators |= added
    return operators
