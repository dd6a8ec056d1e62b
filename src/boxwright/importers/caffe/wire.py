"""A caffemodel: the blobs of each layer, out of protobuf's wire format.

Written from the format's specification (https://protobuf.dev/programming-guides/encoding/)
and the field numbers of BVLC's and NVIDIA's ``caffe.proto``. Only what an importer needs is
looked at: names, types and blobs of the layers, and how a data layer prepared its pixels.
The file is mapped, not read: values are copied once, when a layer asks for them. Every
length is checked against the bytes that are there before anything is made of it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.closing import Closing
from boxwright.errors import WeightsError
from boxwright.files import human_size, open_regular, printable

Floats = NDArray[np.float32]

# Protobuf itself stops here.
_MAX_BYTES = (1 << 31) - 1
_MAX_LAYERS = 65_536
_MAX_BLOBS = 64
_MAX_AXES = 32  # kMaxBlobAxes of blob.hpp
_MAX_NAME = 4096

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# NetParameter
_NET_NAME, _NET_V1_LAYERS, _NET_LAYER = 1, 2, 100
# LayerParameter, and the older V1LayerParameter
_NAME, _TYPE, _BLOBS, _TRANSFORM = 1, 2, 7, 100
_V1_V0, _V1_NAME, _V1_TYPE, _V1_BLOBS, _V1_TRANSFORM = 1, 4, 5, 6, 36
# BlobProto
_LEGACY_AXES, _DATA, _SHAPE, _DOUBLE, _RAW_TYPE, _RAW = (1, 2, 3, 4), 5, 7, 8, 10, 12
_FLOATS: np.dtype[Any] = np.dtype("<f4")
_DOUBLES: np.dtype[Any] = np.dtype("<f8")
_HALVES: np.dtype[Any] = np.dtype("<f2")
# NVIDIA's `enum Type`
_RAW_TYPES = {0: _DOUBLES, 1: _FLOATS, 2: _HALVES}


@dataclass(frozen=True)
class Span:
    """A part of the file, ``[start, end)``."""

    start: int
    end: int


@dataclass(frozen=True)
class Field:
    """One field of a message: its number, wire type, and value or the place of its bytes."""

    number: int
    wire: int
    value: int
    span: Span


@dataclass(frozen=True)
class StoredTransform:
    """``TransformationParameter`` of a data layer: how pixels were prepared in training.

    Attributes:
        scale: Factor, applied after the mean.
        mean: One value for all channels, or one for each; empty where none was subtracted.
        mean_file: A file with a mean image, which is not in the caffemodel.
    """

    scale: float
    mean: tuple[float, ...]
    mean_file: str


class CaffeModel(Closing):
    """A caffemodel file, opened and indexed; use it as a context manager.

    Attributes:
        path: The file.
        name: The network's name.
        transforms: What the data layers say about pixels, in the order of the file.

    Raises:
        WeightsError: It is no caffemodel, is damaged or truncated.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = ""
        self.transforms: list[StoredTransform] = []
        self._layers: dict[str, list[Span]] = {}
        try:
            with open_regular(self.path) as stream:
                size = os.fstat(stream.fileno()).st_size
                if not 0 < size <= _MAX_BYTES:
                    raise WeightsError(
                        f"{self.path}: a caffemodel has 1 byte to 2 GiB, this has "
                        f"{human_size(size)}"
                    )
                self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise WeightsError(f"cannot read {self.path}: {error.strerror or error}") from error
        try:
            self._index()
        except BaseException:
            self._data.close()
            raise

    def close(self) -> None:
        """Let the file go."""
        self._data.close()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that bring blobs."""
        return tuple(self._layers)

    def blobs(self, layer: str) -> list[Floats]:
        """The blobs of a layer in their own shapes, finite values only.

        An older file pads shapes to four axes: ``(1, 1, out, in)`` for a matrix.

        Raises:
            WeightsError: One is damaged, or holds a value that is no finite number.
        """
        found = []
        for number, span in enumerate(self._layers.get(layer, ())):
            where = f"blob {number} of layer {layer!r}"
            values = self._blob(span, where)
            if not np.isfinite(values).all():
                raise WeightsError(f"{self.path}: {where} holds values that are no finite numbers")
            found.append(values)
        return found

    def _index(self) -> None:
        seen = 0
        for item in self._fields(Span(0, len(self._data)), "the network"):
            if item.number == _NET_NAME and item.wire == _BYTES:
                self.name = self._text(item.span)
            elif item.number in (_NET_LAYER, _NET_V1_LAYERS) and item.wire == _BYTES:
                seen += 1
                if seen > _MAX_LAYERS:
                    raise WeightsError(f"{self.path}: more than {_MAX_LAYERS} layers")
                self._index_layer(item.span, item.number == _NET_V1_LAYERS)
        if not seen:
            raise WeightsError(f"{self.path} is no caffemodel: it holds no layers")

    def _index_layer(self, span: Span, old: bool) -> None:
        name_at, blobs_at = (_V1_NAME, _V1_BLOBS) if old else (_NAME, _BLOBS)
        transform_at = _V1_TRANSFORM if old else _TRANSFORM
        name, blobs = "", []
        for item in self._fields(span, "a layer"):
            if item.wire != _BYTES:
                continue
            if item.number == name_at:
                name = self._text(item.span)
            elif item.number == blobs_at:
                blobs.append(item.span)
            elif item.number == transform_at:
                self.transforms.append(self._transform(item.span))
            elif old and item.number == _V1_V0:
                raise WeightsError(
                    f"{self.path} is of Caffe's first format (V0, before 2014); "
                    "upgrade it with Caffe's upgrade_net_proto_binary"
                )
        if len(blobs) > _MAX_BLOBS:
            raise WeightsError(f"{self.path}: layer {name!r} has {len(blobs)} blobs")
        if blobs:
            self._layers[name] = blobs

    def _blob(self, span: Span, where: str) -> Floats:
        legacy: dict[int, int] = {}
        shape: list[int] | None = None
        pieces: list[tuple[np.dtype[Any], Span]] = []
        raw_type = 1
        for item in self._fields(span, where, {_DATA: 4, _DOUBLE: 8}):
            if item.number in _LEGACY_AXES and item.wire == _VARINT:
                legacy[item.number] = item.value
            elif item.number == _SHAPE and item.wire == _BYTES:
                shape = self._shape(item.span, where)
            elif item.number == _DATA and item.wire in (_BYTES, _FIXED32):
                pieces.append((_FLOATS, item.span))
            elif item.number == _DOUBLE and item.wire in (_BYTES, _FIXED64):
                pieces.append((_DOUBLES, item.span))
            elif item.number == _RAW_TYPE and item.wire == _VARINT:
                raw_type = item.value
            elif item.number == _RAW and item.wire == _BYTES:
                if raw_type not in _RAW_TYPES:
                    raise WeightsError(f"{self.path}: {where} is of raw type {raw_type}")
                pieces.append((_RAW_TYPES[raw_type], item.span))
        if shape is None and legacy:
            shape = [legacy.get(axis, 0) for axis in _LEGACY_AXES]
        return self._values(pieces, shape, where)

    def _values(
        self,
        pieces: list[tuple[np.dtype[Any], Span]],
        shape: list[int] | None,
        where: str,
    ) -> Floats:
        parts = [self._array(dtype, span, where) for dtype, span in pieces]
        values = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        extents = [len(values)] if shape is None else shape
        count = 1
        for extent in extents:
            count *= extent
            if extent < 0 or count > _MAX_BYTES:
                raise WeightsError(f"{self.path}: {where} cannot have the shape {extents}")
        if count != len(values):
            raise WeightsError(
                f"{self.path}: {where} holds {len(values)} values; its shape "
                f"{extents} needs {count}"
            )
        return values.reshape(extents)

    def _array(self, dtype: np.dtype[Any], span: Span, where: str) -> Floats:
        """Values of one packed field, or of a run of single ones (see :meth:`_fields`)."""
        length = span.end - span.start
        stride = dtype.itemsize
        gap = span.gap if isinstance(span, _Run) else 0
        stride += gap
        if length % stride:
            raise WeightsError(f"{self.path}: {where} ends within a value")
        # A copy: an array over the map itself would keep it from being closed.
        data = np.frombuffer(self._data[span.start : span.end], np.uint8)
        rows = data.reshape(-1, stride)[:, gap:]
        with np.errstate(over="ignore"):  # a double too large becomes infinite, and is refused
            return np.ascontiguousarray(rows).view(dtype)[:, 0].astype(np.float32)

    def _shape(self, span: Span, where: str) -> list[int]:
        """``BlobShape``: int64 dim = 1, packed."""
        extents: list[int] = []
        for item in self._fields(span, where):
            if item.number == 1 and item.wire == _VARINT:
                extents.append(item.value)
            elif item.number == 1 and item.wire == _BYTES:
                at = item.span.start
                while at < item.span.end:
                    value, at = self._varint(at, item.span.end, where)
                    extents.append(value)
                    if len(extents) > _MAX_AXES:
                        break
            if len(extents) > _MAX_AXES:
                raise WeightsError(f"{self.path}: {where} has more than {_MAX_AXES} axes")
        return [extent if extent < 1 << 63 else extent - (1 << 64) for extent in extents]

    def _transform(self, span: Span) -> StoredTransform:
        """``TransformationParameter``: scale = 1, mean_file = 4, mean_value = 5."""
        scale, mean, mean_file = 1.0, [], ""
        for item in self._fields(span, "a data layer"):
            if item.wire == _FIXED32 and item.number in (1, 5):
                (value,) = struct.unpack("<f", self._data[item.span.start : item.span.end])
                if item.number == 1:
                    scale = value
                else:
                    mean.append(value)
            elif item.number == 5 and item.wire == _BYTES:
                mean.extend(self._array(_FLOATS, item.span, "a data layer").tolist())
            elif item.number == 4 and item.wire == _BYTES:
                mean_file = self._text(item.span)
        return StoredTransform(scale, tuple(mean[:16]), mean_file)

    def _fields(
        self, span: Span, where: str, runs: dict[int, int] | None = None
    ) -> Iterator[Field]:
        """The fields of a message, skipping nothing but their content.

        Fields of the numbers in `runs` that stand one by one (not packed) are given as one
        :class:`_Run`; the numbers' sizes are in bytes. A loop over single values would take
        minutes for a large blob.
        """
        at = span.start
        while at < span.end:
            begin = at
            tag, at = self._varint(at, span.end, where)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, at = self._varint(at, span.end, where)
                yield Field(number, wire, value, Span(at, at))
                continue
            if wire == _BYTES:
                length, at = self._varint(at, span.end, where)
            elif wire in (_FIXED32, _FIXED64):
                length = 4 if wire == _FIXED32 else 8
            else:
                raise WeightsError(
                    f"{self.path} is no caffemodel, or is damaged: {where} has a field of "
                    f"wire type {wire} at byte {begin}"
                )
            if number == 0 or length > span.end - at:
                raise WeightsError(
                    f"{self.path} is damaged or cut off: at byte {begin}, {where} has a field "
                    f"of {length} bytes where {span.end - at} are left"
                )
            if runs and wire != _BYTES and runs.get(number) == length and at - begin == 1:
                count = self._run_length(begin, span.end, length)
                end = begin + count * (length + 1)
                yield Field(number, wire, 0, _Run(begin, end, 1))
                at = end
                continue
            yield Field(number, wire, 0, Span(at, at + length))
            at += length

    def _run_length(self, begin: int, end: int, size: int) -> int:
        """How many fields of the tag at `begin` and of `size` bytes follow one another."""
        stride, tag, count = size + 1, self._data[begin], 0
        step = 1 << 16
        while True:
            room = min((end - begin) // stride - count, step)
            if room <= 0:
                return count
            start = begin + count * stride
            tags = np.frombuffer(self._data[start : start + room * stride : stride], np.uint8)
            same = int(np.argmax(tags != tag)) if (tags != tag).any() else room
            count += same
            if same < room:
                return count

    def _varint(self, at: int, end: int, where: str) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (1 << 64) - 1, at
            shift += 7
        raise WeightsError(
            f"{self.path} is damaged or cut off: {where} has no whole number at byte {at}"
        )

    def _text(self, span: Span) -> str:
        if span.end - span.start > _MAX_NAME:
            raise WeightsError(f"{self.path}: a name of {span.end - span.start} bytes")
        text = self._data[span.start : span.end].decode("utf-8", "surrogateescape")
        return printable(text)


@dataclass(frozen=True)
class _Run(Span):
    """Values of equal size, each with `gap` bytes (its tag) in front."""

    gap: int = 0


def looks_like_caffemodel(path: Path) -> bool:
    """Whether a file is a sound caffemodel with at least one layer's blobs."""
    try:
        with CaffeModel(path) as model:
            return bool(model.layers)
    except WeightsError:
        return False
