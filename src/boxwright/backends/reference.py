"""The reference backend: ONNX's own evaluator, for tests and for measuring the others.

It follows the operators' definitions one by one, in numpy, and is slow: seconds where a
real backend takes milliseconds. Convolutions and pooling are ours, because the
evaluator's own walk over every pixel in Python; convolutions accumulate in float64, so
that rounding is always the other backend's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.backends.base import BuildSpec, TensorSpec
from boxwright.backends.options import check_options
from boxwright.backends.plans import check_contract
from boxwright.backends.runner import CheckedRunner
from boxwright.engine import Engine
from boxwright.errors import BuildError, EngineError, InputError
from boxwright.progress import ProgressCallback, silent
from boxwright.receipt import build_receipt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from boxwright.backends.base import Tensors
    from boxwright.backends.capabilities import Capabilities
    from boxwright.model import Model

    Array = NDArray[Any]


class ReferenceBackend:
    """See :class:`boxwright.backends.base.Backend`. It compiles nothing: no plans."""

    name = "reference"

    def unavailable(self) -> str | None:
        """Always ``None``: numpy is everywhere."""
        return None

    def capabilities(self) -> Capabilities:
        """Float32 on the CPU."""
        return {"precisions": ["fp32", "int8"], "devices": ["cpu"]}

    def fingerprint(self, spec: BuildSpec) -> str:
        """One for all machines, for there is no plan."""
        return "reference"

    def build(
        self, model: Model, spec: BuildSpec, output: str | Path, progress: ProgressCallback = silent
    ) -> Engine:
        """See :meth:`boxwright.backends.base.Backend.build`."""
        _check_spec(spec)
        ReferenceRunner(model)
        receipt = build_receipt(
            model.card, spec, backend=self.name, fingerprint=None, seconds=0.0, evidence={}
        )
        return Engine.write(output, model, receipt, {})

    def load(
        self, source: Engine | Model, spec: BuildSpec, progress: ProgressCallback = silent
    ) -> ReferenceRunner:
        """See :meth:`boxwright.backends.base.Backend.load`."""
        _check_spec(spec)
        model = source.model() if isinstance(source, Engine) else source
        runner = ReferenceRunner(model)
        check_contract(model.card, runner.inputs, runner.outputs, "the model")
        return runner


class ReferenceRunner(CheckedRunner):
    """ONNX's evaluator behind the common runner.

    Raises:
        BuildError: The graph has an operator the evaluator does not know.
    """

    def __init__(self, model: Model) -> None:
        from onnx.reference import ReferenceEvaluator

        graph = model.proto.graph
        weights = {tensor.name for tensor in graph.initializer}
        inputs = tuple(_spec(value) for value in graph.input if value.name not in weights)
        super().__init__(inputs, tuple(_spec(value) for value in graph.output))
        try:
            self._evaluator: ReferenceEvaluator | None = ReferenceEvaluator(
                model.proto, new_ops=[*_faster_operators(), *_missing_operators(model.proto)]
            )
        except Exception as error:  # the evaluator's errors share no base but Exception
            raise BuildError(f"ONNX's evaluator refuses the model: {error}") from error

    def _run(self, feed: Tensors) -> Tensors:
        assert self._evaluator is not None  # noqa: S101  # infer() refuses closed runners
        try:
            # Overflow to infinity is what the definitions say; it needs no warning.
            with np.errstate(all="ignore"):
                values = self._evaluator.run(None, feed)
        except Exception as error:  # the evaluator's errors share no base but Exception
            raise EngineError(f"ONNX's evaluator failed: {error}") from error
        return {
            spec.name: np.asarray(value) for spec, value in zip(self.outputs, values, strict=True)
        }

    def _free(self) -> None:
        self._evaluator = None


def convolve(
    x: Array,
    weights: Array,
    bias: Array | None,
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Array:
    """ONNX's ``Conv`` on planes, accumulated in float64.

    Args:
        x: Shape ``(n, c, h, w)``.
        weights: Shape ``(m, c / group, kh, kw)``.
        bias: Shape ``(m,)``, or ``None``.
        strides: Down and across.
        pads: Top, left, bottom, right.
        dilations: Down and across.
        group: Number of groups.

    Returns:
        Shape ``(n, m, out_h, out_w)``, of `x`'s type.
    """
    batch, channels = x.shape[:2]
    filters, per_group, *kernel = weights.shape
    padded = _pad(x.astype(np.float64), pads, 0.0)
    rows, columns = _extents(padded.shape[2:], kernel, strides, dilations)
    kernels = weights.astype(np.float64).reshape(group, filters // group, per_group, *kernel)
    total = np.zeros((batch, group, filters // group, rows * columns))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            window = _window(padded, (i, j), (rows, columns), strides, dilations)
            flat = window.reshape(batch, group, channels // group, rows * columns)
            total += kernels[..., i, j] @ flat
    result = total.reshape(batch, filters, rows, columns)
    if bias is not None:
        result += bias.reshape(1, -1, 1, 1)
    return result.astype(x.dtype)


def _window(
    padded: Array,
    corner: tuple[int, int],
    size: tuple[int, int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Array:
    """What the kernel's element `corner` sees at every position."""
    top, left = corner[0] * dilations[0], corner[1] * dilations[1]
    bottom = top + (size[0] - 1) * strides[0] + 1
    right = left + (size[1] - 1) * strides[1] + 1
    return padded[:, :, top : bottom : strides[0], left : right : strides[1]]


