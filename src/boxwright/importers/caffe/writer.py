"""What every layer's conversion needs: blobs with their shapes, weights, and a graph.

Shapes are Caffe's but for the batch, which the model leaves free: the first extent of a
blob counts its rows *for each image*, 1 for nearly all. A blob may be three things: a
tensor of the graph, a constant (priors and what is made of them), or an affine layer that
is not written yet, so that the batch normalisation behind it can be folded into it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import WeightsError
from boxwright.graph.builder import GraphBuilder
from boxwright.importers.caffe.network import Layer, Network
from boxwright.importers.caffe.wire import CaffeModel

Shape = tuple[int, ...]
Floats = NDArray[Any]

# Nothing that one image needs is larger; what is comes from a wrong or hostile file.
_MAX_ELEMENTS = 1 << 30
_MAX_AXES = 8
_UNCLEAN = re.compile(r"[^A-Za-z0-9_./:-]+")


@dataclass(frozen=True)
class Affine:
    """A convolution, deconvolution or inner product that is not in the graph yet.

    Attributes:
        operator: ``Conv``, ``ConvTranspose`` or ``Gemm``.
        source: What it takes.
        weights: As the operator wants them.
        bias: One for each output channel.
        name: What its tensors are called.
        attributes: The operator's.
    """

    operator: str
    source: Blob
    weights: Floats
    bias: Floats
    name: str
    attributes: dict[str, Any]

    def scaled(self, factor: Floats, offset: Floats) -> Affine:
        """With ``factor * y + offset`` for each output channel, computed in float64."""
        weights = self.weights.astype(np.float64)
        if self.operator == "ConvTranspose":
            # (in, out / groups, ...): channel g * (out / groups) + j belongs to group g.
            groups = self.attributes["group"]
            parts = weights.reshape(groups, -1, *weights.shape[1:])
            spread = factor.reshape(groups, 1, weights.shape[1], *[1] * (weights.ndim - 2))
            weights = (parts * spread).reshape(weights.shape)
        else:
            weights *= factor.reshape(-1, *[1] * (weights.ndim - 1))
        bias = self.bias.astype(np.float64) * factor + offset
        return dataclasses.replace(self, weights=weights, bias=bias)


@dataclass(frozen=True)
class Blob:
    """A blob; see the module's text.

    Attributes:
        shape: Its shape, rows for each image first.
        tensor: Its tensor in the graph, if it is there.
        value: Its value, if that does not depend on the image; `shape` is then its own.
        affine: The layer that makes it, if that is not written yet.
        uses: How many layers take it.
    """

    shape: Shape
    tensor: str = ""
    value: Floats | None = None
    affine: Affine | None = None
    uses: int = 0

    @property
    def size(self) -> int:
        """Elements for each image."""
        return math.prod(self.shape)


class Writer:
    """Collects the graph, layer by layer.

    Args:
        network: The network.
        model: Its weights.

    Attributes:
        graph: The graph so far.
        network: The network.
        blobs: What each blob's name stands for now; layers that work in place change it.
    """

    def __init__(self, network: Network, model: CaffeModel) -> None:
        self.graph = GraphBuilder("caffe")
        self.network = network
        self.blobs: dict[str, Blob] = {}
        self._model = model
        self._written: dict[int, tuple[Affine, str]] = {}

    def name(self, layer: Layer) -> str:
        """What the layer's tensors are called: unlike any other's, and clean."""
        return f"{layer.index:03d}_{_UNCLEAN.sub('_', layer.name)[:120]}"

    def bottoms(self, layer: Layer, low: int, high: int | None = None) -> list[Blob]:
        """What the layer takes, which must be `low` to `high` blobs."""
        count = len(layer.bottoms)
        if not low <= count <= (low if high is None else high):
            expected = str(low) if high is None else f"{low} to {high}"
            layer.fail(f"it takes {expected} bottoms, got {count}")
        return [self.blob(layer, name) for name in layer.bottoms]

    def blob(self, layer: Layer, name: str) -> Blob:
        """A blob by its name."""
        if name not in self.blobs:
            layer.fail(f"no layer before it gives its bottom {name[:60]!r}")
        return self.blobs[name]

    def tensor(self, layer: Layer, blob: Blob) -> str:
        """The blob as a tensor of the graph; writes the affine layer that was held back."""
        if blob.value is not None:
            layer.unsupported("it computes with priors; that has no place in a detector")
        if blob.affine is None:
            return blob.tensor
        affine = blob.affine
        if id(affine) not in self._written:
            source = self.tensor(layer, affine.source)
            # One layer may be there twice, as it is and with what one of its users folded in.
            name = self.graph.unique(affine.name)
            weights = self.graph.constant(f"{name}/weights", _float32(layer, affine.weights))
            bias = self.graph.constant(f"{name}/bias", _float32(layer, affine.bias))
            inputs = [source, weights, bias]
            self.graph.add(affine.operator, inputs, name, **affine.attributes)
            # The affine is kept beside: another must not get its id.
            self._written[id(affine)] = affine, name
        return self._written[id(affine)][1]

    def op(
        self,
        layer: Layer,
        operator: str,
        inputs: Sequence[Blob | str],
        shape: Shape,
        suffix: str = "",
        **attributes: Any,
    ) -> Blob:
        """Add a node; returns its blob of shape `shape`."""
        names = [x if isinstance(x, str) else self.tensor(layer, x) for x in inputs]
        name = self.name(layer) + (f"/{suffix}" if suffix else "")
        self.check_shape(layer, shape)
        return Blob(shape, self.graph.add(operator, names, name, **attributes))

    def constant(self, layer: Layer, suffix: str, value: Floats) -> str:
        """An initializer of float32."""
        return self.graph.constant(f"{self.name(layer)}/{suffix}", _float32(layer, value))

    def integers(self, layer: Layer, suffix: str, values: list[int]) -> str:
        """An initializer of int64."""
        return self.graph.constant(f"{self.name(layer)}/{suffix}", np.array(values, np.int64))

    def reshape(self, layer: Layer, blob: Blob, shape: Shape, suffix: str = "") -> Blob:
        """The blob in another shape of as many elements; a constant stays one."""
        self.check_shape(layer, shape)
        if math.prod(shape) != blob.size:
            layer.fail(f"shape {list(blob.shape)} cannot become {list(shape)}")
        if shape == blob.shape:
            return blob
        if blob.value is not None:
            return Blob(shape, value=blob.value.reshape(shape))
        # The batch is free: it is kept, or else worked out.
        first = 0 if shape[0] == blob.shape[0] else -1
        target = self.integers(layer, f"{suffix}shape" if suffix else "shape", [first, *shape[1:]])
        return self.op(layer, "Reshape", [blob, target], shape, suffix)

    def check_shape(self, layer: Layer, shape: Shape) -> None:
        """Refuse shapes that are empty or that nothing sensible has."""
        if not shape or len(shape) > _MAX_AXES or min(shape) < 1:
            layer.fail(f"its output would have the shape {list(shape)}")
        if math.prod(shape) > _MAX_ELEMENTS:
            layer.fail(f"its output would have {math.prod(shape)} elements")

    def planes(self, layer: Layer, blob: Blob) -> tuple[int, int, int, int]:
        """The four extents of a blob that must have them."""
        if len(blob.shape) != 4:
            layer.fail(f"it takes (N, channels, height, width), got {list(blob.shape)}")
        return blob.shape[0], blob.shape[1], blob.shape[2], blob.shape[3]

    def axis(self, layer: Layer, blob: Blob, axis: int) -> int:
        """`axis` of the blob as a positive number; the batch cannot be meant."""
        count = len(blob.shape)
        found = axis + count if axis < 0 else axis
        if not 0 <= found < count:
            layer.fail(f"axis {axis} is not one of {list(blob.shape)}")
        if found == 0 and blob.value is None:
            layer.unsupported("axis 0 would mix the images of a batch")
        return found

    def stored(self, layer: Layer) -> int:
        """How many blobs the weights file has for the layer."""
        return len(self._model.blobs(layer.name)) if layer.name in self._model.layers else 0

    def weights(self, layer: Layer, *shapes: Shape) -> list[Floats]:
        """The layer's blobs, which must have these shapes but for extents of 1.

        Raises:
            WeightsError: The weights file has none for it, or of another shape.
        """
        blobs = self._model.blobs(layer.name)
        path, where = self._model.path, f"layer {layer.name[:60]!r} ({layer.kind})"
        if len(blobs) < len(shapes):
            raise WeightsError(
                f"{path}: {where} needs {len(shapes)} blobs, got {len(blobs)}; do the prototxt "
                "and the caffemodel belong together?"
            )
        if len(blobs) > len(shapes):
            raise WeightsError(f"{path}: {where} needs {len(shapes)} blobs, got {len(blobs)}")
        for blob, shape in zip(blobs, shapes, strict=True):
            if [n for n in blob.shape if n != 1] != [n for n in shape if n != 1]:
                raise WeightsError(
                    f"{path}: a blob of {where} must have the shape {list(shape)}, "
                    f"got {list(blob.shape)}"
                )
        return [blob.reshape(shape) for blob, shape in zip(blobs, shapes, strict=True)]


def _float32(layer: Layer, value: Floats) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(value, np.float32)
    if not np.isfinite(rounded).all():
        layer.fail("its weights become values that are no finite numbers")
    return rounded
