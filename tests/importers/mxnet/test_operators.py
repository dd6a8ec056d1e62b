"""Every operator beside MXNet 1.9.1 on random weights and pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from boxwright.importers.mxnet import importer
from boxwright.importers.mxnet.params import read_params
from boxwright.importers.mxnet.symbol import read_symbol
from boxwright.importers.mxnet.values import BATCH, Value
from boxwright.importers.mxnet.writer import OPERATORS, Writer
from tests.importers.mxnet.symbols import CASES

# float32 on both sides, a few hundred products a sum, and exponentials of them.
TOLERANCE = 1e-5


def written(folder: Path, name: str, shape: tuple[int, ...]) -> tuple[onnx.ModelProto, Value]:
    symbol = read_symbol(folder / f"{name}-symbol.json")
    writer = Writer(symbol, read_params(folder / f"{name}-0000.params"))
    extents: list[int | str] = ["N", *shape[1:]]
    writer.graph.input("data", onnx.TensorProto.FLOAT, extents)
    (value,) = writer.write({"data": Value("data", (BATCH, *shape[1:]))}, symbol.heads)
    writer.graph.add("Identity", [writer.read(value)], "result")
    # Shapes are inferred by ONNX itself, and held against ours.
    writer.graph.graph.output.append(
        onnx.helper.make_tensor_value_info("result", onnx.TensorProto.FLOAT, None)
    )
    proto = onnx.shape_inference.infer_shapes(writer.graph.model, strict_mode=True)
    onnx.checker.check_model(proto, full_check=True)
    return proto, value


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, symbols: Path) -> None:
    shape = CASES[name][1]
    proto, value = written(symbols, name, shape)
    with np.load(symbols / f"{name}.npz") as arrays:
        data, expected = arrays["arr_0"], arrays["arr_1"]
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {"data": data})
    resolved = tuple(-extent * len(data) if extent < 0 else extent for extent in value.shape)
    assert got.shape == expected.shape == resolved
    scale = max(1.0, float(np.abs(expected).max()))
    assert np.abs(got - expected).max() <= TOLERANCE * scale
    assert np.abs(expected).max() > 0


def test_every_operator_is_tried(symbols: Path) -> None:
    """Operators that no case has are aliases of tried ones, or named here with the reason."""
    assert importer.OPERATOR_MODULES
    tried = {
        node.operator
        for name in CASES
        for node in read_symbol(symbols / f"{name}-symbol.json").nodes
    }
    functions = {OPERATORS[name] for name in tried if name in OPERATORS}
    untried = {name for name, function in OPERATORS.items() if function not in functions}
    assert untried == set()