def _extents(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, int]:
    rows, columns = (
        (have - (extent - 1) * dilation - 1) // stride + 1
        for have, extent, stride, dilation in zip(size, kernel, strides, dilations, strict=True)
    )
    return rows, columns


def _pad(x: Array, pads: Sequence[int], value: float) -> Array:
    top, left, bottom, right = pads
    return np.pad(
        x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=x.dtype.type(value)
    )


@dataclass(frozen=True)
class _Geometry:
    """Where a kernel goes: the attributes that ``Conv`` and the pools share, resolved.

    `overhang` is what ``ceil_mode`` adds below and to the right of the padding.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    overhang: tuple[int, ...] = (0, 0)

    @classmethod
    def of(cls, x: Array, kernel: Sequence[int], attributes: dict[str, Any]) -> _Geometry:
        if x.ndim != 4:
            raise NotImplementedError(f"two spatial dimensions are expected, got {x.ndim - 2}")
        strides = tuple(attributes.get("strides") or (1, 1))
        dilations = tuple(attributes.get("dilations") or (1, 1))
        pads = tuple(attributes.get("pads") or (0, 0, 0, 0))
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        automatic = attributes.get("auto_pad") or "NOTSET"
        if automatic.startswith("SAME"):
            pads = _same_pads(x.shape[2:], reach, strides, upper=automatic == "SAME_UPPER")
        overhang = [0, 0]
        if attributes.get("ceil_mode"):
            for axis in range(2):
                size = x.shape[2 + axis] + pads[axis] + pads[axis + 2]
                steps = -(-(size - reach[axis]) // strides[axis])
                # A window that would start in the end padding is left out.
                if steps * strides[axis] >= x.shape[2 + axis] + pads[axis]:
                    steps -= 1
                overhang[axis] = max(steps * strides[axis] + reach[axis] - size, 0)
        return cls(tuple(kernel), strides, dilations, pads, tuple(overhang))

    def windows(self, x: Array, filler: float, overhang_filler: float | None = None) -> list[Array]:
        """What each element of the kernel sees, each of the output's shape."""
        padded = _pad(x, self.pads, filler)
        last = filler if overhang_filler is None else overhang_filler
        padded = _pad(padded, (0, 0, *self.overhang), last)
        size = _extents(padded.shape[2:], self.kernel, self.strides, self.dilations)
        corners = [(i, j) for i in range(self.kernel[0]) for j in range(self.kernel[1])]
        return [_window(padded, corner, size, self.strides, self.dilations) for corner in corners]


