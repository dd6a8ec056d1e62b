"""Values that a model keeps in other files beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initializers of the main graph whose values are elsewhere."""
    from onnx import TensorProto

    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            yield tensor


def locations(proto: onnx.ModelProto) -> list[str]:
    """The files they are in, as the model names them."""
    found = (_fields(tensor).get("location", "") for tensor in tensors(proto))
    return list(dict.fromkeys(found))


def _fields(tensor: onnx.TensorProto) -> dict[str, str]:
    return {item.key: item.value for item in tensor.external_data}
