"""Memory for outputs whose size only running tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwright.backends.tensorrt.library import Library
    from boxwright.cuda.memory import DeviceMemory
    from boxwright.cuda.stream import Stream


class GrowingOutput:
    """Memory that grows when TensorRT asks for more, and the shape it then reports."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._memory: DeviceMemory | None = None
        self._old: list[DeviceMemory] = []
        self.shape: tuple[int, ...] = ()

    @property
    def address(self) -> int:
        """Where the output lies; 0 before the first run."""
        return 0 if self._memory is None else self._memory.address

    def reallocate(self, nbytes: int) -> int:
        """The address of at least so many bytes, or 0 where there are not so many."""
        if self._memory is None or self._memory.nbytes < nbytes:
            # Queued work may still use the old memory: it goes when the output does.
            if self._memory is not None:
                self._old.append(self._memory)
            try:
                self._memory = self._stream.allocate(nbytes)
            except Exception:
                self._memory = None
        return self.address

    def close(self) -> None:
        """Give the memory back."""
        for memory in (*self._old, *([self._memory] if self._memory else [])):
            memory.close()
        self._old.clear()
        self._memory = None


def make_allocator(library: Library, output: GrowingOutput) -> Any:
    """TensorRT's allocator for `output`, for the old way of calling it and the new."""
    interface: Any = library.trt.IOutputAllocator

    class Allocator(interface):  # type: ignore[misc]  # the module is known at run time
        def __init__(self) -> None:
            interface.__init__(self)

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return output.reallocate(size)

        def reallocate_output_async(
            self, name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            return output.reallocate(size)

        def notify_shape(self, name: str, shape: Any) -> None:
            output.shape = tuple(shape)

    return Allocator()
