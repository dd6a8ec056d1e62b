"""Zip files in one fixed layout: stored members, no gaps, no options, nothing else.

Any zip tool reads these files, but this module reads only what it wrote itself. A zip
file says everything twice and most of it optionally, and tools disagree about which copy
counts; so the reader takes names, sizes and checksums from the index, writes the headers
they imply once more, and compares them with the file byte by byte. What differs in one
bit is refused.

The layout is that of APPNOTE.TXT 6.3.10 (PKWARE), sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK = 1 << 20

# Sizes and offsets are 32 bits wide; the 64-bit extension is neither written nor read.
MAX_BYTES = (1 << 32) - 2
MAX_MEMBERS = 256
_MAX_INDEX_BYTES = 1 << 20

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"

_VERSION = 20  # "2.0", the oldest that every tool reads
_MADE_BY = 3 << 8 | _VERSION  # Unix, so that the permissions below count
_MODE = 0o100644 << 16
_DATE = 1 << 5 | 1  # 1980-01-01, the first day a zip can name: the same content, the same bytes
_ENCRYPTED = 1


class StoredZipError(ValueError):
    """The file is not a zip this module wrote; the message completes "the file ..."."""


class NotZipError(StoredZipError):
    """The file is no zip at all."""


@dataclass(frozen=True)
class Member:
    """One member; `offset` is where its content starts."""

    name: str
    offset: int
    size: int
    crc32: int

    @property
    def header_offset(self) -> int:
        """Where its local header starts."""
        return self.offset - _LOCAL.size - len(self.name)


class Writer:
    """Writes members one after the other; call :meth:`finish` at the end.

    Args:
        stream: Empty, seekable and open for writing.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._members: list[Member] = []
        self._position = 0

    def add(self, name: str, chunks: Iterable[bytes]) -> tuple[Member, str]:
        """Add a member from pieces of its content; returns it and its SHA-256.

        Raises:
            StoredZipError: The file would exceed what a zip without extensions can hold.
        """
        offset = self._position + _LOCAL.size + len(name)
        # The header comes first but says what follows: leave room, come back.
        self._stream.write(bytes(offset - self._position))
        size, crc, digest = 0, 0, hashlib.sha256()
        for chunk in chunks:
            size += len(chunk)
            if offset + size > MAX_BYTES:
                raise StoredZipError("would exceed 4 GiB, the most a plain zip can hold")
            crc = zlib.crc32(chunk, crc)
            digest.update(chunk)
            self._stream.write(chunk)
        member = Member(name, offset, size, crc)
        self._stream.seek(self._position)
        self._stream.write(_local_header(member))
        self._position = self._stream.seek(offset + size)
        self._members.append(member)
        return member, digest.hexdigest()

    def finish(self) -> None:
        """Write the index."""
        index = _index(self._members, self._position)
        if self._position + len(index) > MAX_BYTES:
            raise StoredZipError("would exceed 4 GiB, the most a plain zip can hold")
        self._stream.write(index)


def read_index(stream: IO[bytes], size: int) -> dict[str, Member]:
    """The members of a file of `size` bytes, in file order.

    Raises:
        StoredZipError: The file differs in any bit from what :class:`Writer` makes of
            members of these names, sizes and checksums.
    """
    if size > MAX_BYTES:
        raise StoredZipError("is larger than 4 GiB, the most an engine file can hold")
    stream.seek(0)
    if stream.read(4) != _LOCAL_MARK:
        raise NotZipError("is not a zip file")
    count, index_start = _read_end(stream, size)
    stream.seek(index_start)
    index = _read_exactly(stream, size - index_start)
    members: dict[str, Member] = {}
    position, start = 0, 0
    for _ in range(count):
        member, start = _read_entry(index, start, position)
        if member.name in members:
            raise StoredZipError(f"holds two members named {member.name!r}")
        members[member.name] = member
        position = member.offset + member.size
        if position > index_start:
            raise StoredZipError(f"is damaged: member {member.name!r} reaches past its end")
    if position != index_start or index != _index(list(members.values()), index_start):
        raise StoredZipError("is not laid out as Boxwright writes it; was it packed anew?")
    for member in members.values():
        stream.seek(member.header_offset)
        expected = _local_header(member)
        if _read_exactly(stream, len(expected)) != expected:
            raise StoredZipError(f"is damaged: the header of member {member.name!r} is wrong")
    return members


def read_chunks(stream: IO[bytes], member: Member) -> Iterator[bytes]:
    """A member's content in pieces, its checksum verified at the end.

    Raises:
        StoredZipError: The content ends early or does not match its checksum.
    """
    stream.seek(member.offset)
    left, crc = member.size, 0
    while left:
        chunk = _read_exactly(stream, min(left, CHUNK))
        left -= len(chunk)
        crc = zlib.crc32(chunk, crc)
        yield chunk
    if crc != member.crc32:
        raise StoredZipError(f"is damaged: the checksum of member {member.name!r} is wrong")


def _read_end(stream: IO[bytes], size: int) -> tuple[int, int]:
    """Number of members and start of the index."""
    if size < _END.size:
        raise StoredZipError("is truncated")
    stream.seek(size - _END.size)
    mark, _, _, _, count, index_size, index_start, _ = _END.unpack(_read_exactly(stream, _END.size))
    if mark != _END_MARK:
        raise StoredZipError("is truncated, or other bytes follow its end")
    if index_start + index_size + _END.size != size:
        raise StoredZipError("is damaged: its index is not where its last bytes say")
    if count > MAX_MEMBERS or index_size > _MAX_INDEX_BYTES:
        raise StoredZipError(f"claims {count} members; at most {MAX_MEMBERS} are allowed")
    return count, index_start


def _read_entry(index: bytes, start: int, position: int) -> tuple[Member, int]:
    """The index entry at `start` for the member whose header is at `position`."""
    if start + _CENTRAL.size > len(index):
        raise StoredZipError("is damaged: its index ends early")
    fields = _CENTRAL.unpack_from(index, start)
    mark, flags, method, crc, packed, size, name_length = (
        fields[i] for i in (0, 3, 4, 7, 8, 9, 10)
    )
    name_start = start + _CENTRAL.size
    raw_name = index[name_start : name_start + name_length]
    if mark != _CENTRAL_MARK or not raw_name.isascii():
        raise StoredZipError("is damaged: its index is malformed")
    name = raw_name.decode("ascii")
    if flags & _ENCRYPTED:
        raise StoredZipError(f"has an encrypted member, {name!r}; engine files have none")
    if method != 0 or packed != size:
        raise StoredZipError(f"has a compressed member, {name!r}; engine files have none")
    offset = position + _LOCAL.size + name_length
    return Member(name, offset, size, crc), name_start + name_length


def _read_exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise StoredZipError("is truncated")
    return data


def _local_header(member: Member) -> bytes:
    name = member.name.encode("ascii")
    fields = (_VERSION, 0, 0, 0, _DATE, member.crc32, member.size, member.size, len(name), 0)
    return _LOCAL.pack(_LOCAL_MARK, *fields) + name


def _index(members: list[Member], start: int) -> bytes:
    """The central directory and the end record of a file whose members end at `start`."""
    entries = b""
    for member in members:
        name = member.name.encode("ascii")
        entries += _CENTRAL.pack(
            *(_CENTRAL_MARK, _MADE_BY, _VERSION, 0, 0, 0, _DATE),
            *(member.crc32, member.size, member.size),
            *(len(name), 0, 0, 0, 0, _MODE, member.header_offset),
        )
        entries += name
    count = len(members)
    return entries + _END.pack(_END_MARK, 0, 0, count, count, len(entries), start, 0)
