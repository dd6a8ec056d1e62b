"""Reading of TensorFlow Lite files, without TensorFlow.

Numbers of fields, operators and types are those of TensorFlow's ``schema.fbs`` (version 3,
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs);
those of the metadata are those of ``metadata_schema.fbs`` of TFLite Support.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.errors import ImportFailedError
from boxwright.files import open_regular, printable
from boxwright.importers.tensorflow.flatbuffer import Buffer, Table, read_map
from boxwright.importers.tensorflow.metadata import read_metadata
from boxwright.importers.tensorflow.network import (
    MAX_FILE_BYTES,
    MAX_NODES,
    MAX_RANK,
    Network,
    Node,
    Quantization,
    Value,
    refusal,
    short,
    size_of,
)
from boxwright.importers.tensorflow.tflite_options import KINDS, options_of

IDENTIFIER = b"TFL3"
POST_PROCESS = "TFLite_Detection_PostProcess"

_TYPES = {
    0: "<f4",
    1: "<f2",
    2: "<i4",
    3: "u1",
    4: "<i8",
    6: "?",
    7: "<i2",
    9: "i1",
    10: "<f8",
}
_CUSTOM = 32
_LAST_OLD_CODE = 127
_MAX_NAME = 1 << 12


def read_tflite(path: Path) -> Network:
    """Read a TensorFlow Lite file.

    Raises:
        ImportFailedError: It is damaged, or holds what cannot be converted.
    """
    data = read_whole(path)
    if data[4:8] != IDENTIFIER:
        raise refusal(path, f"no TensorFlow Lite file: {IDENTIFIER!r} is missing at byte 4")
    return _Reader(data, path).read()


def read_whole(path: Path) -> bytes:
    """A file's bytes, unless it is larger than any of its kind can be.

    Raises:
        ImportFailedError: It cannot be read, or is too large.
    """
    try:
        with open_regular(path) as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ImportFailedError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise refusal(path, "such files hold at most 2 GiB, and it is larger")
    return data


class _Reader:
    def __init__(self, data: bytes, path: Path) -> None:
        self.path = path
        self.data = data
        self.model = Buffer(data, path).root()
        self.buffers = self.model.tables(4)

    def read(self) -> Network:
        graphs = self.model.tables(2)
        if not graphs:
            raise refusal(self.path, "it holds no graph")
        if len(graphs) > 1:
            raise refusal(
                self.path, f"it has {len(graphs)} graphs (conditions or loops); one is converted"
            )
        graph = graphs[0]
        values = self._values(graph.tables(0))
        names = [value.name for value in values]
        nodes = self._nodes(graph.tables(3), names)
        network = Network(
            path=str(self.path),
            nodes=nodes,
            values={value.name: value for value in values},
            inputs=[self._name(names, i, "inputs") for i in graph.numbers(1, "<i4")],
            outputs=[self._name(names, i, "outputs") for i in graph.numbers(2, "<i4")],
        )
        if len(network.inputs) != 1:
            raise refusal(self.path, f"expected one input, got {len(network.inputs)}")
        self._add_metadata(network)
        return network

    def _values(self, tensors: list[Table]) -> list[Value]:
        if len(tensors) > 4 * MAX_NODES:
            raise refusal(self.path, f"{len(tensors)} tensors are more than any network has")
        taken: set[str] = set()
        values = []
        for index, tensor in enumerate(tensors):
            value = self._value(tensor, index)
            if value.name in taken:
                value = replace(value, name=f"{value.name}#{index}")
            taken.add(value.name)
            values.append(value)
        return values

    def _value(self, tensor: Table, index: int) -> Value:
        name = printable(tensor.text(3))[:_MAX_NAME] or f"tensor {index}"
        code = tensor.integer(1, 0, "<b")
        if code not in _TYPES:
            # Only a tensor that is used needs a type that is known.
            return Value(name, np.dtype("V1"), None)
        dtype = np.dtype(_TYPES[code])
        shape = tuple(int(extent) for extent in tensor.numbers(0, "<i4"))
        if len(shape) > MAX_RANK or any(extent < -1 for extent in shape):
            raise refusal(self.path, f"tensor {short(name)!r} has the shape {shape[:9]}")
        if tensor.table(6) is not None:
            raise refusal(self.path, f"tensor {short(name)!r} is kept sparsely: not supported")
        data = self._data(name, dtype, shape, tensor.integer(2, 0, "<I"))
        return Value(name, dtype, shape, data, self._quantization(name, tensor, shape))

    def _data(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], at: int) -> Any:
        if at >= len(self.buffers):
            raise refusal(
                self.path,
                f"tensor {short(name)!r} is in buffer {at}, and there are {len(self.buffers)}",
            )
        buffer = self.buffers[at]
        stored = buffer.numbers(0, "u1")
        offset, size = buffer.integer(1, 0, "<Q"), buffer.integer(2, 0, "<Q")
        if offset > 1:
            # Files of more than 2 GiB keep buffers behind the flatbuffer; 0 and 1 say nothing.
            if offset + size > len(self.data):
                raise refusal(self.path, f"tensor {short(name)!r} ends behind the file's end")
            stored = np.frombuffer(self.data, "u1", size, offset)
        if not len(stored):
            return None
        expected = size_of(shape) * dtype.itemsize
        if expected != len(stored):
            raise refusal(
                self.path,
                f"tensor {short(name)!r} of shape {list(shape)} needs {expected} bytes, "
                f"got {len(stored)}",
            )
        return stored.view(dtype).reshape(shape)

    def _quantization(
        self, name: str, tensor: Table, shape: tuple[int, ...]
    ) -> Quantization | None:
        table = tensor.table(4)
        if table is None:
            return None
        scales, zeros = table.numbers(2, "<f4"), table.numbers(3, "<i8")
        if not len(scales):
            return None
        axis = table.integer(6)
        if not len(zeros):
            zeros = np.zeros(len(scales), np.int64)
        several = len(scales) > 1
        fits = len(zeros) == len(scales) or len(zeros) == 1
        if several:
            fits = fits and 0 <= axis < len(shape) and shape[axis] == len(scales)
        sound = np.isfinite(scales).all() and (scales > 0).all() and (abs(zeros) < 1 << 16).all()
        if not (fits and sound):
            raise refusal(
                self.path,
                f"tensor {short(name)!r}: {len(scales)} scales and {len(zeros)} zero points along "
                f"axis {axis} do not fit its shape {list(shape)}, or are no positive numbers",
            )
        return Quantization(scales, np.broadcast_to(zeros, scales.shape), axis)

    def _nodes(self, operators: list[Table], names: list[str]) -> list[Node]:
        if len(operators) > MAX_NODES:
            raise refusal(self.path, f"{len(operators)} operations are more than any network has")
        kinds = [self._kind(code) for code in self.model.tables(1)]
        nodes = []
        for index, operator in enumerate(operators):
            code = operator.integer(0, 0, "<I")
            if code >= len(kinds):
                raise refusal(self.path, f"operation {index} is of kind {code} of {len(kinds)}")
            kind = kinds[code]
            inputs = tuple(
                self._name(names, i, "operation") if i != -1 else ""
                for i in operator.numbers(1, "<i4")
            )
            outputs = tuple(self._name(names, i, "operation") for i in operator.numbers(2, "<i4"))
            # Names of TensorFlow Lite join those of all that was fused, the result's first.
            name = outputs[0].split(";")[0] if outputs else f"operation {index}"
            nodes.append(Node(kind, name, inputs, outputs, self._attributes(kind, operator)))
        return nodes

    def _kind(self, code: Table) -> str:
        builtin = max(code.integer(0, 0, "<b"), code.integer(3))
        if builtin == _CUSTOM:
            return printable(code.text(1))[:_MAX_NAME]
        return KINDS.get(builtin, f"builtin operator {builtin}")

    def _attributes(self, kind: str, operator: Table) -> dict[str, Any]:
        if kind == POST_PROCESS:
            return dict(read_map(operator.raw(5), self.path))
        return options_of(kind, operator.table(4))

    def _name(self, names: list[str], index: int, what: str) -> str:
        if not 0 <= index < len(names):
            raise refusal(
                self.path, f"damaged: {what} refer to tensor {index}, and there are {len(names)}"
            )
        return names[index]

    def _add_metadata(self, network: Network) -> None:
        for entry in self.model.tables(6):
            at = entry.integer(1, 0, "<I")
            if entry.text(0) == "TFLITE_METADATA" and at < len(self.buffers):
                content = self.buffers[at].numbers(0, "u1").tobytes()
                metadata = read_metadata(content, self.data, self.path)
                network.labels = metadata.labels
                network.licence = metadata.licence
                network.description = metadata.name
                network.pixels = metadata.pixels
