"""A model's graph run eagerly in PyTorch: the peer that speeds are usually compared with.

Every node becomes the PyTorch call that does the same, with the weights as they are in the
graph. On a GPU the network runs in float16 with channels last, as the field's benchmarks
do, and the decoding in float32, as everywhere; on a CPU all of it in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.closing import Closing
from boxwright.errors import BackendUnavailableError, InputError
from boxwright.extras import require
from boxwright.graph.torch_operators import (
    OPERATORS,
    attributes_of,
    constant_argument,
    refusal,
)
from boxwright.model import BOXES, IMAGES, LANDMARKS, SCORES

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from boxwright.backends.base import Tensors
    from boxwright.model import Model


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
        refused = {reason for node in self._nodes if (reason := refusal(node)) is not None}
        if refused:
            raise InputError(f"PyTorch peer: {'; '.join(sorted(refused))}")
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
            argument = constant_argument(values)
            if argument is not None:
                loaded[item.name] = argument
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
                outputs = OPERATORS[node.op_type](torch, inputs, attributes_of(node))
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
