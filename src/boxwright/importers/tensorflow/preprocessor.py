"""The Object Detection API's preprocessor: a loop over images that resizes and normalises.

Its exports take images of any size. ``map_fn`` brings each to the network's size: as
``TensorArray`` operations and a loop of ``Enter``, ``Switch``, ``Merge`` and
``NextIteration`` in TensorFlow 1, as ``TensorList`` operations and a ``While`` with a
function for its body in TensorFlow 2. Resizing is done outside of a model here, so the loop
is replaced by what else it does: its arithmetic on pixels, on the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.importers.tensorflow.graphdef import tensor_of
from boxwright.importers.tensorflow.network import MAX_NODES, Array

_ENDS = ("TensorArrayGatherV3", "TensorListStack")
_LOOPS = ("While", "StatelessWhile")
_BRANCHES = ("If", "StatelessIf")
_ARITHMETIC = ("Mul", "Add", "AddV2", "Sub", "RealDiv", "Div")
_PADS = ("Pad", "PadV2")
_RESIZES = ("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea")
_FLOAT = 1  # DataType of types.proto
# Numbers for each channel, or a mean image; a few bytes can ask for far more.
_MAX_CONSTANT = 1 << 22
# What changes no pixel's value, and takes it as its first input.
_PASSES = (
    *("Identity", "StopGradient", "Cast", "Squeeze", "ExpandDims", "Reshape", "Unpack"),
    *("StridedSlice", "Slice", "Switch", "Merge", "Enter", "Exit", "NextIteration", "Pack"),
)


@dataclass(frozen=True)
class Preprocessor:
    """What the loop did.

    Attributes:
        size: ``(height, width)`` of its results; -1 is an extent it leaves open.
        keeps_aspect: It fits images into that size instead of stretching them.
        pad: The pixel, 0 to 255, that it pads with; ``None`` where it does not.
    """

    size: tuple[int, int]
    keeps_aspect: bool
    pad: float | None


@dataclass
class _Scope:
    """Nodes that name each other: a graph's, or a function's.

    Attributes:
        nodes: By name.
        arguments: What a function's arguments are outside of it.
        outer: Where that is.
    """

    nodes: dict[str, Any]
    arguments: dict[str, str] = field(default_factory=dict)
    outer: _Scope | None = None


@dataclass
class _Step:
    """One operation on pixels: ``a op b`` with a constant on one side."""

    kind: str
    constant: Array
    constant_first: bool

    def apply(self, x: Array) -> Array:
        a, b = (self.constant, x) if self.constant_first else (x, self.constant)
        if self.kind == "Mul":
            return np.asarray(a * b)
        if self.kind in ("Add", "AddV2"):
            return np.asarray(a + b)
        return np.asarray(a - b if self.kind == "Sub" else a / b)


class _Found:
    """What is seen on the way from the loop's result to its images, last first."""

    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self.resizes: list[tuple[Any, _Scope]] = []
        self.padded_after: int | None = None
        self.padded_with = 0.0


def cut_preprocessor(graph: Any, path: Path) -> Preprocessor | None:
    """Replace the loop, in place, by its arithmetic; ``None`` where there is none."""
    functions = {function.signature.name: function for function in graph.library.function}
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    found = None
    walk = _Walk(functions, path)
    for body in bodies:
        scope = _Scope({node.name: node for node in body})
        for node in [node for node in body if node.op in _ENDS]:
            try:
                with np.errstate(all="ignore"):
                    done = walk.cut(scope, node, body)
            except (IndexError, ValueError, OverflowError):
                # An operation without the inputs it needs, or with constants that do not fit
                # each other: whoever runs it will say.
                continue
            found = found or done
    return found


