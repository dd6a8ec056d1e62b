"""Running TensorRT engines, from and to the host or the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.backends.base import TensorSpec
from boxwright.backends.runner import CheckedRunner
from boxwright.backends.tensorrt.execution import Execution
from boxwright.backends.tensorrt.loaded import LoadedEngine, Piece, Profile, split_batch
from boxwright.errors import BackendUnavailableError, EngineError, InputError
from boxwright.extras import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.backends.base import Tensors
    from boxwright.cuda.stream import Stream


class TensorRtRunner(CheckedRunner):
    """An engine with a stream and execution contexts of its own.

    Batches larger than the engine's largest are run in pieces, smaller ones than its
    smallest are padded: any batch runs. Use :meth:`sibling` for more runners on one engine,
    which then work at the same time from several threads.

    Args:
        engine: The engine, which several runners may share.
        stream: Closed with the runner.
        graphs: Replay repeated calls as CUDA graphs.
    """

    def __init__(self, engine: LoadedEngine, stream: Stream, graphs: bool = True) -> None:
        super().__init__(engine.inputs, engine.outputs)
        self._engine, self._stream, self._graphs = engine, stream, graphs
        self._executions: dict[int, Execution] = {}

    @property
    def stream(self) -> int:
        """The CUDA stream everything is queued on, as an address for other libraries."""
        return self._stream.handle

    def sibling(self) -> TensorRtRunner:
        """Another runner on the same engine in memory, with its own stream and contexts."""
        stream = type(self._stream)(f"cuda:{self._stream.gpu.index}")
        return TensorRtRunner(self._engine, stream, self._graphs)

    def empty_input(self, count: int) -> NDArray[Any]:
        """An array to be filled with `count` images: :meth:`infer` takes it without a copy.

        It lies in page-locked memory, which the GPU reads by itself.
        """
        spec = self.inputs[0]
        return self._stream.pinned((count, *(extent or 1 for extent in spec.shape[1:])), spec.dtype)

    def bind(self, feed: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> Binding:
        """Fix the arrays of a call once, for running it many times at no cost in Python.

        Args:
            feed: One array in GPU memory per input, by DLPack or
                ``__cuda_array_interface__``: what they hold when it runs counts.
            outputs: Likewise for the outputs; by default the runner's own memory, which is
                overwritten by every later call.

        Raises:
            InputError: An array is missing, of another type or shape, not in this GPU's
                memory, or the batch is not one that the engine takes at once.
        """
        self._must_be_open()
        return Binding(self, feed, outputs or {})

    def infer_device(
        self, feed: Mapping[str, Any], outputs: Mapping[str, Any] | None = None, wait: bool = True
    ) -> dict[str, Any]:
        """Run on arrays in GPU memory; the outputs stay there.

        Args:
            feed: As for :meth:`bind`.
            outputs: As for :meth:`bind`.
            wait: Return when the outputs are there. Otherwise order your work after
                :attr:`stream`, or call :meth:`synchronize`.

        Returns:
            By name, arrays with ``__dlpack__``. Where `outputs` names none they are
            overwritten by the next call.

        Raises:
            InputError: As for :meth:`bind`.
        """
        self._must_be_open()
        # Arrays that come once are not worth recording; the second time they are recorded.
        binding = Binding(self, feed, outputs or {}, record=False)
        binding.run()
        if wait:
            self.synchronize()
        return binding.outputs

    def synchronize(self) -> None:
        """Return when everything asked for is done.

        Raises:
            EngineError: A step failed on the GPU.
            InputError: The runner is closed.
        """
        self._must_be_open()
        try:
            self._stream.synchronize()
        except BackendUnavailableError as error:
            raise EngineError(f"TensorRT failed: {error}") from error

    def _run(self, feed: Tensors) -> Tensors:
        self._stream.use()
        count = len(feed[self.inputs[0].name])
        pieces = split_batch(count, self._engine.profiles)
        results = [self._run_piece(feed, piece) for piece in pieces]
        if len(results) == 1:
            return results[0]
        return {name: np.concatenate([part[name] for part in results]) for name in results[0]}

    def _run_piece(self, feed: Tensors, piece: Piece) -> Tensors:
        execution = self._execution(piece.profile)
        addresses = {spec.name: execution.buffer(spec) for spec in (*self.inputs, *self.outputs)}
        staged = [self._stage(feed[spec.name], piece) for spec in self.inputs]
        for spec, array in zip(self.inputs, staged, strict=True):
            self._stream.upload(addresses[spec.name], array)
        execution.enqueue(piece.padded, addresses)
        if execution.grows:
            self.synchronize()
        results = {}
        for spec in self.outputs:
            address, shape = execution.found(spec.name, piece.padded)
            results[spec.name] = self._stream.pinned(shape, spec.dtype)
            self._stream.download(results[spec.name], address)
        self.synchronize()
        if piece.padded == piece.count:
            return results
        return {name: array[: piece.count] for name, array in results.items()}

    def _stage(self, array: NDArray[Any], piece: Piece) -> NDArray[Any]:
        """The piece's rows in page-locked memory; padding repeats the first row."""
        rows = array[piece.start : piece.start + piece.count]
        if piece.padded == piece.count and self._stream.is_pinned(rows):
            return rows
        staged = self._stream.pinned((piece.padded, *array.shape[1:]), array.dtype)
        staged[: piece.count] = rows
        staged[piece.count :] = rows[:1]
        return staged

    def _execution(self, profile: Profile) -> Execution:
        """The context of a profile, made when it is first used."""
        found = self._executions.get(profile.index)
        if found is None:
            found = Execution(self._engine, profile, self._stream, self._graphs)
            self._executions[profile.index] = found
        return found

    def _must_be_open(self) -> None:
        if self._closed:
            raise InputError("this runner is closed; load the engine again")
        self._stream.use()

    def _free(self) -> None:
        self._stream.use()
        self._engine.keep_kernels()
        for execution in self._executions.values():
            execution.close()
        self._executions.clear()
        self._stream.close()


