"""Values of variables: the files beside a SavedModel, ``variables.index`` and its data.

The index is a sorted string table as LevelDB keeps them
(https://github.com/google/leveldb/blob/main/doc/table_format.md): the last 48 bytes are
where two blocks are, and end in a magic number. A block is a list of keys, each without
what it shares with the one before, and values. Here a key is a variable's name in the
checkpoint and a value a ``BundleEntryProto``; the empty key has the header. TensorFlow
writes blocks uncompressed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.errors import ImportFailedError
from boxwright.files import open_regular
from boxwright.importers.tensorflow.graphdef import TYPES
from boxwright.importers.tensorflow.network import MAX_ELEMENTS, MAX_RANK, Array, refusal, short
from boxwright.importers.tensorflow.network import size_of as elements
from boxwright.importers.tensorflow.proto import parse

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5  # A block's compression, and a checksum.
_MAX_INDEX = 256 << 20
_MAX_SHARDS = 4096


class Bundle:
    """The variables of a checkpoint.

    Args:
        prefix: Path without ``.index``.

    Raises:
        ImportFailedError: The index is missing or damaged.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.index = prefix.with_name(prefix.name + ".index")
        data = _read(self.index)
        entries = dict(_table(data, self.index))
        header = parse("BundleHeaderProto", entries.pop(b"", b""), self.index)
        if header.endianness != 0 or not 1 <= header.num_shards <= _MAX_SHARDS:
            raise refusal(
                self.index,
                f"it says {header.num_shards} data files and byte order {header.endianness}; "
                "little-endian ones are read",
            )
        self.shards = int(header.num_shards)
        self.entries = entries

    def read(self, keys: Iterable[str]) -> dict[str, Array]:
        """The values of the variables `keys`.

        Raises:
            ImportFailedError: One is missing, or does not fit its file.
        """
        return {key: self._value(key) for key in dict.fromkeys(keys)}

    def _value(self, key: str) -> Array:
        content = self.entries.get(key.encode("utf-8", "surrogateescape"))
        if content is None:
            raise refusal(self.index, f"the variable {short(key)!r} is not in it")
        entry = parse("BundleEntryProto", content, self.index)
        code = TYPES.get(entry.dtype)
        shape = tuple(int(dim.size) for dim in entry.shape.dim)
        if code is None or entry.slices or len(shape) > MAX_RANK:
            raise refusal(
                self.index,
                f"the variable {short(key)!r} is of type {entry.dtype}, in slices or of too many "
                "axes: not supported",
            )
        dtype = np.dtype(code)
        if min(shape, default=0) < 0 or elements(shape) > MAX_ELEMENTS:
            raise refusal(self.index, f"the variable {short(key)!r} has the shape {list(shape)}")
        expected = elements(shape) * dtype.itemsize
        if entry.size != expected or not 0 <= entry.shard_id < self.shards or entry.offset < 0:
            raise refusal(
                self.index,
                f"the variable {short(key)!r} of shape {list(shape)} needs {expected} bytes, "
                f"got {entry.size} in data file {entry.shard_id} of {self.shards}",
            )
        name = f"{self.prefix.name}.data-{entry.shard_id:05d}-of-{self.shards:05d}"
        raw = _read_part(self.prefix.with_name(name), int(entry.offset), expected)
        return np.frombuffer(raw, dtype).reshape(shape)


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as stream:
            data = stream.read(_MAX_INDEX + 1)
    except OSError as error:
        raise ImportFailedError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > _MAX_INDEX:
        raise refusal(path, "an index is never so large")
    return data


def _read_part(path: Path, offset: int, size: int) -> bytes:
    try:
        with open_regular(path) as stream:
            there = os.fstat(stream.fileno()).st_size
            if offset + size > there:
                raise refusal(
                    path, f"truncated: bytes {offset} to {offset + size} of {there} are needed"
                )
            stream.seek(offset)
            return stream.read(size)
    except OSError as error:
        raise ImportFailedError(f"cannot read {path}: {error.strerror or error}") from error


def _table(data: bytes, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of all blocks, in their order."""
    footer = data[-_FOOTER:]
    if len(footer) < _FOOTER or int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise refusal(path, "no index of variables, or truncated: its end is not that of a table")
    # Where the block about blocks is comes first; it is not needed.
    _, after = _varint(footer, 0, path)
    _, after = _varint(footer, after, path)
    offset, after = _varint(footer, after, path)
    size, _ = _varint(footer, after, path)
    read = 0
    for _, handle in _block(data, offset, size, path):
        begin, used = _varint(handle, 0, path)
        length, _ = _varint(handle, used, path)
        read += length
        if read > len(data):
            # Blocks do not overlap in a sound file; in a bomb all are one.
            raise refusal(path, "damaged: its blocks are larger than it is")
        yield from _block(data, begin, length, path)


def _block(data: bytes, offset: int, size: int, path: Path) -> Iterator[tuple[bytes, bytes]]:
    if offset + size + _TRAILER > len(data) or size < 4:
        raise refusal(path, f"damaged: a block of {size} bytes at {offset} of {len(data)}")
    if data[offset + size] != 0:
        raise refusal(path, "its blocks are compressed, which TensorFlow itself does not do")
    block = data[offset : offset + size]
    restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 - 4 * restarts
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at, path)
        own, at = _varint(block, at, path)
        length, at = _varint(block, at, path)
        if shared > len(key) or at + own + length > end:
            raise refusal(path, f"damaged: an entry at {offset + at} leaves its block")
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + length]
        at += length


def _varint(data: bytes, at: int, path: Any) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise refusal(path, f"damaged: a number at byte {at} does not end")
