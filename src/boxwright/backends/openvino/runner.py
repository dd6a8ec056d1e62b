"""Running compiled models: a batch of any size by models of fixed batch sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.backends.base import TensorSpec
from boxwright.backends.openvino.runtime import import_openvino, plain_message
from boxwright.backends.runner import CheckedRunner
from boxwright.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from boxwright.backends.base import Tensors

# More requests than this wait for each other on any processor.
_MAX_REQUESTS = 64


def portions(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """How `count` images are spread over models of fixed batch sizes, largest first.

    Args:
        count: How many images there are.
        sizes: The models' batch sizes, ascending.

    Yields:
        First image, how many images, and the batch size of the model that takes them. Only
        the last may be larger than what is left for it.
    """
    first = 0
    while first < count:
        left = count - first
        size = max((n for n in sizes if n <= left), default=sizes[0])
        yield first, min(size, left), size
        first += size


class OpenVinoRunner(CheckedRunner):
    """Compiled models of one network behind the common runner.

    Images are read where they are, and results written where they are handed out: nothing
    is copied but what OpenVINO itself rearranges. Where a batch takes several runs and
    there are several streams, the runs go on at the same time.

    Args:
        models: A compiled model for each batch size.
        names: The outputs' names, in the graph's order.
        fixed: Whether the graph itself takes one batch size only.

    Raises:
        EngineError: The compiled models do not fit their names or each other, or an output's
            shape depends on more than the batch size.
    """

    def __init__(self, models: Mapping[int, Any], names: Sequence[str], fixed: bool) -> None:
        self._sizes = sorted(models)
        self._names, self._fixed = tuple(names), fixed
        self._models: dict[int, Any] = dict(models)
        shapes = []
        for batch, model in self._models.items():
            try:
                shapes.append(_specs(model, names, batch))
            except (RuntimeError, ValueError) as error:  # ValueError: names that are no text
                raise EngineError(
                    f"OpenVINO's compiled model is damaged: {plain_message(error)}"
                ) from error
        if any(other != shapes[0] for other in shapes):
            raise EngineError("the compiled models of a plan take or give different tensors")
        inputs, outputs = shapes[0]
        extent = self._sizes[0] if fixed else None
        super().__init__(
            tuple(TensorSpec(s.name, s.dtype, (extent, *s.shape)) for s in inputs),
            tuple(TensorSpec(s.name, s.dtype, (extent, *s.shape)) for s in outputs),
        )
        self._requests: dict[int, list[Any]] = {}
        self._tensor = import_openvino().Tensor
        # The ports of all outputs by batch size, in the order of `outputs`.
        self._ports = {
            batch: [_find(model.outputs, name) for name in names]
            for batch, model in self._models.items()
        }

    @property
    def compiled(self) -> Mapping[int, Any]:
        """OpenVINO's compiled models by batch size."""
        return self._models

    def only(self, batch: int) -> OpenVinoRunner:
        """A runner of one of the compiled models, whatever the size of a batch."""
        return OpenVinoRunner({batch: self._models[batch]}, self._names, self._fixed)

    def _run(self, feed: Tensors) -> Tensors:
        (images,) = feed.values()
        # OpenVINO takes no array that it might not write to, though it only reads this one.
        images = images if images.flags.writeable else images.copy()
        count = len(images)
        results = {
            spec.name: np.empty((count, *(n or 0 for n in spec.shape[1:])), spec.dtype)
            for spec in self.outputs
        }
        try:
            self._run_portions(images, list(results.values()))
        except Exception as error:  # OpenVINO raises RuntimeError, and others where text is none
            raise EngineError(f"OpenVINO failed: {plain_message(error)}") from error
        return results

    def _run_portions(self, images: NDArray[Any], results: list[NDArray[Any]]) -> None:
        plan = list(portions(len(images), self._sizes))
        running: list[Any] = []
        # What a padded run reads and writes; it must live until that run is done.
        padded: list[tuple[int, int, list[NDArray[Any]]]] = []
        try:
            for turn, (first, count, size) in enumerate(plan):
                requests = self._requests_for(size, len(plan))
                request = requests[turn % len(requests)]
                if turn >= len(requests):
                    request.wait()
                if count == size:
                    source = images[first : first + size]
                    targets = [array[first : first + size] for array in results]
                else:
                    source = np.zeros((size, *images.shape[1:]), images.dtype)
                    source[:count] = images[first : first + count]
                    targets = [np.empty((size, *a.shape[1:]), a.dtype) for a in results]
                    padded.append((first, count, [source, *targets]))
                self._bind(request, size, source, targets)
                if len(plan) == 1:
                    request.infer()
                else:
                    running.append(request)
                    request.start_async()
        finally:
            _wait_for_all(running)
        for first, count, (_, *targets) in padded:
            for array, target in zip(results, targets, strict=True):
                array[first : first + count] = target[:count]

    def _bind(
        self, request: Any, size: int, source: NDArray[Any], targets: list[NDArray[Any]]
    ) -> None:
        request.set_input_tensor(self._tensor(source, shared_memory=True))
        for port, target in zip(self._ports[size], targets, strict=True):
            request.set_tensor(port, self._tensor(target, shared_memory=True))

    def _requests_for(self, size: int, runs: int) -> list[Any]:
        """Requests of one model; more than one only where there are runs to overlap."""
        have = self._requests.setdefault(size, [])
        if not have:
            have.append(self._models[size].create_infer_request())
        if runs > len(have):
            model = self._models[size]
            useful = model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
            while len(have) < min(runs, useful, _MAX_REQUESTS):
                have.append(model.create_infer_request())
        return have

    def _free(self) -> None:
        self._requests.clear()
        self._ports.clear()
        self._models.clear()


def _specs(
    model: Any, names: Sequence[str], batch: int
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of one compiled model, their shapes without the batch.

    Raises:
        EngineError: They are not `names`, or a shape is not the batch and fixed extents.
    """
    if len(model.inputs) != 1:
        raise EngineError(f"a compiled model takes {len(model.inputs)} inputs, not one")
    (port,) = model.inputs
    inputs = (_spec(port, port.get_any_name(), batch),)
    outputs = tuple(_spec(_find(model.outputs, name), name, batch) for name in names)
    return inputs, outputs


def _find(ports: Sequence[Any], name: str) -> Any:
    for port in ports:
        if name in port.get_names():
            return port
    raise EngineError(f"the compiled model gives no {name!r}")


def _spec(port: Any, name: str, batch: int) -> TensorSpec:
    partial = port.get_partial_shape()
    if not partial.is_static or partial.rank.get_length() < 1:
        raise EngineError(
            f"{name!r} has the shape {partial} where the batch is {batch}; "
            "its extents must follow from the batch size alone"
        )
    first, *shape = tuple(port.get_shape())
    if first != batch:
        raise EngineError(
            f"{name!r} has the first extent {first} where the batch is {batch}; "
            "it must hold one row per image"
        )
    return TensorSpec(name, np.dtype(port.get_element_type().to_dtype()), tuple(shape))


def _wait_for_all(requests: Sequence[Any]) -> None:
    """Wait for every request, failed ones among them, before anything they use goes away."""
    failure: Exception | None = None
    for request in requests:
        try:
            request.wait()
        except Exception as error:  # whatever it is, the others must be waited for
            failure = failure or error
    if failure is not None:
        raise failure
