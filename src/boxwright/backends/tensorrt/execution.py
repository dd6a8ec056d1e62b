"""Running one profile of an engine: a context, its buffers, and graphs of repeated calls."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.backends.tensorrt.allocator import GrowingOutput, make_allocator
from boxwright.errors import BackendUnavailableError, EngineError

if TYPE_CHECKING:
    from boxwright.backends.base import TensorSpec
    from boxwright.backends.tensorrt.loaded import LoadedEngine, Profile
    from boxwright.cuda.memory import DeviceMemory
    from boxwright.cuda.stream import Graph, Stream

_log = logging.getLogger("boxwright")

# Each holds a few hundred kilobytes on the GPU.
_MAX_GRAPHS = 32

Key = tuple[int, tuple[int, ...]]


class Execution:
    """One execution context with its optimization profile.

    Args:
        engine: The engine.
        profile: Of the engine's profiles.
        stream: What everything is queued on.
        graphs: Replay repeated calls as CUDA graphs.
    """

    def __init__(
        self, engine: LoadedEngine, profile: Profile, stream: Stream, graphs: bool
    ) -> None:
        self._engine, self._stream = engine, stream
        self.profile = profile
        self._context = engine.create_context()
        if profile.index:
            self._context.set_optimization_profile_async(profile.index, stream.handle)
            stream.synchronize()
        self._buffers: dict[str, DeviceMemory] = {}
        # TensorRT keeps pointers to the allocators.
        self._allocators: list[Any] = []
        self._graphs: OrderedDict[Key, Graph | None] = OrderedDict()
        self._shapes: dict[int, dict[str, tuple[int, ...]]] = {}
        self._growing: dict[str, GrowingOutput] = {}
        self._growing = self._make_growing()
        # Memory that may move cannot be in a graph.
        self._replay = graphs and not self._growing

    def _make_growing(self) -> dict[str, GrowingOutput]:
        """Outputs whose size only running tells, each with its allocator."""
        growing = {}
        for name, shape in self.output_shapes(self.profile.usual).items():
            if any(extent < 0 for extent in shape):
                growing[name] = GrowingOutput(self._stream)
                allocator = make_allocator(self._engine.library, growing[name])
                self._allocators.append(allocator)
                self._context.set_output_allocator(name, allocator)
        return growing

    def found(self, name: str, count: int) -> tuple[int, tuple[int, ...]]:
        """Where an output of the last run lies, and its shape; valid once it is done."""
        if name in self._growing:
            return self._growing[name].address, self._growing[name].shape
        return self._buffers[name].address, self.output_shapes(count)[name]

    def buffer(self, spec: TensorSpec) -> int:
        """Address of this execution's own memory for a tensor, for the largest batch."""
        if spec.name in self._growing:
            return self._growing[spec.name].address
        held = self._buffers.get(spec.name)
        if held is None:
            shape = (self.profile.most, *(extent or 1 for extent in spec.shape[1:]))
            if spec not in self._engine.inputs:
                shape = self.output_shapes(self.profile.most)[spec.name]
            nbytes = int(np.prod(shape, dtype=np.int64)) * spec.dtype.itemsize
            held = self._buffers[spec.name] = self._stream.allocate(nbytes)
        return held.address

    def output_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs for a batch; -1 where only running tells.

        Raises:
            EngineError: TensorRT refuses the batch.
        """
        known = self._shapes.get(count)
        if known is None:
            self._set_batch(count)
            known = {
                spec.name: tuple(self._context.get_tensor_shape(spec.name))
                for spec in self._engine.outputs
            }
            self._shapes[count] = known
        return known

    def enqueue(self, count: int, addresses: Mapping[str, int]) -> None:
        """Queue the network on `count` rows.

        Args:
            count: Within the profile.
            addresses: Of every input and output on the GPU.

        Raises:
            EngineError: TensorRT fails.
        """
        key = (count, tuple(addresses.values()))
        if not self._replay:
            self._run(count, addresses)
        elif key not in self._graphs:
            # The first time TensorRT may still allocate and set up, which no graph records.
            self._run(count, addresses)
            self._remember(key, None)
        else:
            graph = self._graphs[key] or self._record(key, count, addresses)
            if graph is None:
                self._run(count, addresses)
            else:
                self._graphs.move_to_end(key)
                graph.launch()

    def graph(self, count: int, addresses: Mapping[str, int]) -> Graph | None:
        """The recorded run of such a call, recorded now where it was not."""
        key = (count, tuple(addresses.values()))
        while self._replay and self._graphs.get(key) is None:
            self.enqueue(count, addresses)
        return self._graphs.get(key)

    @property
    def grows(self) -> bool:
        """Whether the size of an output is known only after a run."""
        return bool(self._growing)

    def close(self) -> None:
        """Give back what it holds."""
        # Bindings may hold graphs too: one that nobody holds is freed by itself.
        self._graphs.clear()
        self._context = None
        for buffer in self._buffers.values():
            buffer.close()
        for output in self._growing.values():
            output.close()
        self._buffers.clear()

    def _record(self, key: Key, count: int, addresses: Mapping[str, int]) -> Graph | None:
        try:
            graph = self._stream.capture(lambda: self._run(count, addresses))
        except (BackendUnavailableError, EngineError) as error:
            # Loops and shapes that depend on the data cannot be recorded.
            _log.info("this engine runs without CUDA graphs: %s", error)
            self._replay = False
            return None
        self._remember(key, graph)
        return graph

    def _remember(self, key: Key, graph: Graph | None) -> None:
        self._graphs[key] = graph
        self._graphs.move_to_end(key)
        while len(self._graphs) > _MAX_GRAPHS:
            self._graphs.popitem(last=False)

    def _set_batch(self, count: int) -> None:
        for spec in self._engine.inputs:
            shape = (count, *(extent or 1 for extent in spec.shape[1:]))
            if not self._context.set_input_shape(spec.name, shape):
                raise EngineError(f"TensorRT refuses {spec.name!r} of shape {list(shape)}")
        if self._growing and hasattr(self._context, "infer_shapes"):
            # Without it 8.6 looks for elements in a part of the batch: as many rows as the
            # first run had (seen with NonZero).
            self._context.infer_shapes()

    def _make_room(self, name: str) -> None:
        """Hold what the output may need at most, before TensorRT asks for memory.

        TensorRT 8.6 asks in a second run for the bytes that the first one filled, and then
        writes as many as there are (seen with NonZero). Where the bound is unknown or there
        is not so much memory, what TensorRT asks for has to do.
        """
        most = self._context.get_max_output_size(name)
        if most > 0:
            self._growing[name].reallocate(most)

    def _run(self, count: int, addresses: Mapping[str, int]) -> None:
        self._set_batch(count)
        for name, address in addresses.items():
            if name in self._growing:
                self._make_room(name)
                continue
            if not self._context.set_tensor_address(name, address):
                raise EngineError(f"TensorRT refuses the memory of {name!r}")
        if not self._context.execute_async_v3(self._stream.handle):
            why = "; ".join(self._engine.journal.errors[-2:]) or "it does not say why"
            raise EngineError(f"TensorRT failed: {why}")
