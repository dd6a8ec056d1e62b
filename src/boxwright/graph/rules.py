"""What each target makes of what the checks find: the data table of the graph doctor.

A row is one finding. Its verdicts stand in the order of
:data:`boxwright.graph.targets.COLUMNS`, one word each:

=======  ==========================================================================
word     meaning
=======  ==========================================================================
``-``    nothing to say: it is accepted
``N``    a note: accepted, worth knowing
``W``    a warning: accepted with a condition, or the sources do not say
``Ep``   an error: refused while parsing
``Eb``   an error: parsed, refused while building
``Er``   an error: accepted, and something else is computed
``Ec``   an error: the parser crashes on it, and takes the process with it
=======  ==========================================================================

Where the runtime could be run (TensorRT-RTX, ONNX Runtime, OpenVINO) the words are what it
did with the graphs of ``tests/graph/zoo.py``; a test repeats that. For TensorRT 8.6 they are
what a real one did while parsing those graphs, asked by
``benchmarks/graph_doctor_truth.py``; building was not asked. For 10 and 11 they come from
the documents that :mod:`boxwright.graph.operators` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from boxwright.graph.targets import COLUMNS

if TYPE_CHECKING:
    from boxwright.graph.targets import Column

Severity = Literal["error", "warning", "note"]
Stage = Literal["parse", "build", "result", "crash"]

_SEVERITIES: dict[str, Severity] = {"E": "error", "W": "warning", "N": "note"}
_STAGES: dict[str, Stage] = {"p": "parse", "b": "build", "r": "result", "c": "crash"}


@dataclass(frozen=True)
class Verdict:
    """How bad a finding is for a target, and where it shows."""

    severity: Severity
    stage: Stage = "parse"


@dataclass(frozen=True)
class Rule:
    """One kind of finding.

    Attributes:
        code: Its name, for programs.
        title: What it is, for the reference page.
        why: Why it matters; may be taken up by the finding with what was measured.
        cure: The pass of :mod:`boxwright.graph.legalise` that removes it, if one can.
        advice: What the user should do where no pass helps.
        verdicts: By column; a column without an entry has nothing to say.
    """

    code: str
    title: str
    why: str
    cure: str | None
    advice: str
    verdicts: dict[Column, Verdict]


def _rule(
    code: str, words: str, title: str, why: str, cure: str | None = None, advice: str = ""
) -> Rule:
    verdicts: dict[Column, Verdict] = {}
    for column, word in zip(COLUMNS, words.split(), strict=True):
        if word != "-":
            stage = _STAGES[word[1]] if len(word) > 1 else "parse"
            verdicts[column] = Verdict(_SEVERITIES[word[0]], stage)
    return Rule(code, title, why, cure, advice, verdicts)


_REQUANTISE = "quantise again: QDQ form, symmetric, int8, zero points 0, biases left in float"
_OPEN_AGAIN = "export again with this computed before or after the model"

_ROWS = (
    # code, verdicts: 8.6 10.0 10.15 11 rtx ort ov2024 ov2025 ov2026
    # --- the file -------------------------------------------------------------------
    _rule("opset-new", "W W W W W Ep W W W", "opset newer than the target documents",
          "operators whose meaning changed since may be read by their older meaning",
          "opset", "export again with an older opset"),
    _rule("opset-changed", "Er Er Er Er W - W W W",
          "an operator whose inputs or attributes changed after the target's newest opset",
          "the target reads it by the older signature", "opset",
          "export again with an older opset"),
    _rule("opset-old", "W W W W W W - - -", "opset older than the target documents",
          "it may load, but nothing is promised", "opset", "export again with opset 13 or newer"),
    _rule("ir-version", "N N N N - Ep - - -", "IR version newer than the target reads",
          "the file format's version is checked by its number", "ir-version"),
    _rule("external-data", "W W W W W W W W W", "values kept in other files",
          "the file does not work without them", "embed"),
    _rule("external-missing", "Ep Ep Ep Ep Ep Ep Ep Ep Ep",
          "values kept in other files that are not there",
          "the values cannot be read", None,
          "put the files beside the model, under the names it gives"),
    _rule("functions", "Ep N N N N N Ep Ep Ep", "model-local functions",
          "TensorRT 8.6 takes them for plugins", "inline"),
    # --- structure ------------------------------------------------------------------
    _rule("malformed", "Ep Ep Ep Ep Ep Ep Ep Ep Ep",
          "a node or tensor that breaks its own definition", "it means nothing", None,
          "the file is damaged, or its exporter wrong: export again"),
    _rule("initializers-as-inputs", "N N N N N W N N N", "initializers listed as inputs (old IR)",
          "they count as inputs that may change, which stops constant folding",
          "initializer-inputs"),
    _rule("order", "W W W W N N N N N", "nodes not in topological order",
          "the standard asks for it; not every reader sorts", "sort"),
    _rule("duplicate-names", "W W W W N Ep N N N", "nodes of the same name",
          "layers cannot be told apart by their names", "names"),
    _rule("odd-names", "N N N N N N N N N", "names with characters that tools stumble over",
          "logs, plugins and file names are made of them", "names"),
    _rule("output-not-produced", "Ec Ep Ep Ep Ep Ep Ep Ep Ep",
          "an output that no node produces", "there is nothing to give out", "outputs",
          "export again; the graph was cut at the wrong place"),
    _rule("no-outputs", "Eb Eb Eb Eb Eb N N N N", "a graph without outputs",
          "everything in it may be left out", "outputs"),
    _rule("output-untyped", "Ep Ep Ep Ep Ep - - - -", "an output without a type",
          "the parser needs the type", "shapes"),
    _rule("output-is-input", "N N N N N - N N N", "an input that is an output too",
          "nothing is computed for it"),
    _rule("empty-outputs", "N Ep Ep Ep Ep - - - -", "outputs left out by an empty name",
          "the parser wants a name for each that it makes", "empty-outputs"),
    _rule("empty-outputs-counted", "Ep W W W - - - - -",
          "outputs left out by an empty name, of a node that gives one here",
          "TensorRT 8.6 counts them, and makes fewer", "empty-outputs"),
    _rule("unused-outputs", "Ep Ep Ep Ep Ep - W W -",
          "outputs of a node that the target does not make, and nobody reads",
          "the parser refuses the node for having them", "empty-outputs"),
    _rule("extra-outputs", "Ep Ep Ep Ep Ep - Ep Ep -",
          "outputs of a node that the target does not make",
          "only the first output is converted", None, _OPEN_AGAIN),
    _rule("no-op", "N N N N N N N N N", "Identity and Dropout nodes", "they compute nothing",
          "no-ops"),
    _rule("constant-node", "N N N N N N N N N", "Constant nodes",
          "older tools find weights and shapes among the initializers only", "constants"),
    _rule("constant-integers", "Ep - - - - - - - -", "Constant nodes with value_ints",
          "the parser reads them as floats, of which there are none", "constants",
          "export again with the values as initializers"),
    _rule("constant-integer", "Er - - - - - - - -", "Constant nodes with value_int",
          "the parser reads it as a float, and so as 0", "constants",
          "export again with the value as an initializer"),
    _rule("foldable-batchnorm", "N N N N N N N N N",
          "batch normalisation that its convolution can take in",
          "one multiplication less per value, and one place less for quantisers to stop at",
          "batchnorm"),
    # --- types ----------------------------------------------------------------------
    _rule("double", "W W W W W - - - -", "64-bit floats",
          "they are narrowed to 32 bits without being asked", "double"),
    _rule("int64-constant", "N - - - - - - - -", "64-bit integer constants",
          "they are narrowed to 32 bits; these fit", "int32"),
    _rule("int64-out-of-range", "Er - - - - - - - -", "integer constants beyond 32 bits",
          "they are clamped to 32 bits, so something else is computed", None,
          "export again with values within 32 bits"),
    _rule("int64-io", "W - - - - - - - -", "64-bit integer inputs or outputs",
          "the engine takes and gives 32-bit integers instead"),
    _rule("uint8-inside", "Ep Ep Ep Ep Ep - - - -", "computing with uint8",
          "uint8 may enter and leave, and be cast, and nothing else", "uint8"),
    _rule("uint8-arithmetic", "Ep Ep Ep Ep Ep W - - -", "arithmetic with uint8",
          "the target computes with wider types; ONNX Runtime before 1.22 lacks some of it", None,
          "export again with a cast to float first"),
    _rule("bfloat16", "Ep - - - - Ep - - -", "bfloat16",
          "the runtime has no such type, or no kernel for these operators", None,
          "export again in float32 or float16"),
    _rule("half-underflow", "W W W W W N W W W", "float16 constants below 6.1e-5",
          "they are subnormal: few digits are left, and hardware may take them for 0", None,
          "keep these weights in float32"),
    _rule("type", "Ep Ep Ep Ep Ep - - - -", "types that the target does not have",
          "the parser has no such type", None, "export again with float32, float16 or int32"),
    _rule("string", "Ep Ep Ep Ep Ep N W W W", "text", "the runtime computes with numbers", None,
          _OPEN_AGAIN),
    _rule("sequence", "Ep Ep Ep Ep Ep - Ep Ep W", "sequences and optional values",
          "the runtime knows tensors only", None,
          "export again so that lists of tensors become several outputs"),
    _rule("uint8-io", "N N N N N - - - -", "uint8 inputs or outputs",
          "accepted, as long as a cast is the first or last thing done with them"),
    # --- operators ------------------------------------------------------------------
    _rule("operator", "Ep Ep Ep Ep Ep Ep Ep Ep Ep", "an operator without a conversion",
          "the target has no conversion for it", None,
          "export again with other operators, or take this part out of the model"),
    _rule("operator-decomposed", "Ep Ep Ep Ep Ep Ep Ep Ep Ep",
          "an operator without a conversion, which others can replace",
          "the target has no conversion for it", "decompose"),
    _rule("operator-uncertain", "- W - - - - - - -", "an operator the sources do not settle",
          "the documents of this version do not say whether it is converted", "decompose"),
    _rule("group-normalization", "- - - - - - Ep Ep -", "GroupNormalization of opset 21",
          "the frontend reads it as that of opset 18", "decompose"),
    _rule("custom-operator", "Ep Ep Ep Ep Ep Ep Ep Ep Ep", "an operator of another domain",
          "it needs a plugin or library of its own", None,
          "export again with standard operators, or load what brings the operator"),
    _rule("custom-by-name", "W W W W W - - - -",
          "an operator of another domain that the parser takes for the standard one",
          "the parser looks at the name alone", "decompose"),
    _rule("upsample", "W W W W W W W W W", "Upsample, deprecated since opset 10",
          "newer tools refuse it", "upsample"),
    _rule("upsample-removed", "W W W W W Ep W W W", "Upsample in an opset that has none",
          "the graph is not valid", "upsample"),
    _rule("scatter", "W W W W W W W W W", "Scatter, deprecated since opset 11",
          "newer tools refuse it", "scatter"),
    _rule("resize-mode", "W W W W - - - - -", "cubic Resize",
          "nearest and linear are all that the documents promise", None,
          "export with linear interpolation, or measure the result"),
    _rule("resize-coordinates", "Ep Ep Ep Ep Ep - Ep Ep Ep",
          "Resize with tf_crop_and_resize or half_pixel_symmetric",
          "the target has no such coordinates", "resize-coordinates",
          "export with half_pixel or asymmetric coordinates"),
    _rule("resize-antialias", "Er Ep Ep Ep Ep - - - -", "Resize with antialias",
          "it is refused, or left out where the parser is older than the attribute",
          "resize-antialias", "export without antialias, or shrink before the model"),
    _rule("resize-axes", "Ep W W - - - Ep - -", "Resize with axes",
          "scales and sizes are expected for every axis", "resize-axes"),
    _rule("resize-aspect", "Er Ep Ep Ep Ep - Ep - -", "Resize that keeps the aspect ratio",
          "sizes are taken as they stand", "resize-aspect", "export with the sizes that come out"),
    _rule("resize-computed", "Ep Ep Ep Ep Ep - - - -", "Resize with scales from the inputs",
          "scales must follow from shapes and constants", None,
          "export with constant scales, or with sizes"),
    _rule("pad-attribute", "N N N N N N N N N", "Pad of opset 10 or older", "an old form", "opset"),
    _rule("pad-negative", "Ep N N N - - - - -", "Pad that cuts off",
          "8.6 refuses it; the documents of 10 do not say, and TensorRT-RTX takes it",
          "pad-negative", "export with Slice for what is cut off"),
    _rule("pad-mode", "Ep - - - - - Ep Ep Ep", "Pad with wrap", "the target has no such mode",
          "pad-wrap", "export with reflect or edge"),
    _rule("pad-axes", "Ep W - - - - Ep Ep -", "Pad with axes",
          "pads are expected for every axis", "pad-axes",
          "export with pads for every axis"),
    _rule("pad-computed", "W N N N N - - - -", "Pad by computed amounts",
          "the shape is known at run time only", None, "export with constant pads"),
    _rule("topk-large", "Eb Eb Eb Eb Eb - - - -", "TopK with K above 3840",
          "3840 is the most that TensorRT takes", None,
          "ask for at most 3840, or select after the model"),
    _rule("pool-dilation", "Ep Ep Ep Ep Ep - - - -", "dilated pooling",
          "pooling has no dilation here", "pool-dilation",
          "export with pooling that is not dilated"),
    _rule("pool-indices", "Ep Ep Ep Ep Ep - - - -", "MaxPool that also gives indices",
          "only the maxima are converted", None, _OPEN_AGAIN),
    _rule("window-rank", "Ep Ep Ep Ep Ep - Ep Ep Ep", "windows of more than three dimensions",
          "convolution and pooling have at most three", None, "merge dimensions before it"),
    _rule("data-dependent", "W W W W - - - - -",
          "a shape that depends on values: NonZero, NonMaxSuppression",
          "the engine needs an output allocator, and nothing after it has a fixed shape", None,
          "export raw boxes and scores; Boxwright suppresses outside the graph"),
    _rule("data-dependent-refused", "- - - - Eb - - - -", "NonMaxSuppression for TensorRT-RTX",
          "it parses, and no kernel implements it", None,
          "export raw boxes and scores; Boxwright suppresses outside the graph"),
    _rule("plugin-missing", "- - - - Ep - - - -",
          "NonZero and RoiAlign for TensorRT-RTX", "its plugin is not part of the runtime", None,
          _OPEN_AGAIN),
    _rule("roi-align", "Ep - - - - - - - -", "RoiAlign for TensorRT 8.6",
          "its plugin is in libnvinfer_vc_plugin.so.8, which pip's TensorRT 8.6 came without", None,
          "export again without it, or install that library from NVIDIA's other packages"),
    _rule("scatter-reduction", "Er Ep Ep Ep Ep - Ep Ep -", "ScatterND with a reduction",
          "values are set, not combined, or the node is refused", None,
          "export without scatter_add, for example through index_select and sums"),
    _rule("scatter-elements-reduction", "Er - - - Ep - - - -",
          "ScatterElements with a reduction", "it needs a plugin, or is left out", None,
          "export without scatter_add, for example through index_select and sums"),
    _rule("grid-sample-rank", "Ec Ep Ep W - - Ep Ep Ep", "GridSample of volumes",
          "images only are documented", None, "sample slice by slice"),
    _rule("einsum", "Ep - - - - - Ep - -", "Einsum with an ellipsis or a diagonal",
          "the target multiplies plain matrices", "einsum", "export with MatMul and Transpose"),
    _rule("control-flow", "W W W N N - - - -", "If, Loop and Scan",
          "branches must agree in shape, and little is fused across them", None,
          "export with the branch that is taken, or the loop unrolled"),
    _rule("control-flow-shape", "Ep W W - - - - - -", "If with branches of different shapes",
          "both branches must give the same shape", None,
          "export with the branch that is taken"),
    _rule("control-flow-rank", "Ep Eb Eb Eb Eb - Eb Eb Eb", "If with branches of different ranks",
          "the rank of a tensor must be known", None,
          "export with the branch that is taken"),
    _rule("constant-if", "W W W N N N N N N", "If with a constant condition",
          "the other branch is dead, and may still be refused", "constant-if"),
    _rule("axes-computed", "Ep Ep Ep Ep Ep - - - -", "axes that are computed",
          "axes must be constant", None, "export with constant axes"),
    _rule("slice-axes-computed", "Ep W - - - - Eb Eb Eb", "Slice with computed axes",
          "axes must be constant; OpenVINO was seen to crash on it, in every second run", None,
          "export with constant axes"),
    _rule("cumsum-axis-computed", "Ep W W W - - - - -", "CumSum with a computed axis",
          "the axis must be constant", None, "export with a constant axis"),
    _rule("eyelike-dynamic", "Ep Ep Ep Ep Ep - - - -", "EyeLike of a dynamic shape",
          "the shape must be known", None, "export with fixed shapes"),
    _rule("range-computed", "Ep W W W Ep - - - -", "Range of floats from the inputs",
          "its length is not known from shapes", None, "export with constant bounds"),
    _rule("training", "Ep Ep Ep Ep Ep N Ep Ep W", "batch normalisation in training mode",
          "it would normalise by the batch at hand", None,
          "export in evaluation mode (model.eval() in PyTorch)"),
    _rule("dropout-training", "Ep Ep Ep Ep Ep N Ep Ep Ep", "Dropout in training mode",
          "it would drop values at random", None,
          "export in evaluation mode (model.eval() in PyTorch)"),
    _rule("output-shape", "N N N N N - - - -", "ConvTranspose with output_shape",
          "padding is computed by a rule that readers disagree about", "explicit-padding"),
    _rule("auto-pad", "N N N N N N N N N", "auto_pad",
          "padding is computed by a rule that readers disagree about", "explicit-padding"),
    _rule("cast-chain", "N N N N N N N N N", "casts of casts", "one would do", "cast-chains"),
    # --- shapes ---------------------------------------------------------------------
    _rule("dynamic-shape", "W W W W W N N N N", "inputs of free height, width or other sides",
          "an optimisation profile is needed, and every stage must work at all sizes",
          "fix-shapes", "give a size: --size 416"),
    _rule("unknown-rank", "W W W W W - Eb Eb Eb", "an input of unknown rank",
          "not even the number of dimensions is known", None,
          "export with the shape of the input"),
    # --- quantisation ---------------------------------------------------------------
    _rule("qoperator", "Ep Ep Ep Ep Ep - - - -", "quantised operators (QOperator form)",
          "quantised networks are read in QDQ form only", None, _REQUANTISE),
    _rule("zero-point", "Ep Ep Ep Ep Ep - - - -", "a zero point that is not 0",
          "quantisation must be symmetric; rounded in float32 it computes the same, no faster",
          "fake-quantisation", _REQUANTISE),
    _rule("zero-point-128", "Ep Ep Ep Ep Ep - - - -", "uint8 with zero point 128",
          "quantisation must be int8 with zero point 0; this is the same, shifted",
          "signed-quantisation", _REQUANTISE),
    _rule("quantized-uint8", "W W W W W - W - -", "uint8 with zero point 0",
          "it is taken as int8, so values above 127 may be clipped", None, _REQUANTISE),
    _rule("quantized-no-zero-point", "Ep - - - - - Ep - -", "QuantizeLinear without a zero point",
          "TensorRT 8.6 reads it all the same, and OpenVINO 2024 misreads its shape",
          "zero-points", _REQUANTISE),
    _rule("dequantized-no-zero-point", "Ep - - - - - - - -",
          "DequantizeLinear without a zero point", "TensorRT 8.6 reads it all the same",
          "zero-points", _REQUANTISE),
    _rule("quantized-scale", "Ep Ep Ep Ep Ep W W W W", "a scale that is not above 0",
          "it leaves nothing of the values", None, _REQUANTISE),
    _rule("quantized-int32", "Ep Ep Ep Ep Ep - - - -", "a bias kept as int32",
          "only 8-bit values (and smaller) are dequantised", "float-bias", _REQUANTISE),
    _rule("quantized-wide", "Ep Ep Ep Ep Ep - N N Eb", "16-bit quantisation",
          "only 8-bit values (and smaller) are quantised", None, _REQUANTISE),
)  # fmt: skip

RULES: dict[str, Rule] = {rule.code: rule for rule in _ROWS}
"""Every rule by its code, in the order of the reference page."""
