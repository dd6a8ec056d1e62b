"""Values that a model keeps in other files beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boxwright.errors import ModelError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Location:
    """Where a tensor's bytes are: `length` of them, from `offset`, in the file `location`."""

    location: str
    offset: int
    length: int


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initializers of the main graph whose values are elsewhere."""
    from onnx import TensorProto

    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            yield tensor


def locations(proto: onnx.ModelProto) -> list[str]:
    """The files they are in, as the model names them."""
    return list(dict.fromkeys(_fields(tensor).get("location", "") for tensor in tensors(proto)))


def place_of(tensor: onnx.TensorProto) -> Location:
    """Where a tensor's values are, checked against its type and shape.

    Raises:
        ModelError: The numbers are none, or another count of bytes than the shape needs.
    """
    from onnx import helper

    fields = _fields(tensor)
    try:
        size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        needed = size * math.prod(tensor.dims)
        offset = int(fields.get("offset", "0"))
        length = int(fields.get("length", str(needed)))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{tensor.name!r} does not say where its values are") from error
    if offset < 0 or length != needed:
        raise ModelError(
            f"{tensor.name!r} needs {needed} bytes, and is said to have {length} from {offset}"
        )
    return Location(fields.get("location", ""), offset, length)


def _fields(tensor: onnx.TensorProto) -> dict[str, str]:
    return {item.key: item.value for item in tensor.external_data}
