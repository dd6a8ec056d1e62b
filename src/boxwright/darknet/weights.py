"""Reading a Darknet weights file layer by layer, folding batch normalisation on the way.

Layout (``load_weights_upto`` in ``src/parser.c``): three int32 (major, minor, revision), the
number of images seen as uint64 (uint32 before version 0.2), then float32 values, all little
endian. The file says nothing about the network: only its length can be checked, and is.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from boxwright.closing import Closing
from boxwright.darknet.layers import BatchNorm, Connected, Convolutional, Layer, Local, Shortcut
from boxwright.darknet.network import Network
from boxwright.errors import WeightsError
from boxwright.files import human_size, open_regular

Floats = NDArray[np.float32]

# normalize_cpu in src/blas.c: sqrt(variance + .00001f).
BATCH_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Affine:
    """A layer's weights and biases after folding.

    Attributes:
        weights: As the layer stores them, for example ``(filters, channels, size, size)``.
        biases: One per output channel (per output value for ``[local]``).
    """

    weights: Floats
    biases: Floats


class WeightsReader(Closing):
    """A weights file opened for one network; read the layers in order.

    The file's length is compared with what the network needs before anything is read.

    Raises:
        WeightsError: The file cannot be read, is no weights file, or is too short or too
            long for the network.
    """

    def __init__(self, path: str | Path, network: Network) -> None:
        self.path = Path(path)
        try:
            # Closed by `close`; the reader itself is the context manager.
            self._stream: BinaryIO = open_regular(path)
        except OSError as error:
            raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
        try:
            self._start(network)
        except BaseException:
            self._stream.close()
            raise

    def _start(self, network: Network) -> None:
        status = os.fstat(self._stream.fileno())
        header = self._stream.read(12)
        if len(header) < 12:
            raise WeightsError(f"{self.path} is not a Darknet weights file: it is too short")
        self.major, self.minor, self.revision = struct.unpack("<3i", header)
        if not (0 <= self.major <= 10_000 and 0 <= self.minor <= 10_000):
            raise WeightsError(
                f"{self.path} is not a Darknet weights file: "
                f"its header gives version {self.major}.{self.minor}"
            )
        wide = self.major * 10 + self.minor >= 2 and self.major < 1000 and self.minor < 1000
        seen = self._stream.read(8 if wide else 4)
        self.header_size = 20 if wide else 16
        self.images_seen = int.from_bytes(seen, "little")
        # Files of a version above 1000 hold the matrices of [connected] transposed.
        self.transposed = self.major > 1000 or self.minor > 1000
        self._check_length(network, status.st_size)

    def _check_length(self, network: Network, size: int) -> None:
        needed = self.header_size + 4 * network.weight_count
        if size == needed:
            return
        what = (
            f"{self.path} holds {size} bytes ({human_size(size)}), "
            f"the network in {network.path} needs {needed} ({human_size(needed)})"
        )
        if size > needed:
            raise WeightsError(
                f"{what}: {size - needed} bytes too long; these weights belong to another cfg"
            )
        available, layer = (size - self.header_size) // 4, network.layers[-1]
        for candidate in network.layers:
            layer = candidate
            available -= layer.weight_count
            if available < 0:
                break
        raise WeightsError(
            f"{what}: it ends within layer {layer.index}, [{layer.section.name}] of line "
            f"{layer.section.line}; it is truncated, the weights of a backbone alone, "
            "or those of another cfg"
        )

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def convolutional(self, layer: Convolutional) -> Affine:
        """The folded weights ``(filters, channels / groups, size, size)`` and biases."""
        biases = self._floats(layer, layer.filters)
        normal = self._normalization(layer, layer.filters) if layer.batch_normalize else None
        shape = layer.kernel_shape
        weights = self._floats(layer, int(np.prod(shape)))
        if layer.flipped:
            weights = weights.reshape(-1, layer.filters).T
        return _checked(layer, *_fold(weights.reshape(layer.filters, -1), biases, normal), shape)

    def connected(self, layer: Connected) -> Affine:
        """The folded weights ``(outputs, inputs)`` and biases."""
        outputs, inputs = layer.shape.size, layer.input_shape.size
        biases = self._floats(layer, outputs)
        weights = self._floats(layer, outputs * inputs)
        if self.transposed:
            weights = weights.reshape(inputs, outputs).T
        normal = self._normalization(layer, outputs) if layer.batch_normalize else None
        folded = _fold(weights.reshape(outputs, inputs), biases, normal)
        return _checked(layer, *folded, (outputs, inputs))

    def local(self, layer: Local) -> Affine:
        """Weights ``(places, filters, channels * size * size)``, biases ``(filters, places)``."""
        filters, places = layer.shape.channels, layer.shape.height * layer.shape.width
        kernel = layer.input_shape.channels * layer.size * layer.size
        biases = self._floats(layer, filters * places).reshape(filters, places)
        weights = self._floats(layer, places * filters * kernel)
        return _checked(layer, weights, biases, (places, filters, kernel))

    def batchnorm(self, layer: BatchNorm) -> Affine:
        """The factor and the offset of each channel."""
        channels = layer.shape.channels
        biases = self._floats(layer, channels)
        normal = self._normalization(layer, channels)
        ones = np.ones((channels, 1), np.float32)
        return _checked(layer, *_fold(ones, biases, normal), (channels,))

    def shortcut(self, layer: Shortcut) -> Floats:
        """Weights ``(summands, 1 or channels)``, normalised as the layer asks.

        ``shortcut_multilayer_cpu`` in ``src/blas.c``.
        """
        values = self._floats(layer, layer.weight_count).reshape(len(layer.inputs), -1)
        with np.errstate(all="ignore"):  # what is not finite is refused right after
            values = values.astype(np.float64)
            if layer.normalization == "relu":
                values = np.maximum(values, 0)
            elif layer.normalization == "softmax":
                values = np.exp(values - values.max(axis=0))
            if layer.normalization != "none":
                values = values / (values.sum(axis=0) + 0.0001)
            result = values.astype(np.float32)
        _require_finite(layer, result)
        return result

    def _normalization(self, layer: Layer, channels: int) -> tuple[Floats, Floats, Floats]:
        """Scales, means and variances."""
        values = self._floats(layer, 3 * channels).reshape(3, channels)
        return values[0], values[1], values[2]

    def _floats(self, layer: Layer, count: int) -> Floats:
        values = np.empty(count, dtype="<f4")
        try:
            got = self._stream.readinto(values.data.cast("B")) if count else 0  # type: ignore[attr-defined]
        except OSError as error:
            raise WeightsError(f"cannot read {self.path}: {error.strerror or error}") from error
        if got != values.nbytes:
            raise WeightsError(f"{self.path} ends within layer {layer.index}; was it replaced?")
        return values.astype(np.float32, copy=False)


def _fold(
    weights: Floats, biases: Floats, normal: tuple[Floats, Floats, Floats] | None
) -> tuple[Floats, Floats]:
    """Weights ``(outputs, inputs)`` and biases with batch normalisation folded in.

    Where the factor is worked out it is worked out in float64, so folding adds no error
    beyond the final rounding. The weights are scaled in place.
    """
    if normal is None:
        return weights, biases
    with np.errstate(all="ignore"):  # what is not finite is refused right after
        scales, means, variances = (part.astype(np.float64) for part in normal)
        factor = scales / np.sqrt(variances + BATCH_NORM_EPSILON)
        biases = (biases - means * factor).astype(np.float32)
        if not weights.flags.writeable or not weights.flags.c_contiguous:
            weights = weights.copy()
        np.multiply(weights, factor[:, None], out=weights, casting="same_kind")
    return weights, biases


def _checked(layer: Layer, weights: Floats, biases: Floats, shape: tuple[int, ...]) -> Affine:
    _require_finite(layer, weights)
    _require_finite(layer, biases)
    return Affine(weights.reshape(shape), biases)


def _require_finite(layer: Layer, values: Floats) -> None:
    # A sum is NaN or infinite when any value is: one pass and no temporary array. A sum of
    # finite values that overflows is told apart by looking closely.
    with np.errstate(all="ignore"):
        suspicious = not np.isfinite(values.sum())
    if suspicious and not np.isfinite(values).all():
        raise WeightsError(
            f"layer {layer.index}, [{layer.section.name}] of {layer.section.path}:"
            f"{layer.section.line}: the weights hold values that are not finite numbers; "
            "the file is damaged, belongs to another cfg, or its training diverged"
        )
