"""Building by TensorRT-RTX with its log kept, and what that log must say."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

from boxwright import backends
from boxwright.backends.tensorrt import compile as compile_module
from boxwright.backends.tensorrt.layers import EngineLayer, best_described, read_layers
from boxwright.engine import Engine
from boxwright.model import Model

CAPABILITIES = "8.6,8.9,12.0"

_ACTIVATIONS = {"LeakyRelu", "Relu", "Sigmoid", "Softplus", "Clip"}
"""Operators that are an activation, or the first of the nodes that make one up."""

_IO = re.compile(r"^ Name: (\w+), IOMode: (\w+), DataType: (\w+), Dimensions: \[([-\d,]+)\]")


@dataclass(frozen=True)
class BuiltNetwork:
    """What one build left.

    Attributes:
        model: What was built.
        engine: The engine file.
        log: TensorRT's description of it.
        fused: How many of its convolutions' activations the kernels should include at least.
    """

    model: Model
    engine: Engine
    log: str
    fused: float = 0.0

    @property
    def layers(self) -> list[EngineLayer]:
        return read_layers(self.log)

    @property
    def nodes_of_layers(self) -> list[tuple[str, list[str]]]:
        """Kind of each built layer, and names of the graph's nodes it computes."""
        found = []
        for line in self.log.splitlines():
            match = re.match(r"Name: .*?, LayerType: ([^,]*), .*Metadata: (.*)$", line)
            if match is not None:
                found.append((match[1], re.findall(r"\[ONNX Layer: ([^\]]+)\]", match[2])))
        return found

    def nodes(self, *kinds: str) -> list[onnx.NodeProto]:
        return [node for node in self.model.proto.graph.node if node.op_type in kinds]


def build_with_log(
    model: Model, output: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[Engine, str]:
    """Build in this process, where the log can be seen."""
    texts: list[str] = []

    def spy(inspected: str | None, logged: str | None) -> list[EngineLayer]:
        texts.append(logged or "")
        return best_described(inspected, logged)

    monkeypatch.setattr(compile_module, "best_described", spy)
    options = {"compute_capabilities": CAPABILITIES, "isolate": False, **options}
    engine = backends.build(model, backend="tensorrt-rtx", output=output, options=options)
    (text,) = texts
    return engine, text


def check_contract(log: str, model: Model) -> None:
    """Names, types and shapes of inputs and outputs are the contract's."""
    height, width = model.card.input_size
    found = {
        match[1]: (match[2], match[3], [int(extent) for extent in match[4].split(",")])
        for line in log.splitlines()
        if (match := _IO.match(line)) is not None
    }
    anchors = found["boxes"][2][1]
    assert anchors > 0
    assert found == {
        "images": ("Input", "UInt8", [-1, height, width, 3]),
        "boxes": ("Output", "Float", [-1, anchors, 4]),
        "scores": ("Output", "Float", [-1, anchors, len(model.card.class_names)]),
    }


def check_bindings(network: BuiltNetwork) -> None:
    """Whatever the model's task: its inputs and outputs, by name and type, with a free batch."""
    found = {
        match[1]: (match[2], match[3], match[4].split(",")[0])
        for line in network.log.splitlines()
        if (match := _IO.match(line)) is not None
    }
    assert found.pop("images") == ("Input", "UInt8", "-1")
    assert set(found) == {value.name for value in network.model.proto.graph.output}
    assert set(found.values()) == {("Output", "Float", "-1")}


def check_nodes(network: BuiltNetwork, *, once: bool = True) -> None:
    """Every convolution of the graph is computed by exactly one layer of the engine.

    Unless `once`, others may have a part in it, as where what follows is not fused into it.
    """
    computed = Counter(name for _, names in network.nodes_of_layers for name in names)
    convolutions = Counter(node.name for node in network.nodes("Conv"))
    found = {name: count for name, count in computed.items() if name in convolutions}
    assert found.keys() == convolutions.keys()
    assert found == convolutions or not once


def check_counts(network: BuiltNetwork) -> None:
    """Likewise by the built layers' own names: ``CorrMulMax``, or of kind ``correlation``."""
    count = sum(
        layer.name.count("Corr") or int(layer.kind == "correlation") for layer in network.layers
    )
    assert count == len(network.nodes("Conv"))


def check_types(network: BuiltNetwork) -> None:
    """Whatever computes with floats does so in float32."""
    found = {layer.precision for layer in network.layers}
    assert found == {"float32", "other"}, found
    for layer in network.layers:
        if layer.kind in ("correlation", "runtime_fusion", "maxpool"):
            assert layer.precision == "float32", layer


def fused_share(network: BuiltNetwork) -> float:
    """Of the convolutions with an activation behind them, how many include it."""
    activations = {
        node.input[0]: node.name
        for node in network.nodes(*_ACTIVATIONS)
        if not node.name.startswith("decode/")
    }
    followed = {
        node.name: activations[node.output[0]]
        for node in network.nodes("Conv")
        if node.output[0] in activations
    }
    together = [set(names) for _, names in network.nodes_of_layers]
    fused = [
        conv
        for conv, activation in followed.items()
        if any({conv, activation} <= names for names in together)
    ]
    return len(fused) / len(followed)
