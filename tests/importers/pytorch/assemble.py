"""Checkpoints put together operation by operation, sound ones and hostile ones.

Nothing of torch or of Python's pickler is needed, so that a test can write what neither
would ever write.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Obj:
    """An object of a class: ``module name`` and its attributes."""

    name: str
    state: dict[str, Any] = field(default_factory=dict)


@dataclass
class Raw:
    """Operations to be put in as they are."""

    code: bytes


class Writer:
    """Collects the operations of a pickle and the storages it refers to."""

    def __init__(self) -> None:
        self.storages: dict[str, bytes] = {}

    def dumps(self, value: Any) -> bytes:
        return b"\x80\x02" + self.code(value) + b"."

    def code(self, value: Any) -> bytes:
        if isinstance(value, Raw):
            return value.code
        if value is None or value is True or value is False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        if isinstance(value, int):
            data = value.to_bytes(9, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.code, value)) + b"t"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.code, value)) + b"e"
        if isinstance(value, dict):
            items = b"".join(self.code(k) + self.code(v) for k, v in value.items())
            return b"}(" + items + b"u"
        if isinstance(value, Obj):
            return glob(value.name) + b")\x81" + self.code(value.state) + b"b"
        assert isinstance(value, np.ndarray)
        return self.tensor(value)

    def tensor(self, array: Any) -> bytes:
        kind = {"f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage"}[array.dtype.str[1:]]
        key = str(len(self.storages))
        self.storages[key] = array.tobytes()
        return self.tensor_of(kind, key, array.size, 0, array.shape)

    def tensor_of(
        self, kind: str, key: Any, count: Any, offset: Any, shape: Any, strides: Any = None
    ) -> bytes:
        """A tensor that says what it is told to."""
        if strides is None:
            steps = np.empty(shape, np.int8).strides
            strides = tuple(steps)
        identity = (
            *(b"(", self.code("storage"), glob(f"torch {kind}"), self.code(key)),
            *(self.code("cpu"), self.code(count), b"tQ"),
        )
        hooks = glob("collections OrderedDict") + b")R"
        arguments = (self.code(offset), self.code(shape), self.code(strides), b"\x89", hooks)
        return (
            glob("torch._utils _rebuild_tensor_v2")
            + b"("
            + b"".join(identity)
            + b"".join(arguments)
            + b"tR"
        )


def glob(name: str) -> bytes:
    module, attribute = name.split(" ", 1)
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def archive(pickle: bytes, storages: dict[str, bytes], compression: int = 0) -> bytes:
    """A zip as torch.save lays it out."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        file.writestr("archive/data.pkl", pickle)
        file.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            file.writestr(f"archive/data/{key}", data)
        file.writestr("archive/version", "3\n")
    return stream.getvalue()


def legacy(pickle: bytes, storages: dict[str, bytes], sizes: dict[str, int]) -> bytes:
    """The older form: pickles in a row, then the storages."""
    writer = Writer()
    magic = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    head = magic + writer.dumps(1001) + writer.dumps(info)
    body = b"".join(
        struct.pack("<q", len(data) // sizes[key]) + data for key, data in storages.items()
    )
    return head + pickle + writer.dumps(list(storages)) + body


def write(path: Path, root: Any, writer: Writer | None = None) -> Path:
    """A checkpoint with `root` in it."""
    writer = writer or Writer()
    pickle = writer.dumps(root)
    path.write_bytes(archive(pickle, writer.storages))
    return path


def module(name: str, children: dict[str, Any] | None = None, **state: Any) -> Obj:
    tensors = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
    rest = {key: value for key, value in state.items() if key not in tensors}
    tables = {"_parameters": tensors, "_buffers": {}, "_modules": children or {}}
    return Obj(name, {"training": False, **tables, **rest})


def conv2d(c1: int, c2: int, k: int = 1, s: int = 1, seed: int = 0, **state: Any) -> Obj:
    weight = np.random.default_rng(seed).normal(0, 0.3, (c2, c1, k, k)).astype(np.float32)
    settings: dict[str, Any] = {
        "in_channels": c1,
        "out_channels": c2,
        "kernel_size": (k, k),
        "stride": (s, s),
        "padding": (k // 2, k // 2),
        "dilation": (1, 1),
        "transposed": False,
        "output_padding": (0, 0),
        "groups": 1,
        "padding_mode": "zeros",
        "weight": weight,
        "bias": np.zeros(c2, np.float32),
    }
    return module("torch.nn.modules.conv Conv2d", **{**settings, **state})


def numbered(children: list[Obj], kind: str = "Sequential") -> Obj:
    table = {str(i): child for i, child in enumerate(children)}
    return module(f"torch.nn.modules.container {kind}", table)


def conv(c1: int, c2: int, k: int = 1, s: int = 1, **state: Any) -> Obj:
    children = {"conv": conv2d(c1, c2, k, s), "act": module("torch.nn.modules.activation SiLU")}
    return module("models.common Conv", children, **state)


def network(
    layers: list[Obj] | None = None, head: Obj | None = None, name: str = "models.yolo Model"
) -> Obj:
    """A sound network of two levels, or one with these layers or this head."""
    layers = layers or [conv(3, 4, 3, 2, f=-1), conv(4, 4, 3, 2, f=-1), conv(4, 4, 3, 2, f=-1)]
    head = head or detect()
    return module(name, {"model": numbered([*layers, head])}, names=["cat", "dog"], save=[1, 2])


def detect(**state: Any) -> Obj:
    convs = numbered([conv2d(4, 14), conv2d(4, 14, seed=1)], "ModuleList")
    settings: dict[str, Any] = {
        "nc": 2,
        "no": 7,
        "nl": 2,
        "na": 2,
        "f": [1, 2],
        "anchors": np.array([[[1, 2], [3, 4]], [[2, 1], [4, 4]]], np.float32),
        "stride": None,
    }
    head = module("models.yolo Detect", {"m": convs}, **{**settings, **state})
    head.state["stride"] = state.get("stride", np.array([4, 8], np.float32))
    head.state["_parameters"].pop("stride", None)
    return head
