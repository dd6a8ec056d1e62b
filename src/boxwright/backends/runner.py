"""What every runner does the same way: check what it is given, and close once."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.closing import Closing
from boxwright.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from boxwright.backends.base import Tensors, TensorSpec


class CheckedRunner(Closing, abc.ABC):
    """A :class:`~boxwright.backends.base.Runner` but for the running itself.

    Args:
        inputs: What :meth:`infer` takes.
        outputs: What it returns.
    """

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._inputs = inputs
        self._outputs = outputs
        self._closed = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What :meth:`infer` takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What :meth:`infer` returns."""
        return self._outputs

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run once; every output by name.

        Args:
            feed: One array per input. They are only read, and may be views.

        Raises:
            InputError: A tensor is missing, unknown, or of another type or shape, or the
                runner is closed.
        """
        if self._closed:
            raise InputError("this runner is closed; load the engine again")
        return self._run(check_feed(self._inputs, feed))

    def close(self) -> None:
        """Free what the runner holds; harmless when called twice."""
        if not self._closed:
            self._closed = True
            self._free()

    @abc.abstractmethod
    def _run(self, feed: Tensors) -> Tensors:
        """As :meth:`infer`, with a feed that fits and is contiguous."""

    @abc.abstractmethod
    def _free(self) -> None:
        """Called once."""


def check_feed(inputs: tuple[TensorSpec, ...], feed: Mapping[str, NDArray[Any]]) -> Tensors:
    """The feed with every array contiguous.

    Raises:
        InputError: A tensor is missing, unknown, or of another type or shape.
    """
    expected = {spec.name for spec in inputs}
    if set(feed) != expected:
        raise InputError(f"inputs must be {sorted(expected)}, got {sorted(map(str, feed))}")
    return {spec.name: _check_array(spec, feed[spec.name]) for spec in inputs}


def _check_array(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    if not isinstance(array, np.ndarray):
        raise InputError(f"input {spec.name!r} must be a numpy array, got {type(array).__name__}")
    fits = array.ndim == len(spec.shape) and all(
        have > 0 and (want is None or have == want)
        for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if array.dtype != spec.dtype or not fits:
        wanted = ", ".join("any" if extent is None else str(extent) for extent in spec.shape)
        raise InputError(
            f"input {spec.name!r} must be {spec.dtype} of shape [{wanted}], "
            f"got {array.dtype} of shape {list(array.shape)}"
        )
    return np.ascontiguousarray(array)
