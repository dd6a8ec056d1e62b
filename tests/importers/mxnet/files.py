"""MXNet's files written by hand, in every layout that its releases have written."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"<f4": 0, "<f8": 1, "<f2": 2, "|u1": 3, "<i4": 4, "|i1": 5, "<i8": 6, "|b1": 7}
MAGIC = {1: 0xF993FAC8, 2: 0xF993FAC9, 3: 0xF993FACA}


def array_bytes(array: np.ndarray[Any, Any], version: int = 2) -> bytes:
    """An array as version 0 (before 0.9), 1, 2 or 3 lays it out."""
    head = b"" if version == 0 else struct.pack("<I", MAGIC[version])
    if version >= 2:
        head += struct.pack("<i", 0)
    extent = "I" if version == 0 else "q"
    head += struct.pack(f"<I{array.ndim}{extent}", array.ndim, *array.shape)
    head += struct.pack("<iii", 1, 0, TYPES[array.dtype.newbyteorder("<").str])
    return head + array.astype(array.dtype.newbyteorder("<")).tobytes()


def params_bytes(arrays: Mapping[str, np.ndarray[Any, Any]], version: int = 2) -> bytes:
    data = struct.pack("<QQQ", 0x112, 0, len(arrays))
    data += b"".join(array_bytes(array, version) for array in arrays.values())
    data += struct.pack("<Q", len(arrays))
    for name in arrays:
        data += struct.pack("<Q", len(name.encode())) + name.encode()
    return data


def node(op: str, name: str, inputs: list[list[int]] | None = None, **attrs: str) -> dict[str, Any]:
    return {"op": op, "name": name, "inputs": inputs or [], "attrs": attrs}


def classifier(folder: Path, **changed: Any) -> Path:
    """A convolution with its normalisation, pooled, and a dense layer; returns the parameters."""
    chance = np.random.default_rng(0)
    weights = {
        "arg:conv_weight": chance.normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32),
        "arg:bn_gamma": np.full(4, 7, np.float32),
        "arg:bn_beta": chance.normal(0, 0.1, 4).astype(np.float32),
        "aux:bn_moving_mean": chance.normal(0, 0.1, 4).astype(np.float32),
        "aux:bn_moving_var": chance.uniform(0.5, 1, 4).astype(np.float32),
        "arg:fc_weight": chance.normal(0, 0.2, (3, 4)).astype(np.float32),
        "arg:fc_bias": chance.normal(0, 0.2, 3).astype(np.float32),
    }
    nodes = [
        node("null", "data", __shape__="(1L, 3L, 8L, 12L)"),
        node("null", "conv_weight"),
        node(
            "Convolution",
            "conv",
            [[0, 0, 0], [1, 0, 0]],
            kernel="(3, 3)",
            num_filter="4",
            no_bias="True",
        ),
        node("null", "bn_gamma"),
        node("null", "bn_beta"),
        node("BatchNorm", "bn", [[2, 0, 0], [3, 0, 0], [4, 0, 0]]),
        node("Pooling", "pool", [[5, 0, 0]], global_pool="True", pool_type="avg", kernel="(1, 1)"),
        node("null", "fc_weight"),
        node("null", "fc_bias"),
        node("FullyConnected", "fc", [[6, 0, 0], [7, 0, 0], [8, 0, 0]], num_hidden="3"),
        node("null", "softmax_label"),
        node("SoftmaxOutput", "softmax", [[9, 0, 0], [10, 0, 0]]),
    ]
    symbol = {"nodes": nodes, "heads": [[11, 0, 0]], "attrs": {"mxnet_version": ["int", 10901]}}
    symbol |= changed
    (folder / "net-symbol.json").write_text(json.dumps(symbol))
    params = folder / "net-0003.params"
    params.write_bytes(params_bytes(weights))
    return params
