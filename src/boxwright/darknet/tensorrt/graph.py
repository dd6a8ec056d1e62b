"""A thin layer over ``INetworkDefinition``: names, kept weights, and refusals that speak.

Tensors are TensorRT's own ``ITensor``; the first dimension of each is the batch, which is
unknown while the network is defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import BuildError


class NetworkGraph:
    """Adds layers to one network.

    Args:
        network: The ``INetworkDefinition`` to add to.
        trt: The TensorRT module it belongs to.

    Attributes:
        kept: Every array handed to TensorRT. It refers to them without a copy until the
            engine is built, so they must live until then.
    """

    def __init__(self, network: Any, trt: Any) -> None:
        self.network = network
        self.trt = trt
        self.kept: list[NDArray[Any]] = []
        self._constants: dict[Any, Any] = {}
        self._batch: Any = None
        self._shape_type: type = np.int32

    def layer(self, kind: str, name: str, *arguments: Any) -> Any:
        """Call ``network.add_<kind>`` and name the layer.

        Raises:
            BuildError: This TensorRT has no such layer, or refuses it; its own reason is in
                its log.
        """
        add = getattr(self.network, f"add_{kind}", None)
        if add is None:
            raise BuildError(
                f"{name}: {self._version} has no add_{kind}; 8.6 is the oldest TensorRT supported"
            )
        layer = add(*arguments)
        if layer is None:
            raise BuildError(f"{name}: {self._version} refused add_{kind}; its log says why")
        layer.name = name
        layer.get_output(0).name = name
        return layer

    @property
    def _version(self) -> str:
        return f"{self.trt.__name__} {self.trt.__version__}"

    def input_pixels(self, name: str, extents: Sequence[int], label: str) -> Any:
        """Declare the uint8 input ``(N, *extents)`` and cast it to float32, called `label`.

        Raises:
            BuildError: This TensorRT has no uint8.
        """
        kinds = self.trt.DataType.__members__
        if "UINT8" not in kinds:
            raise BuildError(f"{self._version} takes no uint8 input; 8.6 or newer does")
        pixels = self.network.add_input(name, kinds["UINT8"], (-1, *extents))
        if pixels is None:
            raise BuildError(f"{self._version} refused the input {name}; its log says why")
        # In TensorRT 8 nothing but a cast may read uint8, not even a shape layer.
        x = self.layer("cast", label, pixels, kinds["FLOAT"]).get_output(0)
        shape = self.layer("shape", "batch/shape", x).get_output(0)
        # TensorRT 8 counts in int32, later ones in int64; constants beside it must agree.
        if "INT64" in kinds and shape.dtype == kinds["INT64"]:
            self._shape_type = np.int64
        self._batch = self.layer("slice", "batch/count", shape, (0,), (1,), (1,)).get_output(0)
        return x

    def output(self, tensor: Any, name: str) -> None:
        """Mark an output; it is called `name` whatever the tensor was called."""
        identity = self.layer("identity", name, tensor).get_output(0)
        self.network.mark_output(identity)

    def weights(self, values: NDArray[Any]) -> Any:
        """Values as TensorRT's ``Weights``, kept alive."""
        array = np.ascontiguousarray(values)
        self.kept.append(array)
        return self.trt.Weights(array)

    def constant(self, values: NDArray[Any], name: str) -> Any:
        """A constant tensor; asked for again under the same name, it is the same one."""
        if name not in self._constants:
            layer = self.layer("constant", name, values.shape, self.weights(values))
            self._constants[name] = layer.get_output(0)
        return self._constants[name]

    def scalar(self, value: float, rank: int) -> Any:
        """A float32 of `rank` dimensions of extent 1: TensorRT broadcasts no other way."""
        values = np.full((1,) * rank, value, np.float32)
        return self.constant(values, f"scalar/{value!r}/{rank}d")

    def elementwise(self, operation: str, a: Any, b: Any, name: str) -> Any:
        """``SUM``, ``PROD``, ``SUB`` and so on of two tensors of one rank."""
        kind = self.trt.ElementWiseOperation.__members__[operation]
        return self.layer("elementwise", name, a, b, kind).get_output(0)

    def unary(self, operation: str, x: Any, name: str) -> Any:
        """``EXP``, ``FLOOR`` and so on."""
        kind = self.trt.UnaryOperation.__members__[operation]
        return self.layer("unary", name, x, kind).get_output(0)

    def activation(
        self, kind: str, x: Any, name: str, alpha: float | None = None, beta: float | None = None
    ) -> Any:
        """One of TensorRT's own activations; what `alpha` and `beta` mean depends on it."""
        layer = self.layer("activation", name, x, self.trt.ActivationType.__members__[kind])
        if alpha is not None:
            layer.alpha = alpha
        if beta is not None:
            layer.beta = beta
        return layer.get_output(0)

    def reduce(self, operation: str, x: Any, axes: Sequence[int], name: str) -> Any:
        """``SUM``, ``AVG`` and so on over `axes`, which stay with extent 1."""
        kind = self.trt.ReduceOperation.__members__[operation]
        mask = sum(1 << axis for axis in axes)
        return self.layer("reduce", name, x, kind, mask, True).get_output(0)

    def softmax(self, x: Any, axis: int, name: str) -> Any:
        """Softmax along `axis`."""
        layer = self.layer("softmax", name, x)
        layer.axes = 1 << axis
        return layer.get_output(0)

    def shuffle(
        self,
        x: Any,
        name: str,
        *,
        before: Sequence[int] | None = None,
        perm: Sequence[int] | None = None,
        after: Sequence[int] | None = None,
    ) -> Any:
        """Reshape to `before`, transpose by `perm`, reshape to `after`; each may be left out.

        An extent of 0 is kept. One shuffle layer does a transpose between at most one
        reshape on either side of it, hence two layers when all three are asked for.
        """
        if before is not None:
            layer = self.layer("shuffle", f"{name}/split" if perm else name, x)
            layer.reshape_dims = tuple(before)
            x = layer.get_output(0)
        if perm is not None:
            layer = self.layer("shuffle", name, x)
            layer.first_transpose = self.trt.Permutation(list(perm))
            if after is not None:
                layer.reshape_dims = tuple(after)
            x = layer.get_output(0)
        return x

    def concatenation(self, parts: Sequence[Any], axis: int, name: str) -> Any:
        """The parts one after another along `axis`; a single part as it is."""
        if len(parts) == 1:
            return parts[0]
        layer = self.layer("concatenation", name, list(parts))
        layer.axis = axis
        return layer.get_output(0)

    def slice(self, x: Any, extents: Sequence[int], axis: int, start: int, name: str) -> Any:
        """Part of `x`, of shape ``(N, *extents)``, from `start` along `axis`.

        TensorRT wants the size of a slice in full. That of the batch is not known here, so
        the size is a tensor made of the input's batch and `extents`.
        """
        rank = 1 + len(extents)
        starts = [0] * rank
        starts[axis] = start
        size = self._size(tuple(extents))
        layer = self.layer("slice", name, x, tuple(starts), (0,) * rank, (1,) * rank)
        layer.set_input(2, size)
        return layer.get_output(0)

    def split(self, x: Any, extents: Sequence[int], sizes: Sequence[int], name: str) -> list[Any]:
        """Cut `x`, of shape ``(N, *extents)``, along its last axis into parts of `sizes`."""
        parts, start = [], 0
        for number, size in enumerate(sizes):
            part = (*extents[:-1], size)
            parts.append(self.slice(x, part, len(extents), start, f"{name}/{number}"))
            start += size
        return parts

    def _size(self, extents: tuple[int, ...]) -> Any:
        label = "batch/size/" + "x".join(map(str, extents))
        if label not in self._constants:
            rest = self.constant(np.array(extents, self._shape_type), f"{label}/rest")
            self._constants[label] = self.concatenation([self._batch, rest], 0, label)
        return self._constants[label]
