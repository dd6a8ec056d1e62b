"""Text that travels in an ONNX model's own metadata, by key."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def read_metadata(proto: onnx.ModelProto, key: str) -> str | None:
    """The text under `key`; ``None`` where there is none."""
    return next((prop.value for prop in proto.metadata_props if prop.key == key), None)


def write_metadata(proto: onnx.ModelProto, key: str, text: str) -> None:
    """Keep `text` under `key`, in place of what was there."""
    for prop in proto.metadata_props:
        if prop.key == key:
            prop.value = text
            return
    proto.metadata_props.add(key=key, value=text)