class _Walk:
    def __init__(self, functions: dict[str, Any], path: Path) -> None:
        self.functions = functions
        self.path = path
        self.left = 10 * MAX_NODES

    def cut(self, scope: _Scope, end: Any, body: Any) -> Preprocessor | None:
        found = _Found()
        start = self._result(scope, end)
        source = None if start is None else self._follow(*start, found)
        if source is None or source[0] is not scope or not found.resizes:
            return None
        inside = len(found.steps)
        self._follow(scope, source[1], found)  # what is done to pixels before the loop
        preprocessor = self._describe(scope, end, found)
        _replace(body, end, source[1], found.steps[:inside][::-1])
        return preprocessor

    def _result(self, scope: _Scope, end: Any) -> tuple[_Scope, str] | None:
        """The value for one image that the loop adds to what `end` stacks."""
        if end.op == "TensorArrayGatherV3":
            node = self._behind(scope, end.input[2], ("Exit", "Switch", "Merge"))
            write = self._behind(scope, node[1].input[0], ("NextIteration",)) if node else None
            if write is None or write[1].op != "TensorArrayWriteV3":
                return None
            return write[0], write[1].input[2]
        loop = self._behind(scope, end.input[0], ("StopGradient", "Identity"))
        if loop is None or loop[1].op not in _LOOPS:
            return None
        entered = self._enter(scope, loop[1], "body", loop[2], 0)
        item = self._behind(*entered, ("Identity",)) if entered else None
        if item is None or item[1].op != "TensorListSetItem":
            return None
        return item[0], item[1].input[2]

    def _behind(
        self, scope: _Scope, reference: str, passed: Sequence[str]
    ) -> tuple[_Scope, Any, int] | None:
        """The node that makes a value, past those of some kinds, and which output it is."""
        while self.left > 0:
            self.left -= 1
            name, index = _split(reference)
            if name in scope.arguments and scope.outer is not None:
                scope, reference = scope.outer, scope.arguments[name]
                continue
            node = scope.nodes.get(name)
            if node is None:
                return None
            if node.op not in passed or not node.input:
                return scope, node, index
            # A loop's value comes round by the second input of its Merge.
            back = node.op == "Merge" and "NextIteration" not in passed and len(node.input) > 1
            reference = node.input[1 if back else 0]
            if back:
                behind = scope.nodes.get(_split(reference)[0])
                return None if behind is None else (scope, behind, 0)
        return None

    def _enter(
        self, scope: _Scope, node: Any, attribute: str, index: int, skipped: int
    ) -> tuple[_Scope, str] | None:
        """A result of the function that a loop or a condition runs, inside of it."""
        function = self.functions.get(node.attr[attribute].func.name)
        if function is None or index >= len(function.signature.output_arg):
            return None
        names = [argument.name for argument in function.signature.input_arg]
        given = [x for x in node.input if not x.startswith("^")][skipped:]
        inner = _Scope(
            {n.name: n for n in function.node_def}, dict(zip(names, given, strict=False)), scope
        )
        return inner, function.ret[function.signature.output_arg[index].name]

    def _follow(self, scope: _Scope, reference: str, found: _Found) -> tuple[_Scope, str] | None:
        """Back to what a loop iterates over; ``None`` where another operation is in the way."""
        while self.left > 0:
            at = self._behind(scope, reference, ())
            if at is None:
                return None
            scope, node, index = at
            data = [x for x in node.input if not x.startswith("^")]
            if node.op in _BRANCHES:
                entered = self._enter(scope, node, "then_branch", index, 1)
                if entered is None:
                    return None
                scope, reference = entered
            elif node.op == "TensorArrayReadV3":
                scatter = self._behind(scope, data[2], ("Enter", "Identity"))
                known = scatter is not None and scatter[1].op == "TensorArrayScatterV3"
                return (scatter[0], scatter[1].input[2]) if scatter and known else None
            elif node.op == "TensorListGetItem":
                made = self._behind(scope, data[0], ("Identity",))
                known = made is not None and made[1].op == "TensorListFromTensor"
                return (made[0], made[1].input[0]) if made and known else None
            elif node.op in _ARITHMETIC and len(data) == 2:
                step = self._step(scope, node, data)
                if step is None:
                    return None
                found.steps.append(step)
                reference = data[1] if step.constant_first else data[0]
            elif data and (node.op in (*_PADS, *_RESIZES) or _passes(node, data)):
                if node.op in _PADS:
                    found.padded_after = len(found.steps)
                elif node.op in _RESIZES:
                    found.resizes.append((node, scope))
                reference = data[0]
            elif node.op == "Pack" and (unpacked := self._padded(scope, data, found)):
                reference = unpacked
            else:
                return None
        return None

    def _padded(self, scope: _Scope, data: list[str], found: _Found) -> str | None:
        """What is parted into channels that are padded each with a value of its own."""
        pads = [scope.nodes.get(_split(reference)[0]) for reference in data]
        if any(pad is None or pad.op not in _PADS for pad in pads):
            return None
        channels = [_split(pad.input[0]) for pad in pads if pad is not None]
        if channels != [(channels[0][0], index) for index in range(len(data))]:
            return None
        values = [
            self._constant(scope, pad.input[2])
            for pad in pads
            if pad is not None and pad.op == "PadV2"
        ]
        found.padded_after = len(found.steps)
        found.padded_with = float(np.mean([0.0 if v is None else v.mean() for v in values] or [0]))
        return channels[0][0]

    def _step(self, scope: _Scope, node: Any, data: list[str]) -> _Step | None:
        for index in (1, 0):
            constant = self._constant(scope, data[index])
            sound = constant is not None and constant.size <= _MAX_CONSTANT
            if constant is not None and sound and constant.dtype.kind == "f":
                return _Step(node.op, constant, index == 0)
        return None

    def _constant(self, scope: _Scope, reference: str) -> Array | None:
        at = self._behind(scope, reference, ("Identity", "Enter", "Cast"))
        if at is None or at[1].op != "Const":
            return None
        return tensor_of(at[1].attr["value"].tensor, "a constant of its preprocessor", self.path)

    def _describe(self, scope: _Scope, end: Any, found: _Found) -> Preprocessor:
        size = self._size(scope, end)
        constant = [self._constant(inner, node.input[1]) for node, inner in found.resizes]
        if -1 in size and constant[0] is not None and constant[0].size == 2:
            height, width = constant[0].reshape(-1).tolist()
            size = (int(height), int(width))
        pad = None
        if found.padded_after is not None:
            # The pixel that the arithmetic before the padding makes the padding's value of.
            low, high = np.zeros(1, np.float64), np.full(1, 255, np.float64)
            for step in found.steps[found.padded_after :][::-1]:
                low, high = step.apply(low), step.apply(high)
            slope = np.mean(high - low) / 255
            below = found.padded_with - np.mean(low)
            pad = float(np.clip(below / slope, 0, 255)) if slope else 0.0
            if not math.isfinite(pad):
                raise ValueError("its padding is no pixel")
        return Preprocessor(size, any(c is None for c in constant) or pad is not None, pad)

    def _size(self, scope: _Scope, end: Any) -> tuple[int, int]:
        if end.op == "TensorArrayGatherV3":
            extents = [int(dim.size) for dim in end.attr["element_shape"].shape.dim]
        else:
            shape = self._constant(scope, end.input[1])
            extents = [] if shape is None else [int(x) for x in shape.reshape(-1)]
        return (extents[0], extents[1]) if len(extents) == 3 else (-1, -1)


def _passes(node: Any, data: list[str]) -> bool:
    return node.op in _PASSES and (node.op != "Pack" or len(data) == 1)


def _split(reference: str) -> tuple[str, int]:
    name, *rest = reference.lstrip("^").split(":")
    return name, int(rest[-1]) if rest and rest[-1].isdecimal() else 0


def _replace(body: Any, end: Any, source: str, steps: list[_Step]) -> None:
    """Make of the node `end` the last of `steps` on the value `source`."""
    name = end.name
    end.Clear()
    end.name, end.op = name, "Identity"
    for number, step in enumerate(steps):
        constant = body.add()
        constant.name, constant.op = f"{name}/constant_{number}", "Const"
        tensor = constant.attr["value"].tensor
        data = step.constant.astype(np.float32)
        tensor.dtype = _FLOAT
        for extent in data.shape:
            tensor.tensor_shape.dim.add().size = extent
        tensor.tensor_content = data.tobytes()
        made = body.add()
        made.name, made.op = f"{name}/step_{number}", step.kind
        operands = [source, constant.name]
        made.input.extend(operands[::-1] if step.constant_first else operands)
        source = made.name
    end.input.append(source)
