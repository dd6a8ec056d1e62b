"""Reading the portable graph into TensorRT's network, and explaining where it cannot."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import onnx

from boxwright.backends.tensorrt.log import Journal, plain
from boxwright.errors import BuildError

if TYPE_CHECKING:
    from boxwright.backends.tensorrt.library import Library

_MAX_SHOWN = 5

# What to do about the refusals people meet, by operator.
_ADVICE = {
    "Mish": "write it as x * Tanh(Softplus(x))",
    "Upsample": "it is deprecated since opset 10; convert it to Resize",
    "NonMaxSuppression": "leave it out of the graph: Boxwright suppresses after the network",
    "NonZero": "its output's shape depends on the data; end the graph before it",
    "TopK": "take fewer than 3840 elements, or end the graph before it",
    "QLinearConv": "use the QDQ form: Convolutions between QuantizeLinear and DequantizeLinear",
}


def parse_network(
    library: Library, network: Any, logger: Any, model: bytes, journal: Journal
) -> None:
    """Fill `network` from a serialised ONNX model.

    Args:
        library: TensorRT.
        network: An empty ``INetworkDefinition``.
        logger: The builder's.
        model: The model.
        journal: Where the logger writes.

    Raises:
        BuildError: TensorRT refuses it; the message has every node and operator it names,
            and what can be done.
    """
    parser = library.trt.OnnxParser(network, logger)
    if parser.parse(model):
        return
    proto = onnx.ModelProto.FromString(model)
    errors = [_describe(proto, parser.get_error(index)) for index in range(parser.num_errors)]
    shown = errors[:_MAX_SHOWN] or journal.errors[-_MAX_SHOWN:] or ["it does not say why"]
    more = f" (and {len(errors) - len(shown)} more)" if len(errors) > len(shown) else ""
    raise BuildError(
        f"{library.backend} {library.version} refuses the model: {'; '.join(shown)}{more}. "
        f"{_cures(library)}"
    )


def explain_refusal(library: Library, model: bytes, journal: Journal) -> str:
    """Why TensorRT read a model and then does not build it, with advice.

    It names its own layers then, whose names begin with those of the graph's nodes.
    """
    why = "; ".join(journal.errors[-3:]) or "it does not say why"
    nodes = [node for node in onnx.ModelProto.FromString(model).graph.node if node.name in why]
    # Where `a/pool_1` is named, `a`, `pool_1` and `a/pool_10` are not.
    ends = r"(?=_\d+\b|[^\w/]|$)"
    named = [n for n in nodes if re.search(rf"(?<![\w/]){re.escape(n.name)}{ends}", why)]
    names = [node.name for node in named]
    hints = [
        f"node {node.name} is a {node.op_type}" + (f": {advice}" if advice else "")
        for node in named
        if node.name and not any(other.startswith(node.name + "_") for other in names)
        for advice in (_ADVICE.get(node.op_type),)
    ]
    hint = f" ({'; '.join(hints[:_MAX_SHOWN])})" if hints else ""
    return f"{library.backend} cannot build the model: {why}{hint}. {_cures(library)}"


def _cures(library: Library) -> str:
    short = _short(library.version)
    return f"`boxwright inspect MODEL --for {library.backend}@{short}` names the cures"


def _describe(proto: onnx.ModelProto, error: Any) -> str:
    """One error of the parser: the node, its operator, what is wrong, what can be done."""
    index = int(error.node())
    node = proto.graph.node[index] if 0 <= index < len(proto.graph.node) else None
    operator = node.op_type if node is not None else ""
    where = f"node {node.name or index} ({operator}): " if node is not None else ""
    advice = _ADVICE.get(operator)
    return f"{where}{plain(error.desc())}" + (f" - {advice}" if advice else "")


def _short(version: str) -> str:
    """Major and minor number."""
    return ".".join(version.split(".")[:2])


def has_quantisation(model: bytes) -> bool:
    """Whether the graph quantises anything."""
    graph = onnx.ModelProto.FromString(model).graph
    return any(node.op_type == "QuantizeLinear" for node in graph.node)
