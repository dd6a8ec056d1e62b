"""Whether a model names other files for its values: what it was given by a stranger must not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.message import Message


def keeps_values_elsewhere(message: Message) -> bool:
    """Whether any tensor of a message, at any depth, names a file for its values."""
    from onnx import TensorProto

    if isinstance(message, TensorProto):
        return message.data_location == TensorProto.EXTERNAL or len(message.external_data) > 0
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            parts = value if isinstance(value, Sequence) else (value,)
            if any(map(keeps_values_elsewhere, parts)):
                return True
    return False


def serialised_keeps_values_elsewhere(data: bytes) -> bool:
    """The same of a serialised model, which is parsed only if it may be so.

    ONNX Runtime before 1.24 opens such files wherever they are, whatever it is told.
    """
    import onnx

    # The key of a file's name, without which no runtime finds one.
    return b"location" in data and keeps_values_elsewhere(onnx.ModelProto.FromString(data))
