"""Ways to compute an activation of eight bits in ONNX Runtime: time and error of each.

Run: ``python benchmarks/int8_activations.py``. Why the onnxruntime backend writes LeakyRelu,
Swish and concatenations of a quantised graph as it does.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
from _environment import heading

from boxwright.backends.onnxruntime.session import open_session, session_options

SHAPE = (1, 64, 104, 104)
ROUNDS = 25
SLOPE = 0.1
OWN = "com.microsoft"
# What the integers stand for: in front of the activation, and behind it.
BEFORE, ZERO = 0.1, 60
AFTER, ZERO_AFTER = 0.08, 20
CONSTANTS: dict[str, Any] = {
    "s": np.float32(BEFORE),
    "z": np.uint8(ZERO),
    "t": np.float32(AFTER),
    "w": np.uint8(ZERO_AFTER),
    "slope": np.float32(SLOPE * BEFORE),
    "rest": np.float32((1 - SLOPE) * BEFORE),
    "gate": np.float32(1 / 256),
    "none": np.uint8(0),
}

Node = tuple[str, list[str], str, dict[str, Any]]


def own(operator: str, inputs: str, output: str, **attributes: Any) -> Node:
    return operator, inputs.split(), output, {"domain": OWN, **attributes}


def plain(operator: str, inputs: str, output: str) -> Node:
    return operator, inputs.split(), output, {}


WAYS: dict[str, list[Node]] = {
    "LeakyRelu: a table (QLinearLeakyRelu)": [
        own("QLinearLeakyRelu", "x s z t w", "y", alpha=SLOPE)
    ],
    "LeakyRelu: a sum (Clip, QLinearAdd)": [
        plain("Clip", "x z", "positive"),
        own("QLinearAdd", "x slope z positive rest z t w", "y"),
    ],
    "Swish: a table and a product (QLinearSigmoid, QLinearMul)": [
        own("QLinearSigmoid", "x s z gate none", "factor"),
        own("QLinearMul", "x s z factor gate none t w", "y"),
    ],
    "Swish: in float (QuickGelu between pairs)": [
        plain("DequantizeLinear", "x s z", "float"),
        own("QuickGelu", "float", "activated", alpha=1.0),
        plain("QuantizeLinear", "activated t w", "y"),
    ],
    "Concat: of another scale": [own("QLinearConcat", "t w x s z", "y", axis=1)],
    "Concat: of one scale": [own("QLinearConcat", "s z x s z", "y", axis=1)],
}


def exact(name: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What a way should give, in float64."""
    value = (x.astype(np.float64) - ZERO) * BEFORE
    if name.startswith("LeakyRelu"):
        value = np.where(value < 0, SLOPE * value, value)
    elif name.startswith("Swish"):
        value = value / (1 + np.exp(-value))
    return value


def session_of(nodes: list[Node]) -> Any:
    made = [
        helper.make_node(operator, inputs, [output], **attributes)
        for operator, inputs, output, attributes in nodes
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, list(SHAPE)) for name in ("x", "y")
    ]
    constants = [numpy_helper.from_array(np.array(v), name) for name, v in CONSTANTS.items()]
    graph = helper.make_graph(made, "way", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(OWN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    settings = session_options({"intra_op_num_threads": 1}, optimise=False)
    return open_session(model.SerializeToString(), settings, "cpu")


def measure(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Nanoseconds a call: the median of rounds in turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            started = time.perf_counter_ns()
            for _ in range(4):
                call()
            found[name].append((time.perf_counter_ns() - started) / 4)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    print(heading())
    x = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    sessions = {name: session_of(nodes) for name, nodes in WAYS.items()}
    feed = {"x": x}
    times = measure({name: partial(s.run, ["y"], feed) for name, s in sessions.items()})
    print("| way | ns a value | root mean square error, in steps of the result |")
    print("|---|---|---|")
    for name, session in sessions.items():
        got = session.run(["y"], {"x": x})[0].astype(np.float64)
        same = name.endswith("of one scale")
        step, zero = (BEFORE, ZERO) if same else (AFTER, ZERO_AFTER)
        wanted = np.clip(exact(name, x) / step + zero, 0, 255)
        error = float(np.sqrt(np.square(got - wanted).mean()))
        print(f"| {name} | {times[name] / x.size:.3f} | {error:.3f} |")


if __name__ == "__main__":
    main()
