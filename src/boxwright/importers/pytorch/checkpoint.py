"""Files of ``torch.save``, in both their forms, opened without torch and without running them.

Since torch 1.6 such a file is a zip with the pickle in ``data.pkl`` and one member for each
storage; before, it was five pickles in a row followed by the storages. Tensors are read
when they are asked for, after their declared size was compared with what the file holds.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.closing import Closing
from boxwright.errors import WeightsError
from boxwright.files import open_regular, printable
from boxwright.importers.pytorch import archive
from boxwright.importers.pytorch.pickles import MAX_BYTES, PickleError, PickleReader
from boxwright.importers.pytorch.records import STORAGES, Name, Storage, Tensor

# torch/serialization.py: MAGIC_NUMBER and PROTOCOL_VERSION of the older form.
_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
_LEGACY_PROTOCOL = 1001
_COUNT = struct.Struct("<q")


class Checkpoint(Closing):
    """An open file of ``torch.save``.

    Attributes:
        path: The file.
        root: The object that was saved, as records, tensors and plain values.

    Raises:
        WeightsError: The file cannot be read, is damaged, or holds what is not known.
    """

    root: Any

    def __init__(self, path: Path) -> None:
        self.path = path
        self._storages: dict[str, Storage] = {}
        self._values: dict[str, NDArray[Any]] = {}
        self._big = False
        # Where storages lie: members of a zip by name, or places in the older form by key.
        self._members: dict[str, archive.Member] = {}
        self._offsets: dict[str, int] = {}
        self._prefix = self._where_pickle = ""
        try:
            self._stream: IO[bytes] = open_regular(path)
        except OSError as error:
            raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
        try:
            self._size = os.fstat(self._stream.fileno()).st_size
            if archive.is_zip(self._stream):
                self._open_zip()
            else:
                self._open_legacy()
        except archive.ArchiveError as error:
            self._stream.close()
            raise WeightsError(f"{path} {error}") from error
        except BaseException:
            self._stream.close()
            raise
        # What tensors may claim altogether: two may share values, thousands may not.
        self._budget = 2 * sum(s.count for s in self._storages.values()) + (1 << 16)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def numbers(self, tensor: Tensor) -> NDArray[np.float32]:
        """A tensor's values as float32, in C order.

        Raises:
            WeightsError: They are damaged, or not all finite numbers.
        """
        if tensor.count > tensor.storage.count:
            raise WeightsError(
                f"{self.path}: a tensor of {list(tensor.shape)} claims more than the "
                f"{tensor.storage.count} values that are stored for it"
            )
        self._budget -= tensor.count
        if self._budget < 0:
            raise WeightsError(f"{self.path}: its tensors claim far more values than are stored")
        key = tensor.storage.key
        if key not in self._values:
            try:
                self._values[key] = self._read_storage(tensor.storage)
            except archive.ArchiveError as error:
                raise WeightsError(f"{self.path} {error}") from error
        # make_tensor saw that the view stays within.
        flat = self._values[key]
        steps = [step * flat.itemsize for step in tensor.strides]
        start = flat[tensor.offset :] if tensor.count else flat[:0]
        view = np.lib.stride_tricks.as_strided(start, tensor.shape, steps, writeable=False)
        with np.errstate(over="ignore"):
            numbers = np.ascontiguousarray(view).astype(np.float32).reshape(tensor.shape)
        if not np.isfinite(numbers).all():
            raise WeightsError(f"{self.path}: {self._where(key)} holds values that are no numbers")
        return numbers

    # Zip files.

    def _open_zip(self) -> None:
        self._members = archive.read_members(self._stream, self._size)
        pickles = [name for name in self._members if name.endswith("/data.pkl")]
        if any("/code/" in name or name.endswith("/constants.pkl") for name in self._members):
            raise WeightsError(
                f"{self.path} is a TorchScript program, and reading one runs it; load it "
                "yourself with torch.jit.load if you trust it, and give it to "
                "boxwright.import_torch"
            )
        if len(pickles) != 1:
            raise WeightsError(f"{self.path} is a zip, but torch.save did not write it")
        self._prefix = pickles[0].removesuffix("data.pkl")
        member = self._members[pickles[0]]
        if member.size > MAX_BYTES:
            raise WeightsError(f"{self.path}: {member.name} has more than {MAX_BYTES} bytes")
        order = self._members.get(f"{self._prefix}byteorder")
        if order is not None:
            text = archive.read_member(self._stream, order) if order.size < 16 else b""
            if text not in (b"little", b"big"):
                raise WeightsError(f"{self.path}: {order.name} must be little or big, got {text!r}")
            self._big = text == b"big"
        reader = PickleReader(archive.read_member(self._stream, member), self._zip_storage)
        self._where_pickle = printable(member.name)
        self.root = self._read_pickle(reader)
        if reader.at != member.size:
            raise WeightsError(f"{self.path}: {member.name} goes on after its end")

    def _zip_storage(self, identity: Any) -> Storage | Name:
        storage = self._storage(identity)
        if isinstance(storage, Storage):
            member = self._members.get(f"{self._prefix}data/{storage.key}")
            if member is None:
                raise ValueError(f"it refers to storage {storage.key[:80]!r}, which is not there")
            if member.size != storage.size:
                raise ValueError(
                    f"it says that storage {storage.key[:80]!r} has {storage.size} bytes, "
                    f"but it has {member.size}"
                )
        return storage

    # The older form.

    def _open_legacy(self) -> None:
        self._stream.seek(0)
        head = self._stream.read(MAX_BYTES)
        if not head.startswith(_LEGACY_START):
            raise WeightsError(_not_torch(self.path, head))
        reader = PickleReader(head, self._storage)
        self._where_pickle = "pickle"
        preface = [self._read_pickle(reader) for _ in range(3)]
        if preface[1] != _LEGACY_PROTOCOL or not isinstance(preface[2], dict):
            raise WeightsError(f"{self.path} is of a form of torch.save that is not known")
        self._big = preface[2].get("little_endian") is False
        self.root = self._read_pickle(reader)
        keys = self._read_pickle(reader)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise WeightsError(f"{self.path}: the list of its storages is damaged")
        self._find_storages(keys, reader.at)

    def _find_storages(self, keys: list[str], position: int) -> None:
        for key in keys:
            storage = self._storages.get(key)
            if storage is None or key in self._offsets:
                raise WeightsError(f"{self.path}: storage {key[:80]!r} is one too many")
            self._stream.seek(position)
            count = self._stream.read(_COUNT.size)
            position += _COUNT.size
            if len(count) != _COUNT.size or position + storage.size > self._size:
                raise WeightsError(f"{self.path} is truncated")
            if _COUNT.unpack(count)[0] != storage.count:
                raise WeightsError(
                    f"{self.path}: storage {key[:80]!r} should hold {storage.count} values, "
                    f"but says {_COUNT.unpack(count)[0]}"
                )
            self._offsets[key] = position
            position += storage.size
        missing = set(self._storages) - set(self._offsets)
        if missing or position != self._size:
            reason = f"storage {min(missing)[:80]!r} is not there" if missing else "bytes follow"
            raise WeightsError(f"{self.path} is damaged: {reason}")

    # Both.

    def _read_pickle(self, reader: PickleReader) -> Any:
        try:
            return reader.read()
        except PickleError as error:
            raise WeightsError(
                f"{self.path}: {self._where_pickle}, {error}. Nothing in it was run"
            ) from error

    def _storage(self, identity: Any) -> Storage | Name:
        """What a persistent id stands for (``torch/serialization.py``, ``persistent_load``)."""
        if not isinstance(identity, tuple) or not 2 <= len(identity) <= 6:
            raise ValueError("it refers to something that is no storage")
        if identity[0] == "module" and isinstance(identity[1], Name):
            return identity[1]  # the older form adds the class's source code, which is dropped
        if identity[0] != "storage" or len(identity) < 5 or identity[5:] not in ((), (None,)):
            raise ValueError("it refers to something that is no storage")
        _, name, key, _, count = identity[:5]
        kind = STORAGES.get(name.short) if isinstance(name, Name) else None
        if kind is None or not name.text.startswith("torch."):
            raise ValueError("it refers to a storage of a kind that is not known")
        if not isinstance(key, str) or type(count) is not int or not 0 <= count <= self._size:
            raise ValueError(f"it refers to a storage of {str(count)[:24]} values")
        storage = Storage(key, kind, count)
        if self._storages.setdefault(key, storage) != storage:
            raise ValueError(f"it gives storage {key[:80]!r} two sizes or types")
        return storage

    def _read_storage(self, storage: Storage) -> NDArray[Any]:
        if storage.key in self._offsets:
            data = archive.read_bytes(self._stream, self._offsets[storage.key], storage.size)
        else:
            member = self._members[f"{self._prefix}data/{storage.key}"]
            data = archive.read_member(self._stream, member)
        order = ">" if self._big else "<"
        if storage.kind == "bf16":
            halves = np.frombuffer(data, f"{order}u2").astype(np.uint32)
            floats: NDArray[np.float32] = (halves << 16).view(np.float32)
            return floats
        if storage.kind == "b1":
            flags: NDArray[np.bool_] = np.frombuffer(data, np.uint8) != 0
            return flags
        return np.frombuffer(data, f"{order}{storage.kind}")

    def _where(self, key: str) -> str:
        return f"storage {printable(key)[:80]!r}"


def looks_like_torch(path: Path) -> bool:
    """Whether a file starts as one of ``torch.save``; reads a few bytes."""
    try:
        with open_regular(path) as stream:
            if archive.is_zip(stream):
                # The first member of torch's zips is always the pickle, by name.
                head = stream.read(26 + 512)
                length = int.from_bytes(head[22:24], "little")
                name = head[26 : 26 + length]
                return name.endswith(b"data.pkl")
            stream.seek(0)
            return stream.read(len(_LEGACY_START)) == _LEGACY_START
    except OSError:
        return False


def _not_torch(path: Path, head: bytes) -> str:
    if head[257:262] == b"ustar":
        return (
            f"{path} is a tar, as torch.save wrote before version 0.2; save it again with a newer "
            "torch"
        )
    if head.startswith(b"\x80"):
        return f"{path} is a pickle that torch.save did not write"
    return f"{path} is no file of torch.save"
