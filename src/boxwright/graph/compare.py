"""Whether a changed graph still computes the same: both are run by ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.graph.session import plain_session
from boxwright.graph.view import View

if TYPE_CHECKING:
    import onnx

Feed = dict[str, NDArray[Any]]

# What a free extent is given, where neither graph says: a multiple of the usual strides.
_FREE = 2
_FREE_SIDE = 64
# More input values than this are not made up.
_MOST_VALUES = 1 << 26

# Rounding makes no difference as gross; where one is, the original is asked again this often.
_GROSS = 1e-4
_REPEATS = 8


@dataclass(frozen=True)
class Comparison:
    """How far two graphs are apart.

    Attributes:
        difference: The largest difference of any output, relative to that output's largest
            value; 0 where all are the same. ``None`` where they could not be compared.
        reason: Why not, for people.
        worst: The output that differs most.
    """

    difference: float | None
    reason: str | None = None
    worst: str = ""


def compare(before: onnx.ModelProto, after: onnx.ModelProto, seed: int = 0) -> Comparison:
    """Run both on the same random inputs, without optimisation, and compare their outputs.

    Inputs are fed by name and outputs paired by name, or by place where the names differ.
    Types that a pass changed are converted, so that a 64-bit graph and its 32-bit form see
    the same numbers. Never raises for what a graph contains: it says why it cannot compare.
    """
    feed = _feed(after, before, seed)
    if isinstance(feed, str):
        return Comparison(None, feed)
    return run_both(before, after, feed)


def run_both(
    before: onnx.ModelProto, after: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]
) -> Comparison:
    """As :func:`compare`, on inputs of the caller's."""
    results = []
    for label, proto in (("original", before), ("changed graph", after)):
        outputs = _run(proto, feed)
        if isinstance(outputs, str):
            return Comparison(None, f"ONNX Runtime cannot run the {label}: {outputs}")
        results.append(outputs)
    found = _compare(*results)
    # A random graph may happen to repeat itself once, when it has few outputs; not often.
    for _ in range(_REPEATS if found.difference and found.difference > _GROSS else 0):
        again = _run(before, feed)
        if isinstance(again, str) or _compare(results[0], again).difference:
            return Comparison(None, "the original gives other results every time: it is random")
    return found


def _compare(first: Feed, second: Feed) -> Comparison:
    pairs = [(name, first[name], second[name]) for name in first if name in second]
    if not pairs:
        if len(first) != len(second):
            return Comparison(None, "they have no output in common")
        pairs = [
            (name, value, other)
            for (name, value), other in zip(first.items(), second.values(), strict=True)
        ]
    largest, worst = 0.0, ""
    for name, value, other in pairs:
        if value.shape != other.shape:
            shown = f"{list(value.shape)} and {list(other.shape)}"
            return Comparison(math.inf, f"output {name!r} has the shapes {shown}", name)
        difference = _distance(value, other)
        if difference > largest:
            largest, worst = difference, name
    return Comparison(largest, None, worst)


def _distance(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Largest difference relative to the largest finite value; infinite where NaNs differ."""
    if first.size == 0:
        return 0.0
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if np.array_equal(one, two, equal_nan=True):
        return 0.0
    odd = ~np.isfinite(one) | ~np.isfinite(two)
    if not np.array_equal(one[odd], two[odd], equal_nan=True):
        return math.inf
    size = np.abs(one[~odd]).max(initial=0.0)
    return float(np.abs(one[~odd] - two[~odd]).max(initial=0.0) / (size or 1.0))


def _run(proto: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> Feed | str:
    try:
        session = plain_session(proto)
        given: Feed = {node.name: feed[node.name].astype(_NUMPY[node.type], copy=False)
                 for node in session.get_inputs()}  # fmt: skip
        names = [node.name for node in session.get_outputs()]
        return dict(zip(names, session.run(names, given), strict=True))
    except Exception as error:  # its exceptions share no base but Exception
        return " ".join(str(error).split())[:200]


_NUMPY = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(int16)": np.int16,
    "tensor(uint16)": np.uint16, "tensor(int32)": np.int32, "tensor(uint32)": np.uint32,
    "tensor(int64)": np.int64, "tensor(uint64)": np.uint64, "tensor(bool)": np.bool_,
}  # fmt: skip


def _feed(proto: onnx.ModelProto, other: onnx.ModelProto, seed: int) -> Feed | str:
    """Random inputs that both graphs take; extents the other fixes are taken from there."""
    from onnx import helper

    random = np.random.default_rng(seed)
    fixed = {value.name: value for value in View(other).inputs}
    feed: Feed = {}
    for value in View(proto).inputs:
        kind = value.type.tensor_type
        try:
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        except (KeyError, ValueError):
            return f"input {value.name!r} is no tensor of numbers"
        if dtype.kind not in "fiub" or dtype.itemsize > 8:
            return f"input {value.name!r} is no tensor of numbers"
        twin = fixed.get(value.name, value).type.tensor_type.shape.dim
        shape = []
        for at, extent in enumerate(kind.shape.dim):
            known = extent.dim_value or (twin[at].dim_value if at < len(twin) else 0)
            shape.append(known if known > 0 else _FREE if at == 0 else _FREE_SIDE)
        if math.prod(shape) > _MOST_VALUES:
            return f"input {value.name!r} is too large to make up: {shape}"
        feed[value.name] = _values(random, shape, dtype)
    return feed


def _values(random: np.random.Generator, shape: list[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return random.uniform(-1, 1, shape).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    # Integers are usually indices, and the smallest fit everywhere; bytes are pixels.
    return random.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)
