"""Reading and writing ``.npz`` files that nobody vouches for.

``numpy.load`` believes the sizes a file states and can be made to allocate them. Here
every size is read from the zip directory and the npy header, compared with each other
and with a limit, and only then allocated. No object array, hence no pickle, is read.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from boxwright.errors import InputError
from boxwright.files import atomic_write, human_size, open_regular

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MAX_MEMBERS = 4096
MAX_BYTES = 2 << 30

_MAX_HEADER = 4096
# What numpy writes (numpy.lib.format, "Format Version 1.0"): keys in this order.
_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[<>|=]?[biufU]\d{1,9})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>[\d, ]*)\), \}\s*"
)
# What damaged or hostile bytes make zipfile, zlib and numpy raise.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    struct.error,
    OverflowError,
)


def read_npz(path: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, NDArray[Any]]:
    """Every array of an ``.npz`` file by name.

    Args:
        path: The file.
        max_bytes: Most bytes that all arrays together may take in memory.

    Raises:
        InputError: The file is missing, no ``.npz``, damaged, too large, or holds
            something other than numbers, booleans and text.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise InputError(
                    f"{path}: at most {MAX_MEMBERS} arrays are read, got {len(members)}"
                )
            total = sum(member.file_size for member in members)
            if total > max_bytes:
                raise InputError(
                    f"{path}: at most {human_size(max_bytes)} are read, got {human_size(total)}"
                )
            arrays: dict[str, NDArray[Any]] = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name in arrays:
                    raise InputError(f"{path}: not an .npz file: member {member.filename!r}")
                with archive.open(member) as stream:
                    arrays[name] = _read_array(stream, member.file_size)
            return arrays
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise InputError(f"{path}: not a readable .npz file: {error}") from error


def begins_with(path: Path, member: str) -> bool:
    """Whether a file begins as an ``.npz`` with that array in front, damaged or not.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with open_regular(path) as stream:
            start = stream.read(64)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    # A zip file starts with its first member's header: 30 bytes, then the name.
    return start.startswith(b"PK\x03\x04") and start[30:].startswith(member.encode())


def _read_array(stream: IO[bytes], size: int) -> NDArray[Any]:
    # numpy.lib.format describes the layout; its own reader evaluates the header as Python.
    magic, version = stream.read(6), stream.read(2)
    if magic != b"\x93NUMPY" or version not in (b"\x01\x00", b"\x02\x00"):
        raise ValueError("a member is no array of a format that is read")
    form = "<H" if version[0] == 1 else "<I"
    (length,) = struct.unpack(form, stream.read(struct.calcsize(form)))
    if length > _MAX_HEADER:
        raise ValueError(f"an array's header may hold {_MAX_HEADER} bytes, got {length}")
    header = _HEADER.fullmatch(stream.read(length))
    if header is None:
        raise ValueError("only arrays of numbers, booleans and text are read")
    dtype = np.dtype(header["descr"].decode())
    fortran = header["fortran"] == b"True"
    shape = tuple(int(extent) for extent in header["shape"].split(b",") if extent.strip())
    if dtype.itemsize == 0:
        raise ValueError(f"arrays of {dtype} are not read")
    stated = math.prod(shape) * dtype.itemsize
    present = size - stream.tell()
    if stated != present:
        raise ValueError(f"an array of {stated} bytes is stated, {present} are there")
    data = stream.read(stated)
    if len(data) != stated:
        raise ValueError("an array ends too early")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def write_npz(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as a compressed ``.npz``; equal arrays give equal bytes.

    Raises:
        InputError: The file cannot be written.
    """
    with (
        atomic_write(path) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, array in arrays.items():
            # A fixed time stamp, the earliest that zip can hold.
            member = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as target:
                npy.write_array(target, np.asanyarray(array), (1, 0), allow_pickle=False)