def _same_pads(
    size: Sequence[int], reach: Sequence[int], strides: Sequence[int], *, upper: bool
) -> tuple[int, ...]:
    begin, end = [], []
    for have, extent, stride in zip(size, reach, strides, strict=True):
        total = max((-(-have // stride) - 1) * stride + extent - have, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if upper else large)
        end.append(large if upper else small)
    return (*begin, *end)


def _faster_operators() -> list[type]:
    """Replacements for operators that the evaluator computes element by element."""
    from onnx.reference.op_run import OpRun

    class Conv(OpRun):
        op_domain = ""

        def _run(self, x: Array, w: Array, b: Array | None = None, **kw: Any) -> tuple[Array]:
            at = _Geometry.of(x, w.shape[2:], kw)
            return (
                convolve(
                    *(x, w, b),
                    strides=at.strides,
                    pads=at.pads,
                    dilations=at.dilations,
                    group=kw.get("group") or 1,
                ),
            )

    class MaxPool(OpRun):
        op_domain = ""

        def _run(self, x: Array, **kw: Any) -> tuple[Array]:
            if len(self.output) > 1:
                raise NotImplementedError("MaxPool's second output (indices)")
            lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
            at = _Geometry.of(x, kw["kernel_shape"], kw)
            return (np.maximum.reduce(at.windows(x, lowest)),)

    class AveragePool(OpRun):
        op_domain = ""

        def _run(self, x: Array, **kw: Any) -> tuple[Array]:
            at = _Geometry.of(x, kw["kernel_shape"], kw)
            padding_counts = 1.0 if kw.get("count_include_pad") else 0.0
            count = np.add.reduce(at.windows(np.ones(x.shape), padding_counts, 0.0))
            total = np.add.reduce(at.windows(x.astype(np.float64), 0.0))
            return ((total / count).astype(x.dtype),)

    class Sigmoid(OpRun):
        op_domain = ""

        def _run(self, x: Array) -> tuple[Array]:
            # Of the two equal forms, the one whose exponential cannot overflow.
            small = np.exp(-np.abs(x))
            return (np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(x.dtype),)

    class Softplus(OpRun):
        op_domain = ""

        def _run(self, x: Array) -> tuple[Array]:
            return (np.logaddexp(x, x.dtype.type(0)),)

    return [Conv, MaxPool, AveragePool, Sigmoid, Softplus]


def _missing_operators(proto: onnx.ModelProto) -> list[type]:
    """Quantisation as opset 10 to 18 define it; ONNX's evaluator has it from 19 on only."""
    from onnx.reference.op_run import OpRun

    if any(o.version >= 19 for o in proto.opset_import if o.domain in ("", "ai.onnx")):
        return []

    class QuantizeLinear(OpRun):
        op_domain = ""

        def _run(
            self, x: Array, scale: Array, zero: Array | None = None, axis: int = 1, **_: Any
        ) -> Any:
            start = np.zeros((), np.uint8) if zero is None else zero
            step, offset = (_along(value, x, axis) for value in (scale, start))
            limits = np.iinfo(start.dtype)
            # rint rounds halves to even, as the operator does.
            steps = np.rint(x / step) + offset.astype(np.int64)
            return (np.clip(steps, limits.min, limits.max).astype(start.dtype),)

    class DequantizeLinear(OpRun):
        op_domain = ""

        def _run(
            self, x: Array, scale: Array, zero: Array | None = None, axis: int = 1, **_: Any
        ) -> Any:
            start = np.zeros((), x.dtype) if zero is None else zero
            step, offset = (_along(value, x, axis) for value in (scale, start))
            steps = x.astype(np.int64) - offset.astype(np.int64)
            return (steps.astype(scale.dtype) * step,)

    return [QuantizeLinear, DequantizeLinear]


def _along(values: Array, x: Array, axis: int) -> Array:
    """One value for all of `x`, or one for each index along an axis."""
    if values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def _check_spec(spec: BuildSpec) -> None:
    check_options("reference", spec.options, ())
    # A quantised graph is computed as it says: rounded to integers, multiplied in float32.
    if spec.precision == "fp16":
        raise BuildError("backend reference builds precision fp32 or int8, got fp16")
    if spec.device not in ("auto", "cpu"):
        raise InputError(f"backend reference runs on the CPU only, got device {spec.device!r}")


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    from onnx import helper

    tensor = value.type.tensor_type
    shape = tuple(
        extent.dim_value if extent.HasField("dim_value") else None for extent in tensor.shape.dim
    )
    return TensorSpec(
        value.name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape
    )
