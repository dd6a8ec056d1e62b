"""How far training got, as a file: numbers and text in an ``.npz``, written as a whole.

What it belongs to is told by a key, so that a file of another model, of other images or of
other settings is never gone on with.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.errors import InputError
from boxwright.evaluate.npz import begins_with, read_npz, write_npz
from boxwright.files import human_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_log = logging.getLogger("boxwright")

FORMAT = 1
_HEADER = "boxwright_finetuning"
_VECTORS = ("distances", "first", "second", "best")
# Of the header, and of what says how large each array is.
_MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A training after some steps.

    Attributes:
        key: Tells what is trained, on what and how.
        step: Steps done.
        errors: Judged so far: steps done, and the error then.
        distances: Of all parameters from where they began, one behind the other.
        first: Adam's mean of their gradients.
        second: Adam's mean of the squares of these.
        best: The distances that were judged best.
    """

    key: str
    step: int
    errors: tuple[tuple[int, float], ...]
    distances: Floats
    first: Floats
    second: Floats
    best: Floats

    def save(self, path: Path) -> None:
        """Write it in place of what was there.

        Raises:
            InputError: It cannot be written.
        """
        header = {"format": FORMAT, "key": self.key, "step": self.step, "errors": self.errors}
        text = json.dumps(header, sort_keys=True).encode()
        arrays: dict[str, NDArray[Any]] = {_HEADER: np.frombuffer(text, np.uint8)}
        arrays.update((name, getattr(self, name)) for name in _VECTORS)
        write_npz(path, arrays)


def load_checkpoint(path: Path, key: str, size: int, steps: int) -> Checkpoint | None:
    """What a file holds of this training.

    Args:
        path: The file; it need not be there.
        key: What the checkpoint must belong to.
        size: How many numbers are trained.
        steps: How many steps there are in all.

    Returns:
        ``None`` where nothing is there, or something of another training, or it is damaged;
        then training starts again, and the log says why.

    Raises:
        InputError: The file is not one of ours, so it will not be replaced.
    """
    if not path.exists():
        return None
    if not begins_with(path, _HEADER):
        raise InputError(
            f"{path} is to keep a training ({human_size(path.stat().st_size)} of something else "
            "are there): name another folder with --work, or delete it"
        )
    try:
        wanted = len(_VECTORS) * size * np.dtype(np.float32).itemsize
        arrays = read_npz(path, wanted + _MAX_HEADER_BYTES)
        header = json.loads(arrays[_HEADER].tobytes())
        if header["format"] != FORMAT or header["key"] != key:
            _log.info("%s is of another training; it starts again", path)
            return None
        vectors = {name: _vector(arrays[name], size) for name in _VECTORS}
        errors = tuple((int(step), float(error)) for step, error in header["errors"])
        step = int(header["step"])
        known = errors and all(math.isfinite(error) for _, error in errors)
        if not known or not 0 <= errors[-1][0] <= step <= steps:
            raise ValueError("it does not say how far it got")
        return Checkpoint(key, step, errors, **vectors)
    except (
        *(InputError, KeyError, ValueError, TypeError),
        *(OverflowError, RecursionError),
    ) as error:
        _log.warning("%s is damaged (%s); training starts again", path, error)
        return None


def _vector(values: NDArray[Any], size: int) -> Floats:
    if values.dtype != np.float32 or values.shape != (size,) or not np.isfinite(values).all():
        raise ValueError(f"{size} finite numbers were expected, got shape {list(values.shape)}")
    return values
