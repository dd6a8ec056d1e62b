"""A model's graph run eagerly in PyTorch: the peer that speeds are usually compared with.

Every node becomes the PyTorch call that does the same, with the weights as they are in the
graph. On a GPU the network runs in float16 with channels last, as the field's benchmarks
do, and the decoding in float32, as everywhere; on a CPU all of it in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.closing import Closing
from boxwright.errors import BackendUnavailableError, InputError
from boxwright.extras import require
from boxwright.model import BOXES, IMAGES, LANDMARKS, SCORES

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from boxwright.backends.base import Tensors
    from boxwright.model import Model

Operator = Callable[[Any, "NodeProto", list[Any], dict[str, Any]], Any]


class TorchPeer(Closing):
    """One contender of a benchmark (see `boxwright.evaluate.contenders`).

    Args:
        model: Any model of ours; an operator that is not known here is refused.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` takes a GPU where there is one.
        threads: For the CPU; PyTorch has one number for the whole process.

    Raises:
        MissingExtraError: PyTorch is not installed.
        BackendUnavailableError: The device is not there.
        InputError: The graph has an operator that is not known here.
    """

    kind = "torch"
    fixed_batch = None

    def __init__(self, model: Model, device: str, threads: int) -> None:
        self._torch = torch = require("torch", "torch")
        gpu = torch.cuda.is_available()
        if device.startswith("cuda") and not gpu:
            raise BackendUnavailableError("PyTorch sees no GPU here; use --device cpu")
        self._device = torch.device(("cuda" if gpu else "cpu") if device == "auto" else device)
        self._half = self._device.type == "cuda"
        if not self._half:
            torch.set_num_threads(threads)
        self.name, self.card = "PyTorch", model.card
        self.precision = "fp16" if self._half else "fp32"
        self.backend = f"torch {torch.__version__} eager, channels last"
        self.threads: int | None = None if self._half else threads
        self._nodes = list(model.proto.graph.node)
        unknown = {node.op_type for node in self._nodes} - set(_OPERATORS)
        if unknown:
            raise InputError(f"PyTorch peer: unknown operators {', '.join(sorted(unknown))}")
        self._constants = self._load(model)

    @property
    def device_name(self) -> str:
        """The GPU's name, or ``cpu``."""
        if self._device.type != "cuda":
            return "cpu"
        return str(self._torch.cuda.get_device_name(self._device))

    def _load(self, model: Model) -> dict[str, Any]:
        """Tensors on the device, in float16 where the network computes in it."""
        from onnx import numpy_helper

        torch, decode = (
            self._torch,
            {name for node in self._nodes if _in_float32(node) for name in node.input},
        )
        loaded = {}
        for item in model.proto.graph.initializer:
            values = numpy_helper.to_array(item)
            if values.dtype == np.int64:
                loaded[item.name] = values.tolist()  # shapes and axes: arguments, not data
                continue
            tensor = torch.from_numpy(values.copy()).to(self._device)
            if self._half and item.name not in decode:
                tensor = tensor.half()
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            loaded[item.name] = tensor
        return loaded

    def network(self, batch: NDArray[np.uint8]) -> Any:
        """Run to the end, the results on the host."""
        torch = self._torch
        values = dict(self._constants)
        with torch.inference_mode():
            values[IMAGES] = torch.from_numpy(batch).to(self._device)
            for node in self._nodes:
                inputs = [values[name] if name else None for name in node.input]
                if self._half and _in_float32(node):
                    inputs = [_as_float32(torch, value) for value in inputs]
                outputs = _OPERATORS[node.op_type](torch, node, inputs, _attributes(node))
                many = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
                values.update(zip(node.output, many, strict=False))
                if node.output[0] == "pre/planes":
                    planes = values[node.output[0]].to(memory_format=torch.channels_last)
                    values[node.output[0]] = planes.half() if self._half else planes
            wanted = [name for name in (BOXES, SCORES, LANDMARKS) if name in values]
            return {name: values[name].float().cpu() for name in wanted}

    def tensors(self, raw: Any) -> Tensors:
        """As numpy arrays."""
        return {name: value.numpy() for name, value in raw.items()}

    def close(self) -> None:
        """Let the weights go."""
        self._constants = {}


def _in_float32(node: NodeProto) -> bool:
    results = (BOXES, SCORES, LANDMARKS)
    return node.name.startswith(("pre/", "decode/")) or node.output[0] in results


def _as_float32(torch: Any, value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype == torch.float16
    return value.float() if half else value


def _attributes(node: NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _conv(torch: Any, _node: NodeProto, x: list[Any], a: dict[str, Any]) -> Any:
    image, padding = _padded(torch, x[0], a["pads"], 0.0)
    bias = x[2] if len(x) > 2 else None
    return torch.nn.functional.conv2d(
        image, x[1], bias, a["strides"], padding, a.get("dilations", [1, 1]), a.get("group", 1)
    )


def _max_pool(torch: Any, _node: NodeProto, x: list[Any], a: dict[str, Any]) -> Any:
    image, padding = _padded(torch, x[0], a["pads"], float("-inf"))
    # PyTorch pads by half a window at most.
    if any(2 * p > k for p, k in zip(padding, a["kernel_shape"], strict=True)):
        image, padding = _padded(torch, x[0], a["pads"], float("-inf"), always=True)
    return torch.nn.functional.max_pool2d(image, a["kernel_shape"], a["strides"], padding)


def _average_pool(torch: Any, _node: NodeProto, x: list[Any], a: dict[str, Any]) -> Any:
    """Sums of values and of ones: only what lies inside the image counts."""
    pads = a.get("pads", [0, 0, 0, 0])
    image, padding = _padded(torch, x[0], pads, 0.0, always=True)
    ones, _ = _padded(torch, torch.ones_like(x[0][:1, :1]), pads, 0.0, always=True)
    pool = torch.nn.functional.avg_pool2d
    window = (a["kernel_shape"], a["strides"], padding)
    return pool(image, *window) / pool(ones, *window)


def _padded(
    torch: Any, x: Any, pads: list[int], value: float, *, always: bool = False
) -> tuple[Any, list[int]]:
    top, left, bottom, right = pads
    if (top, left) == (bottom, right) and not always:
        return x, [top, left]
    return torch.nn.functional.pad(x, (left, right, top, bottom), value=value), [0, 0]


def _slice(torch: Any, _node: NodeProto, x: list[Any], a: dict[str, Any]) -> Any:
    result = x[0]
    for start, end, axis in zip(x[1], x[2], x[3], strict=True):
        result = result.narrow(axis, start, min(end, result.shape[axis]) - start)
    return result


def _reshape(torch: Any, _node: NodeProto, x: list[Any], a: dict[str, Any]) -> Any:
    shape = [x[0].shape[i] if extent == 0 else extent for i, extent in enumerate(x[1])]
    return x[0].reshape(shape)


def _resize(torch: Any, _node: NodeProto, x: list[Any], a: dict[str, Any]) -> Any:
    factors = [float(value) for value in x[2][2:]]
    return torch.nn.functional.interpolate(x[0], scale_factor=factors, mode="nearest")


def _clip(torch: Any, _node: NodeProto, x: list[Any], a: dict[str, Any]) -> Any:
    return x[0].clamp(x[1].to(x[0].dtype), x[2].to(x[0].dtype))


def _reduce(name: str) -> Operator:
    def run(torch: Any, _node: NodeProto, x: list[Any], a: dict[str, Any]) -> Any:
        axes = x[1] if len(x) > 1 else a["axes"]
        return getattr(torch, name)(x[0], dim=axes, keepdim=bool(a.get("keepdims", 1)))

    return run


def _binary(name: str) -> Operator:
    return lambda torch, _node, x, _a: getattr(torch, name)(x[0], x[1])


def _unary(name: str) -> Operator:
    return lambda torch, _node, x, _a: getattr(torch, name)(x[0])


_OPERATORS: dict[str, Operator] = {
    "Add": _binary("add"),
    "AveragePool": _average_pool,
    "Cast": lambda _t, _n, x, _a: x[0].float(),
    "Clip": _clip,
    "Concat": lambda t, _n, x, a: t.cat(x, dim=a["axis"]),
    "Conv": _conv,
    "Div": _binary("div"),
    "Exp": _unary("exp"),
    "Floor": _unary("floor"),
    "Gemm": lambda t, _n, x, _a: t.nn.functional.linear(x[0], x[1], x[2]),
    "GlobalAveragePool": lambda _t, _n, x, _a: x[0].mean(dim=(2, 3), keepdim=True),
    "HardSigmoid": lambda _t, _n, x, a: (x[0] * a["alpha"] + a["beta"]).clamp(0, 1),
    "Identity": lambda _t, _n, x, _a: x[0],
    "LeakyRelu": lambda t, _n, x, a: t.nn.functional.leaky_relu(x[0], a["alpha"]),
    "MatMul": _binary("matmul"),
    "MaxPool": _max_pool,
    "Mul": _binary("mul"),
    "ReduceMax": _reduce("amax"),
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "Relu": _unary("relu"),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _unary("sigmoid"),
    "Slice": _slice,
    "Softmax": lambda t, _n, x, a: t.softmax(x[0], dim=a["axis"]),
    "Softplus": lambda t, _n, x, _a: t.nn.functional.softplus(x[0]),
    "Split": lambda t, _n, x, a: t.split(x[0], x[1], dim=a["axis"]),
    "Sub": _binary("sub"),
    "Tanh": _unary("tanh"),
    "Transpose": lambda _t, _n, x, a: x[0].permute(a["perm"]),
}
