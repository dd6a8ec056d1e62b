"""Small files for the verbs to work on, made on the spot."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image

CFG = """\
[net]
width=64
height=32
channels=3

[convolutional]
filters=4
size=3
stride=8
pad=1
activation=leaky

[convolutional]
filters=16
size=1
stride=1
activation=linear

[yolo]
mask=0,1
anchors=8,8, 16,16
classes=3
num=2
"""

# Biases and weights of the two convolutions.
_VALUES = (4 + 4 * 3 * 9) + (16 + 16 * 4)


def write_darknet(folder: Path, seed: int = 0) -> Path:
    """``tiny.cfg``, ``tiny.weights`` and ``tiny.names``; the path of the weights."""
    values = np.random.default_rng(seed).normal(0, 0.5, _VALUES).astype("<f4")
    (folder / "tiny.cfg").write_text(CFG)
    (folder / "tiny.names").write_text("cat\ndog\nbird\n")
    weights = folder / "tiny.weights"
    weights.write_bytes(struct.pack("<iiiq", 0, 2, 5, 0) + values.tobytes())
    return weights


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 60)) -> Path:
    """A picture of noise, ``(height, width)``."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path
