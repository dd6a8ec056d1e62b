"""Memory on the GPU, and page-locked memory on the host."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Page-locked memory takes milliseconds to get, and cannot be swapped out: what is not in
# use is kept for the next batch up to this many bytes.
_KEEP_BYTES = 256 * 2**20

# Somebody who collects results must not lock the machine's memory away: beyond this,
# arrays are ordinary ones, whose copies are slower.
_MOST_BYTES = 2**30


class DeviceMemory:
    """Memory on the GPU, given back by :meth:`close` or with the object.

    Attributes:
        address: Where it begins.
        nbytes: How much was asked for.
    """

    def __init__(self, buffer: Any, address: int, nbytes: int) -> None:
        self.buffer = buffer
        self.address = address
        self.nbytes = nbytes

    def close(self) -> None:
        """Give it back; harmless when called twice."""
        self.buffer.close()


class PinnedPool:
    """Arrays in page-locked memory, which is used again when they are gone.

    Args:
        resource: ``cuda.core.LegacyPinnedMemoryResource``, or another that allocates
            buffers with a `handle`.
    """

    def __init__(self, resource: Any) -> None:
        self._resource = resource
        # The garbage collector may give an array back while one is being handed out, in the
        # same thread: that must not wait for itself.
        self._lock = threading.RLock()
        self._free: defaultdict[int, list[Any]] = defaultdict(list)
        self._kept = 0
        self._lent = 0

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array of page-locked memory; its content is whatever was there.

        Where very much is in use already, or the system locks no more, it is an ordinary
        array.
        """
        nbytes = max(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, 1)
        # Powers of two, so that a batch of 7 uses what a batch of 8 has left.
        size = 1 << (nbytes - 1).bit_length()
        with self._lock:
            if self._lent + size > _MOST_BYTES:
                return np.empty(shape, dtype)
            self._lent += size
            buffer = self._free[size].pop() if self._free[size] else None
            if buffer is not None:
                self._kept -= size
        if buffer is None:
            try:
                buffer = self._resource.allocate(size)
            except Exception:  # cuda-core's CUDAError is not public
                with self._lock:
                    self._lent -= size
                return np.empty(shape, dtype)
        return np.asarray(_Lease(self, buffer, size, shape, dtype))

    def holds(self, array: NDArray[Any]) -> bool:
        """Whether an array lies within memory of this pool."""
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        return isinstance(base, _Lease) and base.pool is self

    def give_back(self, buffer: Any, size: int) -> None:
        """Keep a buffer for the next array, or free it where enough are kept."""
        with self._lock:
            self._lent -= size
            keep = self._kept + size <= _KEEP_BYTES
            if keep:
                self._free[size].append(buffer)
                self._kept += size
        if not keep:
            buffer.close()


class _Lease:
    """Lends one buffer to the arrays made of it; numpy keeps it as their base."""

    def __init__(
        self, pool: PinnedPool, buffer: Any, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self.pool = pool
        self._buffer = buffer
        self._size = size
        self.__array_interface__ = {
            "version": 3,
            "data": (int(buffer.handle), False),
            "shape": shape,
            "typestr": dtype.str,
        }

    def __del__(self) -> None:
        self.pool.give_back(self._buffer, self._size)
