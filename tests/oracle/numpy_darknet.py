"""Darknet's forward pass in plain numpy: slow, short, and independent of the product.

It parses cfg and weights by itself and runs the layers one by one, so that the importer can
be checked on networks, sizes and weights for which no output of Darknet was recorded. It
is itself checked against recorded outputs of Darknet (`test_numpy_darknet.py`).

What a layer computes follows AlexeyAB's Darknet, commit 59596d7; the C function is named
at each one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracle.numpy_heads import DECODERS
from tests.oracle.numpy_layers import (
    ACTIVATIONS,
    Array,
    Section,
    antialias,
    blocks_to_channels,
    convolve,
    integer,
    normalise_factors,
    numbers,
    pool_windows,
    real,
)

BATCH_NORM_EPSILON = 1e-5  # blas.c, normalize_cpu: sqrt(variance + .00001f)
HEADS = ("yolo", "region", "gaussian_yolo", "detection")


class UnsupportedNetworkError(Exception):
    """The network has a part that this implementation does not know."""


@dataclass
class HeadResult:
    """One head: what enters it, and its candidates in `xyxy` pixels, cell by cell."""

    index: int
    kind: str
    raw: Array  # (C, H, W)
    boxes: Array  # (H * W * n, 4); no rows where a tree of classes decides the scores
    scores: Array  # (H * W * n, classes)


def parse_cfg(text: str) -> list[Section]:
    """Sections in order, the section's name under the key ``""``."""
    sections: list[Section] = []
    for line in text.splitlines():
        # utils.c, strip: blanks go wherever they stand, so "4 5" is 45.
        line = "".join(line.split("#")[0].split(";")[0].split())
        if not line:
            continue
        if line.startswith("["):
            sections.append({"": line[1 : line.index("]")].lower()})
        else:
            key, _, value = line.partition("=")
            sections[-1][key] = value
    return sections


class Weights:
    """The weights file as one run of float32 (parser.c, load_weights_upto)."""

    def __init__(self, path: Path) -> None:
        major, minor = np.fromfile(path, np.int32, 2).tolist()
        # A 64-bit count of images seen since version 0.2, a 32-bit one before.
        offset = 20 if major * 10 + minor >= 2 else 16
        self.values = np.fromfile(path, np.float32, offset=offset)
        self.used = 0

    def take(self, name: str, *shape: int) -> NDArray[np.float32]:
        """The next values; `name` says what they are."""
        count = math.prod(shape)
        if self.used + count > len(self.values):
            raise UnsupportedNetworkError("the weights file is too short for this cfg")
        part = self.values[self.used : self.used + count]
        self.used += count
        return part.reshape(shape)

    def check_used_up(self) -> None:
        left = len(self.values) - self.used
        if left:
            raise UnsupportedNetworkError(f"{left} values of the weights file are left over")


class RandomWeights:
    """Makes up the values a network asks for, and writes them as a weights file."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.parts: list[NDArray[np.float32]] = []

    def take(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Values that keep activations near 1, whatever the layer."""
        if name == "kernel":
            values = self.random.normal(0, np.sqrt(1 / math.prod(shape[1:])), shape)
        elif name in ("variances", "scales", "weights"):
            values = self.random.uniform(0.5, 1.5, shape)
        else:
            values = self.random.normal(0, 0.3, shape)
        self.parts.append(values.astype(np.float32))
        return self.parts[-1]

    def check_used_up(self) -> None:
        """It never runs dry and never has any left."""

    def write(self, path: Path) -> None:
        header = np.array([0, 2, 5], np.int32).tobytes() + np.zeros(1, np.int64).tobytes()
        path.write_bytes(header + b"".join(part.tobytes() for part in self.parts))