class Binding:
    """A call with its arrays fixed. Make one with :meth:`TensorRtRunner.bind`.

    Making one runs the network on what the arrays hold at that time, to record it.

    Attributes:
        outputs: Arrays with ``__dlpack__``, by name.
    """

    def __init__(
        self,
        runner: TensorRtRunner,
        feed: Mapping[str, Any],
        outputs: Mapping[str, Any],
        record: bool = True,
    ) -> None:
        self._runner = runner
        stream = runner._stream
        _check_names("inputs", feed, runner.inputs)
        _check_names("outputs", outputs, runner.outputs, all_of_them=False)
        views = {name: stream.view(array) for name, array in feed.items()}
        first = views[runner.inputs[0].name]
        self.count = first.shape[0] if first.shape else 0
        for spec in runner.inputs:
            _check_view(spec, views[spec.name], (self.count, *spec.shape[1:]))
        (piece, *more) = split_batch(self.count, runner._engine.profiles) if self.count else (None,)
        if piece is None or more or piece.padded != self.count:
            taken = ", ".join(f"{p.least} to {p.most}" for p in runner._engine.profiles)
            raise InputError(
                f"arrays in GPU memory are run at once: the batch must be {taken}, got {self.count}"
            )
        self._execution = runner._execution(piece.profile)
        if self._execution.grows:
            raise InputError("this engine's outputs have no fixed size: use infer")
        self._addresses = {spec.name: views[spec.name].address for spec in runner.inputs}
        self.outputs: dict[str, Any] = {}
        shapes = self._execution.output_shapes(self.count)
        for spec in runner.outputs:
            if spec.name in outputs:
                view = views[spec.name] = stream.view(outputs[spec.name])
                _check_view(spec, view, shapes[spec.name])
                self._addresses[spec.name] = view.address
                self.outputs[spec.name] = outputs[spec.name]
            else:
                address = self._execution.buffer(spec)
                self._addresses[spec.name] = address
                self.outputs[spec.name] = _lend(self, address, shapes[spec.name], spec.dtype)
        # The arrays must live as long as the binding.
        self._views = views
        self._graph = self._execution.graph(self.count, self._addresses) if record else None

    def run(self) -> None:
        """Queue the network; :meth:`TensorRtRunner.synchronize` waits for it.

        Raises:
            InputError: The runner is closed, and its memory is no longer its own.
        """
        self._runner._must_be_open()
        if self._graph is not None:
            self._graph.launch()
        else:
            self._execution.enqueue(self.count, self._addresses)


def _check_names(
    what: str, given: Mapping[str, Any], specs: tuple[TensorSpec, ...], all_of_them: bool = True
) -> None:
    expected = {spec.name for spec in specs}
    if not set(given) <= expected or (all_of_them and set(given) != expected):
        raise InputError(f"{what} must be {sorted(expected)}, got {sorted(map(str, given))}")


def _check_view(spec: TensorSpec, view: Any, shape: tuple[int | None, ...]) -> None:
    if view.dtype != spec.dtype or view.shape != shape:
        raise InputError(
            f"{spec.name!r} must be {spec.dtype} of shape {list(shape)}, "
            f"got {view.dtype} of shape {list(view.shape)}"
        )


def _lend(owner: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """An array with ``__dlpack__`` on the runner's own memory."""
    core = require("cuda.core", extra="tensorrt")
    utils = require("cuda.core.utils", extra="tensorrt")
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = core.Buffer.from_handle(address, nbytes, owner=owner)
    return utils.StridedMemoryView.from_buffer(buffer, shape, dtype=dtype)
