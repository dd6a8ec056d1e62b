"""Ways to write Mish for ONNX Runtime's CPU kernels: time and error of each.

Run: ``python benchmarks/mish.py``. Why the onnxruntime backend rewrites Mish.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
from _environment import heading

from boxwright.backends.onnxruntime.session import open_session, session_options

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = (1, 64, 208, 208)


def plain(op: Callable[..., str]) -> str:
    """x · tanh(softplus(x)), as the portable graph has it."""
    return op("Mul", "x", op("Tanh", op("Softplus", "x")))


def exponential(op: Callable[..., str]) -> str:
    """x · n / (n + 2) with e = exp(min(x, 20)), n = e · (e + 2); what the backend uses."""
    e = op("Exp", op("Min", "x", 20.0))
    n = op("Mul", e, op("Add", e, 2.0))
    return op("Mul", "x", op("Div", n, op("Add", n, 2.0)))


def sigmoid(op: Callable[..., str]) -> str:
    """x · s · (2 - s) / (1 + (1 - s)²) with s = sigmoid(x)."""
    s = op("Sigmoid", "x")
    u = op("Sub", 1.0, s)
    top = op("Mul", op("Mul", "x", s), op("Sub", 2.0, s))
    return op("Div", top, op("Add", op("Mul", u, u), 1.0))


def sigmoid_of_minus(op: Callable[..., str]) -> str:
    """2x / (1 + u²) - x with u = sigmoid(-x)."""
    u = op("Sigmoid", op("Neg", "x"))
    return op("Sub", op("Div", op("Add", "x", "x"), op("Add", op("Mul", u, u), 1.0)), "x")


def logarithm(op: Callable[..., str]) -> str:
    """x · tanh(-log(sigmoid(-x)))."""
    return op("Mul", "x", op("Tanh", op("Neg", op("Log", op("Sigmoid", op("Neg", "x"))))))


def session_of(formula: Callable[[Callable[..., str]], str]) -> Any:
    """A session that computes `formula` of x."""
    nodes: list[Any] = []
    weights: list[Any] = []

    def op(kind: str, *inputs: str | float) -> str:
        names = []
        for value in inputs:
            if isinstance(value, float):
                weights.append(
                    numpy_helper.from_array(np.array(value, np.float32), f"c{len(weights)}")
                )
                names.append(weights[-1].name)
            else:
                names.append(value)
        nodes.append(helper.make_node(kind, names, [f"t{len(nodes)}"]))
        return str(nodes[-1].output[0])

    result = formula(op)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])
    y = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
    x.type.tensor_type.ClearField("shape")
    graph = helper.make_graph(nodes, "mish", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    options = session_options({"intra_op_num_threads": 2}, optimise=True)
    return open_session(model.SerializeToString(), options, "cpu")


def main() -> None:
    """Print one line per formula."""
    print(heading())
    print(f"# float32 {list(SHAPE)}, 2 threads, best of 15; errors on 400,001 values in ±100")
    print(f"{'formula':<18} {'ms':>7} {'error/max(1,|x|)':>17} {'relative error':>15}")
    values = np.random.default_rng(0).normal(0, 3, SHAPE).astype(np.float32)
    line = np.linspace(-100, 100, 400_001, dtype=np.float32)
    exact = line.astype(np.float64)
    exact = exact * np.tanh(np.logaddexp(0, exact))
    for formula in (plain, exponential, sigmoid, sigmoid_of_minus, logarithm):
        session, times = session_of(formula), []
        for _ in range(18):
            start = time.perf_counter()
            session.run(None, {"x": values})
            times.append(time.perf_counter() - start)
        error = np.abs(session.run(None, {"x": line})[0] - exact)
        scaled = (error / np.maximum(1, np.abs(line))).max()
        seen = np.abs(exact) > 1e-12
        relative = (error[seen] / np.abs(exact[seen])).max()
        print(f"{formula.__name__:<18} {min(times) * 1e3:7.2f} {scaled:17.1e} {relative:15.1e}")


if __name__ == "__main__":
    main()
