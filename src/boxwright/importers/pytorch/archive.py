"""The zip files that ``torch.save`` writes, read with every claim checked.

``torch.save`` stores its members uncompressed, each beginning at a multiple of 64 bytes,
with the sizes in the index only (APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.9, 4.3.12 to
4.3.16). Nothing else is accepted: a member that is compressed, encrypted, overlaps another
or reaches outside the file is refused, so that no more memory is ever needed than the file
is long.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import IO

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_LOCATOR_MARK, _END64_MARK = b"PK\x06\x07", b"PK\x06\x06"
_ZIP64_EXTRA = 1
_ENCRYPTED = 1
_MAX_MEMBERS = 100_000
_MAX_INDEX = 32 << 20
_WIDE = 0xFFFFFFFF


class ArchiveError(ValueError):
    """The file is no archive of torch's; the message completes "the file ..."."""


@dataclass(frozen=True)
class Member:
    """One member: where its content lies, and its checksum."""

    name: str
    offset: int
    size: int
    crc32: int


def is_zip(stream: IO[bytes]) -> bool:
    """Whether a file starts as a zip does."""
    stream.seek(0)
    return stream.read(4) == _LOCAL_MARK


def read_members(stream: IO[bytes], size: int) -> dict[str, Member]:
    """The members of a zip of `size` bytes.

    Raises:
        ArchiveError: It is damaged, or not as ``torch.save`` writes it.
    """
    index_start, index_size, count = _find_index(stream, size)
    index = read_bytes(stream, index_start, index_size)
    entries, start = [], 0
    for _ in range(count):
        name, header, length, crc, start = _read_entry(index, start)
        entries.append((header, name, length, crc))
    if start != index_size:
        raise ArchiveError("is damaged: its index is longer than its members need")
    members: dict[str, Member] = {}
    end = 0
    for header, name, length, crc in sorted(entries):
        if header < end:
            raise ArchiveError(f"is damaged: member {name!r} overlaps another")
        offset = _content_start(stream, header, name, index_start)
        end = offset + length
        if end > index_start:
            raise ArchiveError(f"is damaged: member {name!r} reaches past the last")
        if name in members:
            raise ArchiveError(f"holds two members named {name!r}")
        members[name] = Member(name, offset, length, crc)
    return members


def read_member(stream: IO[bytes], member: Member) -> bytes:
    """A member's content, checksum verified.

    Raises:
        ArchiveError: It is damaged.
    """
    data = read_bytes(stream, member.offset, member.size)
    if zlib.crc32(data) != member.crc32:
        raise ArchiveError(f"is damaged: the checksum of member {member.name!r} is wrong")
    return data


def _find_index(stream: IO[bytes], size: int) -> tuple[int, int, int]:
    """Start, size and number of entries of the index."""
    if size < _END.size:
        raise ArchiveError("is truncated")
    end = size - _END.size
    mark, disk, first, _, count, index_size, start, _ = _END.unpack(
        read_bytes(stream, end, _END.size)
    )
    if mark != _END_MARK:
        raise ArchiveError("is truncated, or other bytes follow its end")
    if disk or first:
        raise ArchiveError("is one part of several")
    if count == 0xFFFF or index_size == _WIDE or start == _WIDE:
        start, index_size, count = _read_end64(stream, end)
    if count > _MAX_MEMBERS or index_size > _MAX_INDEX:
        raise ArchiveError(f"claims {count} members; at most {_MAX_MEMBERS} are read")
    if start + index_size > end:
        raise ArchiveError("is damaged: its index reaches outside it")
    return start, index_size, count


def _read_end64(stream: IO[bytes], end: int) -> tuple[int, int, int]:
    if end < _LOCATOR.size + _END64.size:
        raise ArchiveError("is truncated")
    mark, _, place, _ = _LOCATOR.unpack(read_bytes(stream, end - _LOCATOR.size, _LOCATOR.size))
    if mark != _LOCATOR_MARK or place > end - _LOCATOR.size - _END64.size:
        raise ArchiveError("is damaged: its last bytes do not lead to its index")
    fields = _END64.unpack(read_bytes(stream, place, _END64.size))
    if fields[0] != _END64_MARK:
        raise ArchiveError("is damaged: its last bytes do not lead to its index")
    return fields[9], fields[8], fields[7]


def _read_entry(index: bytes, start: int) -> tuple[str, int, int, int, int]:
    """Name, header's place, size and checksum of one entry, and where the next starts."""
    if start + _CENTRAL.size > len(index):
        raise ArchiveError("is damaged: its index ends early")
    fields = _CENTRAL.unpack_from(index, start)
    mark, flags, method, crc, packed, size = (fields[i] for i in (0, 3, 4, 7, 8, 9))
    name_length, extra_length, comment_length, header = (fields[i] for i in (10, 11, 12, 16))
    begin = start + _CENTRAL.size
    end = begin + name_length + extra_length + comment_length
    if mark != _CENTRAL_MARK or end > len(index):
        raise ArchiveError("is damaged: its index is malformed")
    name = index[begin : begin + name_length].decode("utf-8", "backslashreplace")
    extra = index[begin + name_length : begin + name_length + extra_length]
    if flags & _ENCRYPTED:
        raise ArchiveError(f"has an encrypted member, {name!r}, as torch.save writes none")
    size, packed, header = _widen(extra, size, packed, header)
    if method != 0 or packed != size:
        raise ArchiveError(f"has a compressed member, {name!r}, as torch.save writes none")
    return name, header, size, crc, end


def _widen(extra: bytes, *values: int) -> list[int]:
    """Values of which those that are all ones are in the 64-bit extension (4.5.3)."""
    widened = list(values)
    missing = [i for i, value in enumerate(values) if value == _WIDE]
    at = 0
    while missing and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == _ZIP64_EXTRA and length >= 8 * len(missing) and at + 4 + length <= len(extra):
            numbers = struct.unpack_from(f"<{len(missing)}Q", extra, at + 4)
            for i, number in zip(missing, numbers, strict=True):
                widened[i] = number
            return widened
        at += 4 + length
    if missing:
        raise ArchiveError("is damaged: a size of more than 4 GiB is missing")
    return widened


def _content_start(stream: IO[bytes], header: int, name: str, limit: int) -> int:
    if header + _LOCAL.size > limit:
        raise ArchiveError(f"is damaged: the header of member {name!r} is outside it")
    fields = _LOCAL.unpack(read_bytes(stream, header, _LOCAL.size))
    begin = header + _LOCAL.size
    own_name = read_bytes(stream, begin, fields[9]).decode("utf-8", "backslashreplace")
    if fields[0] != _LOCAL_MARK or fields[3] != 0 or own_name != name:
        raise ArchiveError(f"is damaged: the header of member {name!r} is another's")
    start: int = begin + fields[9] + fields[10]
    return start


def read_bytes(stream: IO[bytes], offset: int, size: int) -> bytes:
    """A piece of a file.

    Raises:
        ArchiveError: The file ends before it.
    """
    stream.seek(offset)
    data = stream.read(size)
    if len(data) != size:
        raise ArchiveError("is truncated")
    return data
