"""A model's activations: which there are, how large they are, and what they are on images.

They are had by declaring tensors as outputs. The graph is run as it stands, node by node:
an optimised one has no tensor between a convolution and the activation fused to it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import InputError, ModelError
from boxwright.graph.session import plain_session
from boxwright.graph.view import View
from boxwright.model import IMAGES, Model

if TYPE_CHECKING:
    import onnx

_FLOATS = ("tensor(float)", "tensor(float16)")
# Every activation is had as float32 or smaller.
_ITEM_BYTES = 4
_MAX_SHOWN = 5


class Activations:
    """Runs a model for the values of some of its tensors.

    Args:
        model: The model; it is not changed.
        tensors: Their names; ``None`` for every one that is float and depends on the image.

    Attributes:
        names: The tensors, in the graph's order.
        fixed_batch: How many images the graph takes at a time, where that is fixed.

    Raises:
        InputError: A name is not that of a float activation.
        ModelError: ONNX Runtime cannot run the model.
    """

    def __init__(self, model: Model, tensors: Collection[str] | None = None) -> None:
        import onnx

        self._proto = onnx.ModelProto()
        self._proto.CopyFrom(model.proto)
        batch = model.proto.graph.input[0].type.tensor_type.shape.dim[0]
        self.fixed_batch = batch.dim_value or None
        floats = self._floats(View(model.proto))
        if tensors is not None:
            _refuse_unknown(tensors, floats, model.proto)
        self.names = [name for name in floats if tensors is None or name in tensors]

    def _floats(self, view: View) -> list[str]:
        """Float tensors that the main graph computes from the image."""
        found = [
            name
            for node in view.graph.node
            for name in node.output
            if name and not view.is_known_from_shapes(name)
        ]
        session = self._session(found)
        kinds = {value.name: value.type for value in session.get_outputs()}
        return [name for name in found if kinds[name] in _FLOATS]

    def sizes(self, images: NDArray[np.uint8]) -> list[int]:
        """Bytes of each tensor for as many images.

        Only shapes leave the graph, so that no activation outlives its use.
        """
        shapes = self._session(self.names, shapes=True)
        results = _run(shapes, self._filled(images))
        return [math.prod(shape.tolist()) * _ITEM_BYTES for shape in results]

    def open(self, names: Sequence[str]) -> Reader:
        """A session that gives these tensors."""
        return Reader(self, names, self._session(names))

    def _filled(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As many images as the graph asks for: the last one stands in for those missing."""
        missing = (self.fixed_batch or len(images)) - len(images)
        if not missing:
            return images
        return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])

    def _session(self, names: Sequence[str], *, shapes: bool = False) -> Any:
        graph = self._proto.graph
        nodes = len(graph.node)
        del graph.output[:]
        for at, name in enumerate(names):
            wanted = f"boxwright/shape/{at}" if shapes else name
            if shapes:
                graph.node.add(op_type="Shape", input=[name], output=[wanted])
            graph.output.add(name=wanted)
        try:
            return plain_session(self._proto)
        except Exception as error:  # its exceptions share no base but Exception
            raise ModelError(f"ONNX Runtime cannot load this model: {_brief(error)}") from error
        finally:
            del graph.node[nodes:]


class Reader:
    """Gives the values of some tensors. Made by :meth:`Activations.open`."""

    def __init__(self, owner: Activations, names: Sequence[str], session: Any) -> None:
        self._owner = owner
        self._names = names
        self._session = session

    def values(self, images: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Each tensor's name and values for uint8 images ``(N, H, W, 3)``.

        Where the graph takes a fixed number of images and fewer are given, a tensor with
        one row for an image loses the rows that stood in. One without is taken whole.
        """
        filled = self._owner._filled(images)
        results = _run(self._session, filled)
        for name, value in zip(self._names, results, strict=True):
            in_rows = len(filled) > len(images) and value.shape[:1] == (len(filled),)
            yield name, value[: len(images)] if in_rows else value


def in_groups(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Which tensors are had together: as many in a row as fit, one at least."""
    groups: list[list[int]] = []
    room = 0
    for at, size in enumerate(sizes):
        if not groups or size > room:
            groups.append([])
            room = budget
        groups[-1].append(at)
        room -= size
    return groups


def _run(session: Any, images: NDArray[np.uint8]) -> list[Any]:
    try:
        results: list[Any] = session.run(None, {IMAGES: images})
    except Exception as error:  # its exceptions share no base but Exception
        raise ModelError(f"ONNX Runtime cannot run this model: {_brief(error)}") from error
    return results


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _refuse_unknown(
    tensors: Collection[str], floats: Collection[str], proto: onnx.ModelProto
) -> None:
    known = set(floats)
    unknown = [name for name in dict.fromkeys(tensors) if name not in known]
    if not unknown:
        return
    made = {name for node in proto.graph.node for name in node.output}
    kind = "is no float tensor computed from the image" if unknown[0] in made else "is not there"
    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    near = ", ".join(repr(name) for name in list(floats)[:_MAX_SHOWN])
    raise InputError(
        f"cannot calibrate the tensor {unknown[0]!r}{more}: it {kind}; the model has "
        f"{len(known)} that can be: {near}{', ...' if len(known) > _MAX_SHOWN else ''}"
    )
