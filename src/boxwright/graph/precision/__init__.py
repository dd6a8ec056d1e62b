"""float16 as a graph of its own, for runtimes that take every type from the graph.

TensorRT 11, TensorRT-RTX, and TensorRT 10 where it is told to be strongly typed compute each
layer in the type that the graph says. :func:`to_half` derives such a graph: float16 where
that is safe, float32 where it is not, and casts only where the two meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from boxwright._version import __version__
from boxwright.card import Transform
from boxwright.errors import ModelError
from boxwright.graph.compare import compare
from boxwright.graph.legalise import PASSES
from boxwright.graph.precision.regions import decide
from boxwright.graph.precision.report import REASONS, HalfReport, Kept, Weights
from boxwright.graph.precision.rewrite import Rewriter
from boxwright.graph.precision.rules import QUANTISED, SAFE_SHARE
from boxwright.graph.precision.values import MOST_UNDERFLOW
from boxwright.graph.view import View, opset_of
from boxwright.model import Model

if TYPE_CHECKING:
    import onnx

__all__ = ["REASONS", "HalfReport", "Kept", "Weights", "convert", "to_half"]

# The first opset whose QuantizeLinear and DequantizeLinear know float16.
QUANTISED_OPSET = 19

# ONNX Runtime has other kernels for some operators of opset 19 (AveragePool), which differ in
# the last bit. A quantised graph, and no other is raised, makes a step of that here and there.
_STEPS = 0.05


def to_half(
    model: Model,
    *,
    keep: Iterable[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[Model, HalfReport]:
    """A float16 form of a model, with the same inputs and outputs.

    ``images`` stay uint8 and every output float32. Weights become float16 initializers. In
    float32 stay the nodes under ``pre/`` and ``decode/``, what comes after the last
    convolution, what could overflow, accumulate, or is an exact number, weights that
    float16 cannot hold, and what is not known; :data:`REASONS` has all the reasons.

    Of a graph with QuantizeLinear and DequantizeLinear, the scales become float16 as well,
    which takes opset 19; none of them becomes 0. Constants that it quantises are quantised
    here, by those scales.

    Args:
        model: What to convert; it is not changed.
        keep: Nodes whose names begin so stay in float32, beside the others.
        ranges: Smallest and largest value of tensors by name, as measured on images. A
            node that reads or makes values beyond a quarter of 65504 then stays in float32,
            and one that overflows in theory only is converted.

    Returns:
        The model, whose card has the transform, and what was done.

    Raises:
        ModelError: The model does not keep the contract; or it must be raised to opset 19,
            and ONNX's converter changes what it computes.
        NotCurableError: ONNX's converter cannot raise it to opset 19.
    """
    model.check()
    prefixes = (keep,) if isinstance(keep, str) else tuple(keep)
    proto, report = convert(model.proto, keep=prefixes, ranges=ranges)
    transform = Transform(
        "float16",
        {
            "keep": list(prefixes),
            "measured": 0 if ranges is None else len(ranges),
            "safe_share": SAFE_SHARE,
            "most_underflow": MOST_UNDERFLOW,
        },
        {"boxwright": __version__},
        report.effect(),
    )
    result = Model(proto, model.card.with_transform(transform))
    result.check("the float16 model")
    return result, report


def convert(
    proto: onnx.ModelProto,
    *,
    keep: Iterable[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[onnx.ModelProto, HalfReport]:
    """As :func:`to_half`, for a graph of any inputs and outputs, which keep their types.

    Raises:
        ModelError: As there.
        NotCurableError: As there.
    """
    prepared, differences = _prepared(proto)
    copy = type(proto)()
    copy.CopyFrom(prepared)
    decision = decide(View(prepared), keep, ranges)
    rewriter = Rewriter(copy, decision)
    rewriter.run()
    return copy, HalfReport(
        converted=len(decision.half),
        kept=decision.listed(),
        weights=tuple(item for item in decision.weights.values() if item.at_risk),
        scales_raised=rewriter.scales_raised,
        casts=rewriter.casts,
        opset=(opset_of(proto), opset_of(copy)),
        bytes=(proto.ByteSize(), copy.ByteSize()),
        differences=differences,
    )


def _prepared(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, float | None]]:
    """What float16 needs first, each step compared with the graph before it."""
    differences: dict[str, float | None] = {}
    steps: list[tuple[str, dict[str, int]]] = [("initializer-inputs", {}), ("sort", {})]
    if not any(node.op_type in QUANTISED for node in proto.graph.node):
        # Of a batch normalisation, single factors span more than float16 does; folded, they do
        # not. Between layers that round, what differs in the last digit may round apart.
        steps.append(("batchnorm", {}))
    else:
        # A scale of int32 is the product of two others, and float16 would make it 0.
        steps.append(("float-bias", {}))
        if opset_of(proto) < QUANTISED_OPSET:
            steps.append(("opset", {"version": QUANTISED_OPSET}))
    for name, parameters in steps:
        changed, done = PASSES[name](proto, **parameters)
        if not done.changes:
            continue
        found = compare(proto, changed)
        allowed = _STEPS if name == "opset" else done.tolerance
        if found.difference is not None and not found.difference <= allowed:
            raise ModelError(
                f"before float16, the pass {name!r} changes what the graph computes: output "
                f"{found.worst!r} differs by {found.difference:.3g} of its largest value, "
                f"expected at most {allowed:g}"
            )
        differences[name] = found.difference
        proto = changed
    return proto, differences
