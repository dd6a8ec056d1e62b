"""One GPU, one stream on it, and what is done in its order: copies, launches, graphs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.cuda.device import EXTRA, checked, driver_api, find_gpu
from boxwright.cuda.memory import DeviceMemory, PinnedPool
from boxwright.errors import BackendUnavailableError, InputError
from boxwright.extras import require

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class DeviceArray:
    """A dense array in GPU memory that somebody else owns.

    Attributes:
        address: Of its first element.
        dtype: Of its elements.
        shape: Its extents.
        owner: Kept so that the memory stays.
    """

    address: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    owner: Any

    @property
    def nbytes(self) -> int:
        """Bytes it occupies."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Stream:
    """A stream of its own on one GPU. Close it when done.

    Work is queued in the order of the calls; :meth:`synchronize` waits for it. All methods
    may be called from any thread, by one thread at a time.

    Args:
        device: ``auto``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: The device's name means no GPU.
        BackendUnavailableError: There is no such GPU, or no working driver.
        MissingExtraError: NVIDIA's Python bindings are not installed.
    """

    def __init__(self, device: str = "auto") -> None:
        self.gpu = find_gpu(device)
        self._driver = driver_api()
        core = require("cuda.core", extra=EXTRA)
        self._device = core.Device(self.gpu.index)
        self._ready = threading.local()
        self.use()
        self._stream = self._device.create_stream(options=core.StreamOptions(nonblocking=True))
        self.handle = int(self._stream.handle)
        self._pinned = PinnedPool(core.LegacyPinnedMemoryResource())

    def use(self) -> None:
        """Make the GPU current in the calling thread; free of cost when it is already."""
        if not getattr(self._ready, "done", False):
            self._device.set_current()
            self._ready.done = True

    def allocate(self, nbytes: int) -> DeviceMemory:
        """Memory on the GPU.

        Raises:
            BackendUnavailableError: There is not enough.
        """
        try:
            buffer = self._device.allocate(max(nbytes, 1), stream=self._stream)
            # The pool orders memory by stream: make it everybody's before it is handed out.
            self._stream.sync()
        except Exception as error:  # cuda-core's CUDAError is not public
            raise BackendUnavailableError(
                f"{self.gpu.name} cannot give {nbytes / 2**20:.0f} MiB: {error}"
            ) from error
        return DeviceMemory(buffer, int(buffer.handle), nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array in page-locked memory, which crosses the bus without a copy in between.

        Its memory goes back to a pool when the last array on it is gone.
        """
        return self._pinned.array(shape, dtype)

    def is_pinned(self, array: NDArray[Any]) -> bool:
        """Whether an array lies in memory that :meth:`pinned` gave."""
        return self._pinned.holds(array)

    def upload(self, target: int, source: NDArray[Any]) -> None:
        """Queue a copy from the host; `source` must be contiguous and stay as it is."""
        address = source.ctypes.data
        checked(self._driver.cuMemcpyHtoDAsync(target, address, source.nbytes, self.handle))

    def download(self, target: NDArray[Any], source: int) -> None:
        """Queue a copy to the host."""
        address = target.ctypes.data
        checked(self._driver.cuMemcpyDtoHAsync(address, source, target.nbytes, self.handle))

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy within the GPU."""
        checked(self._driver.cuMemcpyDtoDAsync(target, source, nbytes, self.handle))

    def synchronize(self) -> None:
        """Return when all that was queued is done.

        Raises:
            BackendUnavailableError: A queued step failed.
        """
        checked(self._driver.cuStreamSynchronize(self.handle))

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what `work` queues, without running it.

        Raises:
            BackendUnavailableError: Something in it cannot be recorded.
        """
        builder = self._stream.create_graph_builder()
        try:
            # Other threads may allocate meanwhile, which a stricter mode would forbid them.
            builder.begin_building(mode="relaxed")
            try:
                work()
            finally:
                with contextlib.suppress(Exception):
                    builder.end_building()
            graph = builder.complete()
        except BackendUnavailableError:
            raise
        except Exception as error:
            raise BackendUnavailableError(f"a CUDA graph cannot be recorded: {error}") from error
        return Graph(graph, self._stream)

    def view(self, value: Any) -> DeviceArray:
        """An array of any library, by DLPack or ``__cuda_array_interface__``.

        The stream waits for whatever its producer has queued.

        Raises:
            InputError: It is none, lies on the host or on another GPU, or has gaps.
        """
        if isinstance(value, DeviceArray):
            return value
        utils = require("cuda.core.utils", extra=EXTRA)
        try:
            found = utils.StridedMemoryView.from_any_interface(value, stream_ptr=self.handle)
        except Exception as error:
            raise InputError(
                "expected an array in GPU memory (with __dlpack__ or "
                f"__cuda_array_interface__), got {type(value).__name__}: {error}"
            ) from error
        if not found.is_device_accessible or found.device_id != self.gpu.index:
            where = f"on GPU {found.device_id}" if found.is_device_accessible else "on the host"
            raise InputError(f"expected an array on GPU {self.gpu.index}, got one {where}")
        shape, dtype = tuple(found.shape), np.dtype(found.dtype)
        if found.strides is not None and not _is_dense(shape, tuple(found.strides)):
            raise InputError("expected a contiguous array in GPU memory, got one with gaps")
        return DeviceArray(int(found.ptr), dtype, shape, (value, found))

    def close(self) -> None:
        """Give back what the stream holds; harmless when called twice."""
        if not self._stream.is_closed:
            self.use()
            # A failure on the GPU was, or is, told by the call that waits for results.
            with contextlib.suppress(BackendUnavailableError):
                self.synchronize()
            self._stream.close()


class Graph:
    """Recorded work that runs again with one call."""

    def __init__(self, graph: Any, stream: Any) -> None:
        self._graph = graph
        self._stream = stream

    def launch(self) -> None:
        """Queue it."""
        self._graph.launch(self._stream)


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether strides in elements are those of a C-ordered array.

    Where an extent is 1 its stride leads nowhere, and older PyTorch writes 1 there.
    """
    if 0 in shape:
        return True
    wanted = 1
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent != 1 and stride != wanted:
            return False
        wanted *= extent
    return True
