"""Small Darknet networks for tests, and weights that fit them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.darknet.cfg import parse_cfg
from boxwright.darknet.layers import BatchNorm, Connected, Convolutional, Layer
from boxwright.darknet.network import Network, build_network

NET = "[net]\nwidth={width}\nheight={height}\nchannels={channels}\n"

YOLO = """
[convolutional]
filters=14
size=1
activation=linear

[yolo]
mask=0,1
anchors=4,6, 10,8
classes=2
num=2
"""


def cfg_text(body: str, width: int = 8, height: int = 8, channels: int = 3) -> str:
    """A cfg with the given sections between ``[net]`` and a yolo head."""
    return NET.format(width=width, height=height, channels=channels) + body + YOLO


def network(body: str, width: int = 8, height: int = 8, channels: int = 3) -> Network:
    """As :func:`cfg_text`, read."""
    return build_network(parse_cfg(cfg_text(body, width, height, channels), "test.cfg"))


def write_weights(
    path: Path,
    values: NDArray[np.float32],
    version: tuple[int, int, int] = (0, 2, 5),
) -> None:
    """A weights file of the given version and values."""
    major, minor, _ = version
    wide = major * 10 + minor >= 2 and major < 1000 and minor < 1000
    header = np.array(version, "<i4").tobytes() + (64).to_bytes(8 if wide else 4, "little")
    path.write_bytes(header + values.astype("<f4").tobytes())


def random_weights(network: Network, seed: int = 0) -> NDArray[np.float32]:
    """Values for every layer, in file order, scaled so that activations stay near 1."""
    rng = np.random.default_rng(seed)
    parts = [_layer_weights(rng, layer) for layer in network.layers if layer.weight_count]
    return np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float32)


def _layer_weights(rng: np.random.Generator, layer: Layer) -> NDArray[np.float64]:
    def normal(channels: int) -> list[NDArray[np.float64]]:
        """Scales, means, variances."""
        return [
            rng.uniform(0.7, 1.3, channels),
            rng.normal(0, 0.2, channels),
            rng.uniform(0.5, 1.5, channels),
        ]

    if isinstance(layer, BatchNorm):
        channels = layer.shape.channels
        return np.concatenate([rng.normal(0, 0.3, channels), *normal(channels)])
    if isinstance(layer, Convolutional):
        fan = layer.weight_count // layer.filters
        batch = normal(layer.filters) if layer.batch_normalize else []
        kernel = rng.normal(0, (2 / fan) ** 0.5, int(np.prod(layer.kernel_shape)))
        return np.concatenate([rng.normal(0, 0.3, layer.filters), *batch, kernel])
    if isinstance(layer, Connected):
        outputs, inputs = layer.shape.size, layer.input_shape.size
        batch = normal(outputs) if layer.batch_normalize else []
        matrix = rng.normal(0, (2 / inputs) ** 0.5, outputs * inputs)
        return np.concatenate([rng.normal(0, 0.3, outputs), matrix, *batch])
    return rng.normal(0, 0.3, layer.weight_count)
