"""Damage to graphs that still parse: nodes, attributes, tensors and names that do not fit."""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx
from onnx import TensorProto

_NUMBERS = (0, 1, -1, 2, 3, 7, 128, -(2**31), 2**31, 2**62, -(2**63))
_OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})

Change = Callable[[onnx.ModelProto, random.Random], None]


def break_graph(proto: onnx.ModelProto, chance: random.Random) -> None:
    """Change one to four things in place."""
    for _ in range(chance.randint(1, 4)):
        chance.choice(_CHANGES)(proto, chance)


def _node(proto: onnx.ModelProto, chance: random.Random) -> onnx.NodeProto:
    node: onnx.NodeProto = chance.choice(proto.graph.node)
    return node


def _operator(proto: onnx.ModelProto, chance: random.Random) -> None:
    _node(proto, chance).op_type = chance.choice(_OPERATORS)


def _domain(proto: onnx.ModelProto, chance: random.Random) -> None:
    _node(proto, chance).domain = chance.choice(("", "ai.onnx", "com.microsoft", "x" * 99))


def _inputs(proto: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(proto, chance)
    if node.input and chance.random() < 0.5:
        del node.input[chance.randrange(len(node.input)) :]
    else:
        node.input.append(chance.choice(("", "x", "y", node.output[0] if node.output else "")))


def _outputs(proto: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(proto, chance)
    if node.output and chance.random() < 0.5:
        del node.output[chance.randrange(len(node.output)) :]
    else:
        node.output.append(chance.choice(("", "x", "y", "new")))


def _attribute(proto: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(proto, chance)
    if not node.attribute:
        return
    item = chance.choice(node.attribute)
    step = chance.randrange(5)
    if step == 0:
        node.attribute.remove(item)
    elif step == 1:
        item.type = chance.choice(onnx.AttributeProto.AttributeType.values())  # type: ignore[assignment]
    elif step == 2:
        item.i = chance.choice(_NUMBERS)
        item.ints[:] = [chance.choice(_NUMBERS) for _ in range(chance.randint(0, 5))]
    elif step == 3:
        item.s = bytes(chance.randrange(256) for _ in range(4))
    else:
        item.floats[:] = [float("nan")]
        item.f = float("inf")


def _tensor(proto: onnx.ModelProto, chance: random.Random) -> None:
    if not proto.graph.initializer:
        return
    tensor = chance.choice(proto.graph.initializer)
    step = chance.randrange(5)
    if step == 0:
        proto.graph.initializer.remove(tensor)
    elif step == 1:
        tensor.data_type = chance.choice([*TensorProto.DataType.values(), 99])
    elif step == 2:
        tensor.dims[:] = [chance.choice(_NUMBERS) for _ in range(chance.randint(0, 4))]
    elif step == 3:
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
    else:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=chance.choice(("", "x", "..", "/dev/zero")))


def _value(proto: onnx.ModelProto, chance: random.Random) -> None:
    values = (*proto.graph.input, *proto.graph.output)
    if not values:
        return
    value = chance.choice(values)
    step = chance.randrange(4)
    if step == 0:
        value.name = chance.choice(("", "x", "y", "\u4e2d"))
    elif step == 1:
        value.ClearField("type")
    elif step == 2:
        value.type.tensor_type.elem_type = chance.choice((0, 1, 2, 7, 8, 16, 99))
    else:
        for extent in value.type.tensor_type.shape.dim:
            extent.dim_value = chance.choice((0, 1, -1, 3, 64, 2**40))


def _versions(proto: onnx.ModelProto, chance: random.Random) -> None:
    if proto.opset_import and chance.random() < 0.8:
        proto.opset_import[0].version = chance.choice((0, 1, 6, 7, 9, 11, 13, 17, 21, 26, 2**40))
    else:
        proto.ir_version = chance.choice((0, 1, 3, 8, 13, 2**40))


def _nodes(proto: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(proto, chance)
    if chance.random() < 0.5:
        proto.graph.node.add().CopyFrom(node)
    elif len(proto.graph.node) > 1:
        proto.graph.node.remove(node)


_CHANGES: tuple[Change, ...] = (
    _operator, _domain, _inputs, _outputs, _attribute, _attribute, _tensor, _value, _versions,
    _nodes,
)  # fmt: skip