class NumpyDarknet:
    """A network: cfg and weights read, ready to run.

    Args:
        cfg: The cfg file.
        weights: The weights file, or a maker of weights.
        dtype: float32 as Darknet; float64 to see how far float32 itself is off.
        size: ``(height, width)`` in place of the cfg's.
    """

    def __init__(
        self,
        cfg: Path,
        weights: Path | RandomWeights,
        dtype: type[np.floating[Any]] = np.float32,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.net, *self.sections = parse_cfg(cfg.read_text(errors="replace"))
        self.dtype = dtype
        self.height, self.width = size or (
            integer(self.net, "height", 0),
            integer(self.net, "width", 0),
        )
        self.weights = Weights(weights) if isinstance(weights, Path) else weights
        self._parameters: dict[int, dict[str, Array]] = {}
        self._outputs: list[Array] = []

    def run(self, image: NDArray[np.uint8]) -> list[HeadResult]:
        """Heads in cfg order for one uint8 image ``(H, W, 3)``, RGB, at network size."""
        if image.shape[:2] != (self.height, self.width):
            raise ValueError(f"expected an image of {self.height, self.width}, got {image.shape}")
        x = image.astype(self.dtype).transpose(2, 0, 1) / self.dtype(255)
        self._outputs = []
        results: list[HeadResult] = []
        needed_until = self._last_use()
        for index, section in enumerate(self.sections):
            kind = section[""]
            if kind in HEADS:
                results.append(self._head(index, section, x))
            else:
                layer: Callable[[int, Section, Array], Array] | None = LAYERS.get(kind)
                if layer is None:
                    raise UnsupportedNetworkError(f"[{kind}] is not known")
                x = getattr(self, layer.__name__)(index, section, x)
            self._outputs.append(x)
            for old in [i for i, last in needed_until.items() if last == index and i < index]:
                self._outputs[old] = np.zeros(0, self.dtype)
        self.weights.check_used_up()
        return results

    def _last_use(self) -> dict[int, int]:
        """Layer to the last layer that reads it; outputs are dropped after that."""
        last = {index: index + 1 for index in range(len(self.sections))}
        for index, section in enumerate(self.sections):
            for source in self._sources(index, section):
                last[source] = max(last[source], index)
        return last

    @staticmethod
    def _sources(index: int, section: Section) -> list[int]:
        key = {"route": "layers", "shortcut": "from", "sam": "from", "scale_channels": "from"}
        text = section[key[section[""]]] if section[""] in key else ""
        return [int(n) if n >= 0 else index + int(n) for n in numbers(text)]

    def _parameter(self, index: int, name: str, *shape: int) -> Array:
        """Read on first use, kept for the next run."""
        kept = self._parameters.setdefault(index, {})
        if name not in kept:
            kept[name] = self.weights.take(name, *shape).astype(self.dtype)
        return kept[name]

    def _activate(self, section: Section, x: Array, default: str) -> Array:
        name = section.get("activation", default)
        if name not in ACTIVATIONS:
            raise UnsupportedNetworkError(f"activation {name} is not known")
        return ACTIVATIONS[name](x).astype(self.dtype, copy=False)

    def _batch_norm(self, index: int, x: Array, channels: int, after: int) -> Array:
        """Normalise, scale and add the bias (batchnorm_layer.c); file order see the caller."""
        read = self._parameter
        scales = read(index, "scales", channels)
        means, variances = read(index, "means", channels), read(index, "variances", channels)
        shape = (channels, *([1] * after))
        root = np.sqrt(variances + self.dtype(BATCH_NORM_EPSILON)).reshape(shape)
        return (x - means.reshape(shape)) / root * scales.reshape(shape)

    def convolutional(self, index: int, section: Section, x: Array) -> Array:
        """convolutional_layer.c, forward_convolutional_layer; image.c order in the file."""
        if integer(section, "xnor", 0) or integer(section, "binary", 0):
            raise UnsupportedNetworkError("xnor and binary weights are not known")
        filters, size = integer(section, "filters", 1), integer(section, "size", 1)
        groups = integer(section, "groups", 1)
        stride = integer(section, "stride", 1)
        stride_y = integer(section, "stride_y", stride)
        stride_x = integer(section, "stride_x", stride)
        dilation = integer(section, "dilation", 1) if size > 1 else 1
        pad = size // 2 if integer(section, "pad", 0) else integer(section, "padding", 0)
        blur = integer(section, "antialiasing", 0)
        step = (1, 1) if blur else (stride_y, stride_x)
        source = index
        if "share_index" in section:
            shared = integer(section, "share_index", 0)
            source = shared if shared >= 0 else index + shared
        normalised = integer(section, "batch_normalize", 0)
        bias = self._parameter(source, "bias", filters)
        if normalised:
            for name in ("scales", "means", "variances"):
                self._parameter(source, name, filters)
        kernel = self._parameter(source, "kernel", filters, x.shape[0] // groups, size, size)
        out = convolve(x, kernel, step, pad * dilation, dilation, groups)
        if normalised:
            out = self._batch_norm(source, out, filters, 2)
        out = self._activate(section, out + bias[:, None, None], "logistic")
        return antialias(out, blur, (stride_y, stride_x)) if blur else out

    def connected(self, index: int, section: Section, x: Array) -> Array:
        """connected_layer.c; biases, weights, then batch norm in the file."""
        flat = x.reshape(-1)
        outputs = integer(section, "output", 1)
        bias = self._parameter(index, "bias", outputs)
        kernel = self._parameter(index, "kernel", outputs, len(flat))
        out: Array = kernel @ flat
        if integer(section, "batch_normalize", 0):
            out = self._batch_norm(index, out, outputs, 0)
        return self._activate(section, out + bias, "logistic").reshape(outputs, 1, 1)

    def local(self, index: int, section: Section, x: Array) -> Array:
        """local_layer.c: a convolution whose kernel differs from place to place."""
        filters, size = integer(section, "filters", 1), integer(section, "size", 1)
        stride, pad = integer(section, "stride", 1), integer(section, "pad", 0)
        extents = [(n - (1 if pad else size)) // stride + 1 for n in x.shape[1:]]
        height, width = extents
        bias = self._parameter(index, "bias", filters, height, width)
        kernel = self._parameter(index, "kernel", height * width, filters, x.shape[0] * size * size)
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
        windows = windows[:, ::stride, ::stride][:, :height, :width]
        columns = windows.transpose(1, 2, 0, 3, 4).reshape(height * width, -1)
        out = np.einsum("pfk,pk->fp", kernel, columns, optimize=True)
        return self._activate(section, out.reshape(filters, height, width) + bias, "logistic")

    def batchnorm(self, index: int, section: Section, x: Array) -> Array:
        """batchnorm_layer.c; biases, scales, means, variances in the file."""
        bias = self._parameter(index, "bias", len(x))
        return self._batch_norm(index, x, len(x), 2) + bias[:, None, None]

    def maxpool(self, index: int, section: Section, x: Array) -> Array:
        """maxpool_layer.c: padding counts as minus infinity."""
        if integer(section, "maxpool_depth", 0):
            out_channels = integer(section, "out_channels", 1)
            # Channel k goes to output k mod out_channels.
            count = -(-len(x) // out_channels)
            filled = np.full((count * out_channels, *x.shape[1:]), -np.inf, self.dtype)
            filled[: len(x)] = x
            deepest: Array = filled.reshape(count, out_channels, *x.shape[1:]).max(axis=0)
            return deepest
        blur = integer(section, "antialiasing", 0)
        stride = integer(section, "stride", 1)
        strides = (integer(section, "stride_y", stride), integer(section, "stride_x", stride))
        windows = pool_windows(section, x, (1, 1) if blur else strides, -np.inf)
        out: Array = windows.max(axis=(-2, -1))
        return antialias(out, blur, strides) if blur else out

    def local_avgpool(self, index: int, section: Section, x: Array) -> Array:
        """maxpool_layer.c, forward_local_avgpool_layer: padding is not counted."""
        stride = integer(section, "stride", 1)
        strides = (integer(section, "stride_y", stride), integer(section, "stride_x", stride))
        total = pool_windows(section, x, strides, 0).sum(axis=(-2, -1))
        counted = pool_windows(section, np.ones_like(x), strides, 0).sum(axis=(-2, -1))
        result: Array = total / counted
        return result

    def avgpool(self, index: int, section: Section, x: Array) -> Array:
        """avgpool_layer.c: the mean of each channel."""
        result: Array = x.mean(axis=(1, 2), keepdims=True)
        return result

    def route(self, index: int, section: Section, x: Array) -> Array:
        """route_layer.c: group `group_id` of the channels of each source, one after another."""
        groups, group = integer(section, "groups", 1), integer(section, "group_id", 0)
        parts = []
        for source in self._sources(index, section):
            part = self._outputs[source]
            share = len(part) // groups
            parts.append(part[group * share : (group + 1) * share])
        return np.concatenate(parts)

    def shortcut(self, index: int, section: Section, x: Array) -> Array:
        """blas.c, shortcut_multilayer_cpu: flat index, so the leading channels both share."""
        others = [self._outputs[source] for source in self._sources(index, section)]
        kind = section.get("weights_type", "none")
        terms = [x, *others]
        if kind != "none":
            columns = len(x) if kind == "per_channel" else 1
            factors = self._parameter(index, "weights", len(terms), columns)
            factors = normalise_factors(factors, section.get("weights_normalization", "none"))
        else:
            factors = np.ones((len(terms), 1), self.dtype)
        out = np.zeros_like(x)
        for term, factor in zip(terms, factors, strict=True):
            if term.shape[1:] != x.shape[1:]:
                raise UnsupportedNetworkError("[shortcut] of grids that differ is not known")
            shared = min(len(x), len(term))
            spread = np.broadcast_to(factor, (len(x),))[:shared, None, None]
            out[:shared] += term[:shared] * spread
        return self._activate(section, out, "linear")

    def scale_channels(self, index: int, section: Section, x: Array) -> Array:
        """scale_channels_layer.c: each channel of `from` times one number."""
        (source,) = self._sources(index, section)
        return self._activate(section, self._outputs[source] * x, "linear")

    def sam(self, index: int, section: Section, x: Array) -> Array:
        """sam_layer.c: value by value."""
        (source,) = self._sources(index, section)
        return self._activate(section, self._outputs[source] * x, "linear")

    def upsample(self, index: int, section: Section, x: Array) -> Array:
        """upsample_layer.c; a negative stride sums blocks (blas.c, upsample_cpu backwards)."""
        stride, scale = integer(section, "stride", 2), real(section, "scale", 1)
        if stride > 0:
            out = x.repeat(stride, axis=1).repeat(stride, axis=2)
        else:
            channels, height, width = x.shape
            block = (channels, height // -stride, -stride, width // -stride, -stride)
            out = x.reshape(block).sum(axis=(2, 4))
        scaled: Array = out * self.dtype(scale)
        return scaled

    def reorg(self, index: int, section: Section, x: Array) -> Array:
        """reorg_old_layer.c: reorg_cpu called with the *input's* extents, shape read anew."""
        stride = integer(section, "stride", 1)
        if integer(section, "reverse", 0):
            raise UnsupportedNetworkError("[reorg] reverse is not known")
        channels, height, width = x.shape
        read = x.reshape(channels // stride**2, height * stride, width * stride)
        shuffled = blocks_to_channels(read, stride)
        return shuffled.reshape(channels * stride**2, height // stride, width // stride)

    def reorg3d(self, index: int, section: Section, x: Array) -> Array:
        """reorg_layer.c: space to depth, block position before channel."""
        if integer(section, "reverse", 0):
            raise UnsupportedNetworkError("[reorg3d] reverse is not known")
        return blocks_to_channels(x, integer(section, "stride", 1))

    def crop(self, index: int, section: Section, x: Array) -> Array:
        """crop_layer.c when not training: the middle, as -1 to 1 unless noadjust."""
        rows, columns = integer(section, "crop_height", 1), integer(section, "crop_width", 1)
        top, left = (x.shape[1] - rows) // 2, (x.shape[2] - columns) // 2
        middle = x[:, top : top + rows, left : left + columns]
        return middle if integer(section, "noadjust", 0) else middle * 2 - 1

    def identity(self, index: int, section: Section, x: Array) -> Array:
        """[dropout] when not training; layers that only matter for the loss."""
        return x

    def _head(self, index: int, section: Section, x: Array) -> HeadResult:
        size = (self.height, self.width)
        if "tree" in section:
            # Scores over a tree of classes are not known here; the raw head is.
            none = np.zeros((0, 4), self.dtype)
            return HeadResult(index, section[""], x, none, none[:, :0])
        boxes, scores = DECODERS[section[""]](section, x, size)
        return HeadResult(index, section[""], x, boxes, scores)


LAYERS: dict[str, Callable[..., Any]] = {
    "convolutional": NumpyDarknet.convolutional,
    "conv": NumpyDarknet.convolutional,
    "connected": NumpyDarknet.connected,
    "conn": NumpyDarknet.connected,
    "local": NumpyDarknet.local,
    "batchnorm": NumpyDarknet.batchnorm,
    "maxpool": NumpyDarknet.maxpool,
    "max": NumpyDarknet.maxpool,
    "local_avgpool": NumpyDarknet.local_avgpool,
    "avgpool": NumpyDarknet.avgpool,
    "avg": NumpyDarknet.avgpool,
    "route": NumpyDarknet.route,
    "shortcut": NumpyDarknet.shortcut,
    "scale_channels": NumpyDarknet.scale_channels,
    "sam": NumpyDarknet.sam,
    "upsample": NumpyDarknet.upsample,
    "reorg": NumpyDarknet.reorg,
    "reorg3d": NumpyDarknet.reorg3d,
    "crop": NumpyDarknet.crop,
    "dropout": NumpyDarknet.identity,
    "contrastive": NumpyDarknet.identity,
    "cost": NumpyDarknet.identity,
}
