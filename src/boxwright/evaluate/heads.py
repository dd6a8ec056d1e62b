"""Raw head tensors as graph outputs, so that any backend can return them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxwright.errors import ModelError
from boxwright.model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx


def head_tensors(model: Model) -> tuple[str, ...]:
    """Names of the raw head tensors (before decoding) in the order of the card's heads."""
    return tuple(dict.fromkeys(head.tensor for head in model.card.heads))


def with_head_outputs(model: Model, tensors: Sequence[str] | None = None) -> Model:
    """A copy of `model` whose graph also returns its raw head tensors.

    Args:
        model: Left as it is.
        tensors: Names of the tensors to return; default: those of the card's heads.

    Returns:
        A model with the outputs it had, then the tensors. Weights are copied: at the
        peak this takes the model's size once more.

    Raises:
        ModelError: The graph computes no tensor of such a name.
    """
    import onnx

    wanted = head_tensors(model) if tensors is None else tuple(dict.fromkeys(tensors))
    present = {value.name for value in model.proto.graph.output}
    produced = {name for node in model.proto.graph.node for name in node.output}
    unknown = [name for name in wanted if name not in produced]
    if unknown:
        raise ModelError(
            f"{model.card.name}: the card names the head tensors {unknown}, "
            "which no node of the graph computes"
        )
    missing = [name for name in wanted if name not in present]
    if not missing:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    known = _known_values(proto)
    for name in missing:
        if name in known:
            proto.graph.output.add().CopyFrom(known[name])
        else:
            # Its extents are whatever they turn out to be: heads have four, batch first.
            extents = [f"{name}/{axis}" for axis in range(4)]
            output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, extents)
            proto.graph.output.append(output)
    return Model(proto, model.card)


def _known_values(proto: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    return {
        value.name: value for value in proto.graph.value_info if value.type.tensor_type.elem_type
    }
