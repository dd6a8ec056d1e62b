"""A GPU that is the host: streams, memory, engines and contexts computed with numpy.

Memory is real, with real addresses, so that whatever is read from a wrong or freed place
gives wrong numbers. Work is done when it is queued, or recorded while a graph is captured.
"""

from __future__ import annotations

import ctypes
import itertools
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.backends.tensorrt.library import Library
from boxwright.backends.tensorrt.loaded import LoadedEngine
from boxwright.cuda.memory import DeviceMemory, PinnedPool
from boxwright.cuda.stream import DeviceArray
from boxwright.errors import BackendUnavailableError, InputError
from tests.backends.tensorrt.modules import DataType, make_trt

IMAGE = (4, 6, 3)
"""Height, width and channels of an input image."""

_STREAMS: dict[int, HostStream] = {}
_HANDLES = itertools.count(1000)


def at(address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """The array at an address."""
    assert address, "there is no memory at 0"
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = (ctypes.c_ubyte * nbytes).from_address(address)
    return np.frombuffer(buffer, dtype).reshape(shape)


class HostBuffer:
    """Freed memory is filled with nonsense, so that using it shows."""

    def __init__(self, nbytes: int) -> None:
        self._array = np.full(max(nbytes, 1), 0xA5, np.uint8)
        self.handle = self._array.ctypes.data
        self.closed = 0

    def close(self) -> None:
        self.closed += 1
        self._array[:] = 0x5A


class HostPinned:
    """Page-locked memory's resource; `fails` lets it run out."""

    def __init__(self) -> None:
        self.buffers: list[HostBuffer] = []
        self.fails = False

    def allocate(self, nbytes: int) -> HostBuffer:
        if self.fails:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
        self.buffers.append(HostBuffer(nbytes))
        return self.buffers[-1]


class HostGraph:
    def __init__(self, work: list[Callable[[], None]], stream: HostStream) -> None:
        self._work, self._stream = work, stream

    def launch(self) -> None:
        assert not self._stream.closed
        self._stream.launches += 1
        for step in self._work:
            step()


class HostStream:
    """As :class:`boxwright.cuda.stream.Stream`, counting what is done."""

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self.gpu = SimpleNamespace(index=int(device.partition(":")[2] or 0), name="Host")
        self.handle = next(_HANDLES)
        _STREAMS[self.handle] = self
        self.resource = HostPinned()
        self._pinned = PinnedPool(self.resource)
        self.memory: list[DeviceMemory] = []
        self.recording: list[Callable[[], None]] | None = None
        self.closed = False
        self.uses = self.launches = self.captures = self.synchronized = 0
        self.broken = ""
        self.capture_fails = ""

    def use(self) -> None:
        self.uses += 1

    def allocate(self, nbytes: int) -> DeviceMemory:
        assert not self.closed
        if nbytes > 2**24:
            raise BackendUnavailableError("there is not so much")
        buffer = HostBuffer(nbytes)
        self.memory.append(DeviceMemory(buffer, buffer.handle, nbytes))
        return self.memory[-1]

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        return self._pinned.array(shape, dtype)

    def is_pinned(self, array: NDArray[Any]) -> bool:
        return self._pinned.holds(array)

    def upload(self, target: int, source: NDArray[Any]) -> None:
        assert source.flags.c_contiguous
        ctypes.memmove(target, source.ctypes.data, source.nbytes)

    def download(self, target: NDArray[Any], source: int) -> None:
        assert target.flags.c_contiguous
        ctypes.memmove(target.ctypes.data, source, target.nbytes)

    def synchronize(self) -> None:
        assert not self.closed
        self.synchronized += 1
        if self.broken:
            raise BackendUnavailableError(self.broken)

    def capture(self, work: Callable[[], None]) -> HostGraph:
        self.captures += 1
        if self.capture_fails:
            raise BackendUnavailableError(self.capture_fails)
        recorded: list[Callable[[], None]] = []
        self.recording = recorded
        try:
            work()
        finally:
            self.recording = None
        return HostGraph(recorded, self)

    def do(self, step: Callable[[], None]) -> None:
        """Now, or whenever the graph is launched."""
        if self.recording is None:
            step()
        else:
            self.recording.append(step)

    def view(self, value: Any) -> DeviceArray:
        if not isinstance(value, DeviceArray):
            raise InputError(f"expected an array in GPU memory, got {type(value).__name__}")
        return value

    def put(self, array: NDArray[Any]) -> DeviceArray:
        """An array of somebody else's in GPU memory."""
        memory = self.allocate(array.nbytes)
        self.upload(memory.address, np.ascontiguousarray(array))
        return DeviceArray(memory.address, array.dtype, array.shape, memory)

    def get(self, array: DeviceArray) -> NDArray[Any]:
        return at(array.address, array.shape, array.dtype).copy()

    def close(self) -> None:
        self.closed = True


def compute(images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """The network: two boxes of each image, and their scores of three classes."""
    pixels = images.reshape(len(images), -1).astype(np.float32)
    boxes = np.stack([pixels[:, :4], pixels[:, 4:8] * 2 + 1], axis=1)
    scores = np.stack([pixels[:, -3:] / 255, pixels[:, :3] / 512], axis=1)
    return {"boxes": boxes, "scores": scores}


def places(images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Where pixels are white: as many columns as there are."""
    return np.stack(np.nonzero(images.reshape(len(images), -1) == 255)).astype(np.int32)


class HostContext:
    """An ``IExecutionContext``."""

    def __init__(self, engine: HostEngine) -> None:
        self.engine = engine
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.filled: dict[str, int] = {}
        self.inferred: tuple[int, ...] = ()
        self.ran: list[tuple[int, int]] = []

    def set_optimization_profile_async(self, index: int, handle: int) -> bool:
        assert handle in _STREAMS
        self.profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.profiles[self.profile]
        if not least <= shape[0] <= most or shape[1:] != IMAGE:
            return False
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        count = self.shapes["images"][0]
        return {"boxes": (count, 2, 4), "scores": (count, 2, 3), "places": (2, -1)}[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name in self.engine.refused:
            return False
        self.addresses[name] = address
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        self.allocators[name] = allocator
        return True

    def infer_shapes(self) -> list[str]:
        self.inferred = self.shapes["images"]
        return []

    def get_max_output_size(self, name: str) -> int:
        """Every pixel may be white."""
        return 2 * int(np.prod(self.shapes["images"])) * 4

    def execute_async_v3(self, handle: int) -> bool:
        self.engine.executions += 1
        if self.engine.executions in self.engine.failing:
            self.engine.log("ERROR", f"execution {self.engine.executions} failed")
            return False
        shape, addresses = self.shapes["images"], dict(self.addresses)
        _STREAMS[handle].do(lambda: self._work(shape, addresses))
        return True

    def _work(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        self.engine.ran.append((self.profile, shape[0]))
        images = at(addresses["images"], shape, np.uint8)
        for name, array in compute(images).items():
            at(addresses[name], array.shape, np.float32)[...] = array
        for name, allocator in self.allocators.items():
            # 8.6 looks at what it last inferred shapes for.
            self.inferred = self.inferred or shape
            found = places(images[: self.inferred[0]])
            # As 8.6 does: the size is that of the run before.
            asked = self.filled.get(name, self.get_max_output_size(name))
            address = allocator.reallocate_output(name, 0, asked, 256)
            allocator.notify_shape(name, found.shape)
            self.filled[name] = found.nbytes
            if found.size:
                at(address, found.shape, np.int32)[...] = found


class HostEngine:
    """An ``ICudaEngine``; its plan is JSON: profiles, and whether an output grows."""

    def __init__(self, plan: bytes, log: Callable[[str, str], None]) -> None:
        content = json.loads(plan)
        self.profiles: list[tuple[int, int, int]] = [tuple(p) for p in content["profiles"]]
        self.fixed = content.get("fixed")
        self.names = ["images", "boxes", "scores"] + ["places"] * content.get("grows", False)
        self.log = log
        self.refused: set[str] = set()
        self.failing: set[int] = set()
        self.ran: list[tuple[int, int]] = []
        self.executions = 0
        self.contexts = 0
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = make_trt("8.6.1").TensorIOMode
        return modes.INPUT if name == "images" else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        count = self.fixed or -1
        return {
            "images": (count, *IMAGE),
            "boxes": (count, 2, 4),
            "scores": (count, 2, 3),
            "places": (2, -1),
        }[name]

    def get_tensor_dtype(self, name: str) -> DataType:
        types = {"images": DataType.UINT8, "places": DataType.INT32}
        return types.get(name, DataType.FLOAT)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(count, *IMAGE) for count in self.profiles[index]]

    def create_execution_context(self) -> HostContext | None:
        self.contexts += 1
        if "context" in self.refused:
            self.log("ERROR", "no memory for a context")
            return None
        return HostContext(self)


def host_library() -> Library:
    """TensorRT 8.6 that loads such plans."""
    trt = make_trt("8.6.1")
    trt.TensorIOMode = make_trt("8.6.1").TensorIOMode

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> HostEngine | None:
            def log(severity: str, message: str) -> None:
                self._logger.log(trt.ILogger.Severity[severity], message)

            try:
                return HostEngine(plan, log)
            except ValueError:
                log("ERROR", "1: [stdArchiveReader.cpp::read::32] magicTag mismatch")
                return None

    trt.Runtime = Runtime
    return Library(trt, "tensorrt", "8.6.1")


def load_host_engine(*profiles: tuple[int, int, int], **facts: Any) -> LoadedEngine:
    """An engine of these batches; `fixed` and `grows` as in its plan."""
    plan = json.dumps({"profiles": profiles or ((1, 2, 4),), **facts}).encode()
    return LoadedEngine(host_library(), plan)


def make_pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random images; every tenth pixel or so is white."""
    images = np.random.default_rng(seed).integers(0, 280, (count, *IMAGE))
    return np.minimum(images, 255).astype(np.uint8)
