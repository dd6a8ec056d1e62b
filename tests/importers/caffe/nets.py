"""Small Caffe networks: a writer of caffemodels, and running a prototxt by us and by OpenCV."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.graph.pixels import add_pixels
from boxwright.importers import running
from boxwright.importers.caffe.heads import HEAD_TYPES
from boxwright.importers.caffe.layers import write_layers
from boxwright.importers.caffe.network import read_network
from boxwright.importers.caffe.prepare import Preparation
from boxwright.importers.caffe.text import read_prototxt
from boxwright.importers.caffe.wire import CaffeModel
from boxwright.importers.caffe.writer import Blob, Writer
from boxwright.progress import silent

Array = NDArray[Any]
SCALE = 1 / 64
HEIGHT, WIDTH = 10, 13


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def chunk(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def whole(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def blob(value: Array, form: str = "packed") -> bytes:
    """A BlobProto: packed, single, double, double_single, half, or old (four extents)."""
    flat = np.ascontiguousarray(value, np.float32).reshape(-1)
    if form == "old":
        padded = [*[1] * (4 - value.ndim), *value.shape]
        shape = b"".join(whole(i + 1, extent) for i, extent in enumerate(padded))
        return shape + chunk(5, flat.astype("<f4").tobytes())
    shape = chunk(7, chunk(1, b"".join(map(varint, value.shape))))
    if form == "single":
        return shape + b"".join(b"\x2d" + struct.pack("<f", x) for x in flat)
    if form == "double":
        return shape + chunk(8, flat.astype("<f8").tobytes())
    if form == "double_single":
        return shape + b"".join(b"\x41" + struct.pack("<d", x) for x in flat)
    if form == "half":
        return shape + whole(10, 2) + chunk(12, flat.astype("<f2").tobytes())
    return shape + chunk(5, flat.astype("<f4").tobytes())


def caffemodel(
    blobs: Mapping[str, tuple[str, Sequence[Array]]], form: str = "packed", old: bool = False
) -> bytes:
    """A NetParameter of layers with their types and blobs; `old` writes V1 layers."""
    data = chunk(1, b"test")
    for name, (kind, values) in blobs.items():
        if old:
            head = chunk(4, name.encode()) + whole(5, 4)
            content = head + b"".join(chunk(6, blob(v, form)) for v in values)
            data += chunk(2, content)
        else:
            head = chunk(1, name.encode()) + chunk(2, kind.encode())
            data += chunk(100, head + b"".join(chunk(7, blob(v, form)) for v in values))
    return data


def prototxt(body: str, channels: int = 3, height: int = HEIGHT, width: int = WIDTH) -> str:
    return (
        f'name: "test"\ninput: "data"\ninput_dim: 1\ninput_dim: {channels}\n'
        f"input_dim: {height}\ninput_dim: {width}\n{body}"
    )


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def feed(image: Array) -> Array:
    return np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None], np.float32) * np.float32(
        SCALE
    )


def ours(folder: Path, text: str, model: bytes, tops: Sequence[str], images: Array) -> list[Array]:
    """What our graph gives for a batch of images."""
    (folder / "net.prototxt").write_text(text)
    (folder / "net.caffemodel").write_bytes(model)
    network = read_network(read_prototxt(folder / "net.prototxt"))
    with CaffeModel(folder / "net.caffemodel") as weights:
        writer = Writer(network, weights)
        writer.graph.images(*network.image.shape[2:])
        form = Preparation((0.0,), SCALE, "bgr", "test").pixel_format()
        pixels = add_pixels(writer.graph, form)
        writer.blobs["data"] = Blob((1, *network.image.shape[1:]), pixels)
        write_layers(writer, network, HEAD_TYPES, silent)
        found = [writer.blobs[top] for top in tops]
        names = [
            writer.tensor(network.layers[-1], blob) if blob.value is None else "" for blob in found
        ]
    asked = [name for name in names if name]
    values = running.run(writer.graph.model, {"images": images}, asked) if asked else {}
    results = []
    for one, name in zip(found, names, strict=True):
        result = one.value if one.value is not None else values[name]
        expected = (
            one.shape if one.value is not None else (len(images) * one.shape[0], *one.shape[1:])
        )
        assert result.shape == expected, "the shape we worked out is not the one that is"
        results.append(result)
    return results


def opencv(folder: Path, tops: Sequence[str], image: Array) -> list[Array]:
    """What OpenCV makes of the files that :func:`ours` wrote; layers are called as their tops."""
    net = cv2.dnn.readNetFromCaffe(str(folder / "net.prototxt"), str(folder / "net.caffemodel"))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setInput(feed(image))
    return list(net.forward(list(tops)))


def one_line(error: Exception) -> None:
    """A refusal must name the file, in one line."""
    text = str(error)
    assert "net" in text
    assert "\n" not in text
