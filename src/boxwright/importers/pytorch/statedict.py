"""State dicts: names of tensors and nothing else, of torch.save or of safetensors."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import WeightsError
from boxwright.files import open_regular
from boxwright.importers.pytorch.checkpoint import Checkpoint
from boxwright.importers.pytorch.records import Tensor

Floats = NDArray[np.float32]

# What wrappers for several GPUs put in front of every name.
_PREFIXES = ("module.1.", "module.", "_orig_mod.")
_MAX_HEADER = 4 << 20
_MAX_TENSORS = 20_000
# Types of safetensors, and numpy's; it has no bfloat16.
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}


class Source(Protocol):
    """Where tensors come from."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Extents of a tensor."""
        ...

    def read(self, name: str) -> Floats:
        """Values of a tensor."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Names of all tensors."""
        ...


class StateDict:
    """Tensors by name; which were used is remembered, so that none is left over unseen.

    Args:
        source: The tensors.
        path: The file, for messages.
    """

    def __init__(self, source: Source, path: Path) -> None:
        self.path = path
        self._source = source
        self._names = {_stripped(name): name for name in source}
        self._used: set[str] = set()
        if len(self._names) != len(list(source)):
            raise WeightsError(f"{path}: it has tensors of one name with and without a prefix")

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def error(self, name: str, reason: str) -> WeightsError:
        """An error that names the file and the tensor."""
        return WeightsError(f"{self.path}: {name[:120]}: {reason}")

    def shape(self, name: str) -> tuple[int, ...]:
        """Extents of a tensor.

        Raises:
            WeightsError: It is not there.
        """
        if name not in self._names:
            raise self.error(name, "it is missing; the file is of another network, or damaged")
        return self._source.shape(self._names[name])

    def read(self, name: str, *shape: int) -> Floats:
        """Values of a tensor, of this shape if one is given.

        Raises:
            WeightsError: It is not there, of another shape, or holds what is no number.
        """
        found = self.shape(name)
        if shape and found != shape:
            raise self.error(name, f"expected the shape {list(shape)}, got {list(found)}")
        self._used.add(name)
        values = self._source.read(self._names[name])
        if not np.isfinite(values).all():
            raise self.error(name, "it holds values that are no numbers")
        return values

    def children(self, name: str) -> list[int]:
        """Numbers of the parts of a module, in order: 0 and 2 of ``name.0.x`` and ``name.2.y``."""
        found = set()
        for key in self._names:
            if key.startswith(f"{name}."):
                part = key[len(name) + 1 :].partition(".")[0]
                if part.isdecimal() and len(part) < 5:
                    found.add(int(part))
        return sorted(found)

    def finish(self) -> None:
        """See that every tensor was used.

        Raises:
            WeightsError: One was not; the network has something that was not written.
        """
        left = [
            name
            for name in self._names
            if name not in self._used and not name.endswith("num_batches_tracked")
        ]
        if left:
            raise self.error(
                left[0], f"it belongs to no layer known here ({len(left)} tensors do not)"
            )


def state_dict_of(checkpoint: Checkpoint) -> StateDict | None:
    """The state dict that a checkpoint is, or has as ``model`` or ``state_dict``."""
    root = checkpoint.root
    if not isinstance(root, dict):
        return None
    for table in (root, root.get("model"), root.get("state_dict"), root.get("ema")):
        if isinstance(table, dict) and table:
            tensors = {k: v for k, v in table.items() if isinstance(v, Tensor)}
            if len(tensors) == len(table) and all(isinstance(name, str) for name in tensors):
                return StateDict(_CheckpointSource(checkpoint, tensors), checkpoint.path)
    return None


class _CheckpointSource:
    def __init__(self, checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
        self._checkpoint = checkpoint
        self._tensors = tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def read(self, name: str) -> Floats:
        return self._checkpoint.numbers(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)


class Safetensors:
    """A file of safetensors: the length of a JSON text, that text, then the values.

    The layout is that of https://github.com/huggingface/safetensors ("Format").

    Raises:
        WeightsError: It is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with open_regular(path) as stream:
                size = os.fstat(stream.fileno()).st_size
                length = int.from_bytes(stream.read(8), "little")
                if not 2 <= length <= min(_MAX_HEADER, size - 8):
                    raise self._error("its header reaches outside it")
                header = json.loads(stream.read(length))
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        except (ValueError, RecursionError) as error:
            raise self._error("its header is no JSON") from error
        if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
            raise self._error("its header is no table of tensors")
        header.pop("__metadata__", None)
        self._start = 8 + length
        self._tensors = {name: self._entry(name, content) for name, content in header.items()}
        self._check_places(size - self._start)

    def shape(self, name: str) -> tuple[int, ...]:
        """Extents of a tensor."""
        return self._tensors[name][1]

    def read(self, name: str) -> Floats:
        """Values of a tensor."""
        kind, shape, (start, end) = self._tensors[name]
        with open_regular(self._path) as stream:
            stream.seek(self._start + start)
            data = stream.read(end - start)
        if len(data) != end - start:
            raise self._error("it is truncated")
        values = np.frombuffer(data, _TYPES[kind])
        if kind == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            return values.astype(np.float32).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def _entry(self, name: str, content: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
        content = content if isinstance(content, dict) else {}
        kind, shape, place = (content.get(key) for key in ("dtype", "shape", "data_offsets"))
        numbers = [*(shape if isinstance(shape, list) else [None])]
        numbers += place if isinstance(place, list) else [None]
        if kind not in _TYPES or any(type(x) is not int or not 0 <= x < 1 << 48 for x in numbers):
            raise self._error(f"tensor {name[:80]!r} is not described as one")
        if len(place) != 2 or len(shape) > 16:
            raise self._error(f"tensor {name[:80]!r} is not described as one")
        count = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
        if place[1] - place[0] != count:
            raise self._error(
                f"tensor {name[:80]!r} should take {count} bytes, not {place[1] - place[0]}"
            )
        return kind, tuple(shape), (place[0], place[1])

    def _check_places(self, size: int) -> None:
        """Every byte belongs to exactly one tensor, as the format asks."""
        end = 0
        for name, (_, _, place) in sorted(self._tensors.items(), key=lambda item: item[1][2]):
            if place[0] != end:
                raise self._error(f"tensor {name[:80]!r} does not follow the one before it")
            end = place[1]
        if end != size:
            raise self._error(f"its tensors take {end} bytes and it has {size}")

    def _error(self, reason: str) -> WeightsError:
        return WeightsError(f"{self._path}: {reason}")


def looks_like_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a JSON object and that object."""
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(9)
    except OSError:
        return False
    length = int.from_bytes(start[:8], "little")
    return len(start) == 9 and 2 <= length <= min(_MAX_HEADER, size - 8) and start[8:] == b"{"


def _stripped(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
