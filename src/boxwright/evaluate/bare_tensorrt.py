"""TensorRT without Boxwright, as NVIDIA's samples call it: a peer for `bench`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.closing import Closing
from boxwright.model import IMAGES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.backends.base import Tensors
    from boxwright.card import ModelCard


@dataclass(frozen=True)
class _Call:
    """One batch size: its context, its memory, and its recorded run."""

    context: Any
    graph: Any
    images: NDArray[np.uint8]
    results: Tensors
    keep: tuple[Any, ...]


class BareTensorRt(Closing):
    """One contender of a benchmark (see `boxwright.evaluate.contenders`).

    For each batch size it meets: one execution context, fixed memory on both sides, and one
    CUDA graph of the copy in, ``execute_async_v3`` and the copies out, which is the least
    that can be done. It runs the engine's own plan.

    Args:
        plan: The plan.
        card: The subject's.
        precision: As built.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        device: As in :class:`~boxwright.backends.base.BuildSpec`.

    Raises:
        BackendUnavailableError: There is no GPU or no TensorRT.
        EngineError: TensorRT refuses the plan.
    """

    kind = "bare"
    fixed_batch = None
    threads = None

    def __init__(
        self, plan: bytes, card: ModelCard, precision: str, backend: str, device: str
    ) -> None:
        from boxwright.backends.tensorrt.library import load_library
        from boxwright.backends.tensorrt.loaded import LoadedEngine
        from boxwright.cuda.stream import Stream

        library = load_library(backend)
        self._stream = Stream(device)
        self._engine = LoadedEngine(library, plan, gpu_name=self._stream.gpu.name)
        self._calls: dict[int, _Call] = {}
        self.name, self.backend = "bare TensorRT", f"{backend} {library.version}"
        self.card, self.precision = card, precision

    def network(self, batch: NDArray[np.uint8]) -> Any:
        """See :class:`~boxwright.evaluate.contenders.Contender`."""
        self._stream.use()
        call = self._calls.get(len(batch))
        if call is None:
            call = self._calls[len(batch)] = self._prepare(batch.shape)
        call.images[:] = batch
        call.graph.launch()
        self._stream.synchronize()
        return call.results

    def run(self, batch: NDArray[np.uint8]) -> Any:
        """A call that runs the network alone, on `batch`, from and to GPU memory."""
        self._stream.use()
        call = self._prepare(batch.shape, copies=False, fill=batch)

        def launch() -> None:
            call.graph.launch()
            self._stream.synchronize()

        return launch

    def tensors(self, raw: Any) -> Tensors:
        """Copies: what the network gave is overwritten by its next run."""
        return {name: array.copy() for name, array in raw.items()}

    def close(self) -> None:
        """Let the contexts and their memory go."""
        self._calls.clear()
        self._stream.close()

    def _prepare(
        self, shape: tuple[int, ...], *, copies: bool = True, fill: NDArray[np.uint8] | None = None
    ) -> _Call:
        stream, context = self._stream, self._engine.create_context()
        self._choose_profile(context, shape[0])
        context.set_input_shape(IMAGES, shape)
        images = stream.pinned(shape, np.dtype(np.uint8))
        source = stream.allocate(images.nbytes)
        context.set_tensor_address(IMAGES, source.address)
        memory, results = [source], {}
        for spec in self._engine.outputs:
            array = stream.pinned(tuple(context.get_tensor_shape(spec.name)), spec.dtype)
            place = stream.allocate(array.nbytes)
            context.set_tensor_address(spec.name, place.address)
            memory.append(place)
            results[spec.name] = array
        if fill is not None:
            images[:] = fill
            stream.upload(source.address, images)

        def work() -> None:
            if copies:
                stream.upload(source.address, images)
            context.execute_async_v3(stream.handle)
            for array, place in zip(results.values(), memory[1:], strict=True):
                if copies:
                    stream.download(array, place.address)

        work()
        stream.synchronize()
        return _Call(context, stream.capture(work), images, results, tuple(memory))

    def _choose_profile(self, context: Any, count: int) -> None:
        from boxwright.backends.tensorrt.loaded import split_batch
        from boxwright.errors import InputError

        (piece, *more) = split_batch(count, self._engine.profiles)
        if more or piece.padded != count:
            raise InputError(f"bare TensorRT cannot run a batch of {count} with this plan at once")
        if piece.profile.index:
            context.set_optimization_profile_async(piece.profile.index, self._stream.handle)
            self._stream.synchronize()
