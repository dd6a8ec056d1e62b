"""A model: an ONNX graph that keeps Boxwright's contract, and its card.

The contract (one for every detector, whatever it was trained with):

==========  ======================  ==================================================
tensor      type and shape          meaning
==========  ======================  ==================================================
``images``  uint8 ``[N, H, W, 3]``  resized RGB pixels
``boxes``   float32 ``[N, A, 4]``   `xyxy` in input pixels, one row per candidate
``scores``  float32 ``[N, A, C]``   final score of each class
==========  ======================  ==================================================

A detector whose card names landmarks has one output more: ``landmarks``, float32
``[N, A, L, 2]``, x and y of each of L points in input pixels.

A model of the task ``classify`` has, instead of `boxes` and `scores`, one output for each
of its card's attributes, under the attribute's name.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boxwright.card import CARD_KEY, ModelCard
from boxwright.errors import CardError, InputError, ModelError
from boxwright.external_data import keeps_values_elsewhere
from boxwright.files import atomic_write, human_size, open_regular
from boxwright.metadata import read_metadata, write_metadata

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

IMAGES = "images"
BOXES = "boxes"
SCORES = "scores"
LANDMARKS = "landmarks"

# Field numbers of onnx.proto: ModelProto.graph and GraphProto.initializer.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5

# Protobuf itself stops here; a larger file cannot be an ONNX model in one piece.
MAX_MODEL_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class Model:
    """A detector's graph and card.

    Attributes:
        proto: The ONNX model. Its metadata need not hold the card; :meth:`save` writes it.
        card: What the graph alone does not say.
    """

    proto: onnx.ModelProto
    card: ModelCard

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read a model Boxwright wrote, and check that it keeps the contract.

        Raises:
            ModelError: The file is missing, not ONNX, or does not keep the contract.
            CardError: Its card is missing or malformed.
        """
        data = read_onnx_bytes(path)
        return cls.from_bytes(data, origin=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, origin: str = "model") -> Model:
        """As :meth:`load`, from memory; `origin` names the bytes in messages."""
        proto = parse_onnx(data, origin)
        card_text = read_metadata(proto, CARD_KEY)
        if card_text is None:
            raise CardError(
                f"{origin} has no model card, so it was not written by Boxwright; "
                "make it a model first: boxwright import"
            )
        model = cls(proto, ModelCard.from_json(card_text))
        model.check(origin)
        return model

    def to_bytes(self) -> bytes:
        """The ONNX file's content, card included. The same model always gives the same bytes."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """The ONNX file's content, tensor by tensor.

        Serialising the whole message at once would need twice its size on top of it. The
        bytes are those of ONE message: protobuf leaves the order of fields free, so the
        initializers may follow the rest of the graph.

        Raises:
            InputError: The model exceeds the 2 GiB that one ONNX file can hold.
        """
        self._write_card()
        model, graph = _without_initializers(self.proto)
        # ByteSize of a message serialises it, so it is asked tensor by tensor.
        lengths = [tensor.ByteSize() for tensor in self.proto.graph.initializer]
        total = len(graph) + sum(
            len(_field(_GRAPH_INITIALIZER, length)) + length for length in lengths
        )
        if len(model) + total > MAX_MODEL_BYTES:
            raise InputError(
                f"the model is {human_size(total)}, and an ONNX file holds at most 2 GiB"
            )
        yield model
        yield _field(_MODEL_GRAPH, total)
        yield graph
        for tensor, length in zip(self.proto.graph.initializer, lengths, strict=True):
            yield _field(_GRAPH_INITIALIZER, length)
            yield tensor.SerializeToString(deterministic=True)

    def save(self, path: str | Path) -> None:
        """Write the model with its card; nothing is left half-written.

        Raises:
            InputError: The file cannot be written, or the model exceeds ONNX's 2 GiB.
        """
        with atomic_write(path) as stream:
            stream.writelines(self.pieces())

    @property
    def quantized(self) -> bool:
        """Whether the graph rounds to integers between its layers (it has Q/DQ pairs)."""
        return any(node.op_type == "QuantizeLinear" for node in self.proto.graph.node)

    def with_card(self, card: ModelCard) -> Model:
        """The same graph under another card."""
        return dataclasses.replace(self, card=card)

    def _write_card(self) -> None:
        write_metadata(self.proto, CARD_KEY, self.card.to_json())

    def check(self, origin: str = "model") -> None:
        """Check names, types and shapes against the contract.

        Raises:
            ModelError: They differ; the message says where.
        """
        from onnx import TensorProto

        if keeps_values_elsewhere(self.proto):
            raise ModelError(f"{origin} keeps values in another file; export it again in one piece")
        graph = self.proto.graph
        initializers = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in initializers]
        if [value.name for value in inputs] != [IMAGES]:
            raise ModelError(
                f"{origin}: expected one input named {IMAGES!r}, "
                f"got {[value.name for value in inputs]}"
            )
        height, width = self.card.input_size
        _check_value(origin, inputs[0], TensorProto.UINT8, (None, height, width, 3))
        outputs = {value.name: value for value in graph.output}
        for attribute in self.card.attributes:
            if attribute.name not in outputs:
                raise ModelError(
                    f"{origin}: expected an output {attribute.name!r}, as its card says, "
                    f"got {sorted(outputs)}"
                )
            count = (len(attribute.names),) if attribute.kind == "class" else ()
            _check_value(origin, outputs[attribute.name], TensorProto.FLOAT, (None, *count))
        if self.card.task != "detect":
            return
        missing = {BOXES, SCORES} - set(outputs)
        if missing:
            raise ModelError(
                f"{origin}: expected outputs {BOXES!r} and {SCORES!r}, got {sorted(outputs)}"
            )
        classes = len(self.card.class_names)
        _check_value(origin, outputs[BOXES], TensorProto.FLOAT, (None, None, 4))
        _check_value(origin, outputs[SCORES], TensorProto.FLOAT, (None, None, classes))
        if points := len(self.card.landmarks):
            if LANDMARKS not in outputs:
                raise ModelError(
                    f"{origin}: expected an output {LANDMARKS!r} of {points} points, as its "
                    f"card says, got {sorted(outputs)}"
                )
            _check_value(origin, outputs[LANDMARKS], TensorProto.FLOAT, (None, None, points, 2))


def read_onnx_bytes(path: str | Path) -> bytes:
    """The content of an ONNX file of any origin; its size is looked at before it is read.

    Raises:
        ModelError: It is missing, no regular file, or larger than ONNX allows.
    """
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MAX_MODEL_BYTES:
                raise ModelError(
                    f"{path}: an ONNX file holds at most 2 GiB, got {human_size(size)}"
                )
            return stream.read(size)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


def parse_onnx(data: bytes, origin: str = "model") -> onnx.ModelProto:
    """An ONNX model of any origin: it need not keep the contract, nor have a card.

    Raises:
        ModelError: `data` cannot be parsed, holds broken text, or a graph without nodes.
    """
    import onnx
    from google.protobuf.message import DecodeError

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise ModelError(f"{origin} is not an ONNX model: it cannot be parsed") from error
    if _has_broken_text(proto):
        raise ModelError(f"{origin} is damaged: it holds text that is not UTF-8")
    if not proto.graph.node:
        raise ModelError(f"{origin} is not an ONNX model: its graph has no nodes")
    return proto


def _check_value(
    origin: str, value: onnx.ValueInfoProto, element: int, shape: tuple[int | None, ...]
) -> None:
    """`None` in `shape` matches any extent."""
    tensor = value.type.tensor_type
    got = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    fits = len(got) == len(shape) and all(
        want is None or have == want for want, have in zip(shape, got, strict=True)
    )
    if tensor.elem_type != element or not fits:
        from onnx import TensorProto

        raise ModelError(
            f"{origin}: {value.name!r} must be {TensorProto.DataType.Name(element).lower()} "
            f"{list(shape)}, got {TensorProto.DataType.Name(tensor.elem_type).lower()} {list(got)}"
        )


def _without_initializers(proto: onnx.ModelProto) -> tuple[bytes, bytes]:
    """The bytes of a model without its graph, and of that graph without its initializers."""
    from onnx import GraphProto, ModelProto

    model, graph = ModelProto(), GraphProto()
    for source, target, left_out in (
        (proto, model, "graph"),
        (proto.graph, graph, "initializer"),
    ):
        for descriptor, value in source.ListFields():
            if descriptor.name == left_out:
                continue
            if isinstance(value, (str, bytes, int, float)):
                setattr(target, descriptor.name, value)
            else:
                getattr(target, descriptor.name).MergeFrom(value)
    return (
        model.SerializeToString(deterministic=True),
        graph.SerializeToString(deterministic=True),
    )


def _has_broken_text(message: Message) -> bool:
    """Whether a string somewhere in a message is not UTF-8.

    Parsing lets such strings through; they would be found by whoever writes them.
    """
    from onnx import TensorProto

    if isinstance(message, TensorProto):
        # ListFields would copy the tensor's values.
        return not (isinstance(message.name, str) and isinstance(message.doc_string, str))
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            parts = value if isinstance(value, Sequence) else (value,)
            if any(map(_has_broken_text, parts)):
                return True
        elif descriptor.type == descriptor.TYPE_STRING:
            texts = (value,) if isinstance(value, (str, bytes)) else value
            if not all(isinstance(text, str) for text in texts):
                return True
    return False


def _field(number: int, length: int) -> bytes:
    """Tag and length that precede a length-delimited field of a protobuf message."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
