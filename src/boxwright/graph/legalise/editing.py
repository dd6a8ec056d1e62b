"""What every pass is made of: a copy to edit, new names, and a report of what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import onnx

from boxwright.errors import NotCurableError
from boxwright.graph.view import View, all_places, subgraphs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


# What reading a graph raises whose attributes and shapes contradict each other.
_DO_NOT_FIT = (
    ArithmeticError,
    IndexError,
    KeyError,
    NotImplementedError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
)


@dataclass(frozen=True)
class ChangeReport:
    """What a pass did.

    Attributes:
        name: The pass.
        changes: One line for each thing it changed, in the order of the graph.
        nodes: The nodes it touched, by their names or first outputs.
        before: Number of nodes by operator before it; only those whose number changed.
        after: The same, after it.
        tolerance: The largest difference that its change may make, relative to the largest
            value of each output; 0 where results must be the same to the bit.
        reason: Why not 0; ``""`` where it is.
    """

    name: str
    changes: tuple[str, ...]
    nodes: tuple[str, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]
    tolerance: float = 0.0
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields, for ``--json``."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in vars(self).items()}


@dataclass
class Editor:
    """A copy of a model that a pass may change, and its notes about that."""

    proto: onnx.ModelProto
    changes: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._taken = _all_names(self.proto.graph)
        self.view = View(self.proto)

    @property
    def graph(self) -> onnx.GraphProto:
        """The main graph."""
        return self.proto.graph

    def refresh(self) -> View:
        """A new view, after changes."""
        self.view = View(self.proto)
        return self.view

    def note(self, node: onnx.NodeProto | None, text: str) -> None:
        """Remember a change, and the node it was made to."""
        name = "" if node is None else node.name or (node.output[0] if node.output else "")
        self.changes.append(f"{node.op_type} {name!r}: {text}" if node is not None else text)
        if node is not None:
            self.nodes.append(name)

    def fresh(self, hint: str) -> str:
        """A name for a tensor or node that is not taken; it starts with `hint`."""
        name, number = hint, 1
        while name in self._taken:
            name, number = f"{hint}_{number}", number + 1
        self._taken.add(name)
        return name

    def constant(self, values: ArrayLike | NDArray[Any], hint: str, dtype: Any = None) -> str:
        """Add an initializer; its name."""
        from onnx import numpy_helper

        name = self.fresh(hint)
        tensor = numpy_helper.from_array(np.ascontiguousarray(np.asarray(values, dtype)), name)
        tensor.dims[:] = np.shape(values)
        self.graph.initializer.append(tensor)
        return name

    def rewrite(self, replace: Callable[[onnx.NodeProto], Iterable[onnx.NodeProto] | None]) -> None:
        """Replace nodes of the main graph: `replace` gives the new ones, or ``None`` to keep."""
        kept: list[onnx.NodeProto] = []
        for node in self.graph.node:
            new = replace(node)
            if new is None:
                kept.append(node)
            else:
                kept.extend(new)
        copies = [_copy(node) for node in kept]
        del self.graph.node[:]
        self.graph.node.extend(copies)


@dataclass
class Chain:
    """Nodes that take the place of one; the last gives its output."""

    edit: Editor
    origin: onnx.NodeProto
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node of the standard domain; the name of its output."""
        from onnx import helper

        base = self.origin.name or self.origin.output[0]
        name = self.edit.fresh(f"{base}/{kind.lower()}")
        output = output or self.edit.fresh(f"{self.origin.output[0]}/{kind.lower()}")
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def constant(self, values: ArrayLike, dtype: Any) -> str:
        """An initializer for these nodes."""
        base = self.origin.name or self.origin.output[0]
        return self.edit.constant(np.asarray(values, dtype), f"{base}/constant")


class Pass(Protocol):
    """A pass as users call it; see :class:`ChangeReport` for its tolerance and reason."""

    __name__: str
    tolerance: float
    reason: str

    def __call__(
        self, proto: onnx.ModelProto, **parameters: Any
    ) -> tuple[onnx.ModelProto, ChangeReport]:
        """Change a copy of `proto`; the report's `changes` are empty where nothing was to do.

        Raises:
            NotCurableError: The graph does not let it.
        """
        ...


PASSES: dict[str, Pass] = {}
"""Every pass by its name."""


def legaliser(
    name: str, tolerance: float = 0.0, reason: str = ""
) -> Callable[[Callable[..., None]], Pass]:
    """Make a pass of a function that edits; see :class:`ChangeReport` for the parameters."""

    def wrap(change: Callable[..., None]) -> Pass:
        def run(proto: onnx.ModelProto, **parameters: Any) -> tuple[onnx.ModelProto, ChangeReport]:
            edit = Editor(_copy(proto))
            before = operators_of(proto)
            try:
                change(edit, **parameters)
            except _DO_NOT_FIT as error:
                said = " ".join(str(error).split())[:200]
                raise NotCurableError(
                    f"the pass {name!r} cannot read this graph, whose numbers do not fit "
                    f"together: {type(error).__name__}: {said}"
                ) from error
            after = operators_of(edit.proto)
            report = ChangeReport(
                name,
                tuple(edit.changes),
                tuple(dict.fromkeys(edit.nodes)),
                {k: n for k, n in before.items() if after.get(k) != n},
                {k: n for k, n in after.items() if before.get(k) != n},
                tolerance,
                reason,
            )
            return (edit.proto if edit.changes else proto), report

        run.__name__ = change.__name__
        run.__doc__ = change.__doc__
        run.__module__ = change.__module__
        run.tolerance, run.reason = tolerance, reason  # type: ignore[attr-defined]
        finished = cast("Pass", run)
        PASSES[name] = finished
        return finished

    return wrap


def operators_of(proto: onnx.ModelProto) -> dict[str, int]:
    """Number of nodes by operator, those inside of others too."""
    return dict(Counter(place.node.op_type for place in View(proto).places))


def rename(graph: onnx.GraphProto, new_names: Mapping[str, str]) -> None:
    """Let everybody who reads a tensor read it by its new name, at any depth that sees it."""
    for node in graph.node:
        for at, name in enumerate(node.input):
            if name in new_names:
                node.input[at] = new_names[name]
        for inner in subgraphs(node):
            # A body's own inputs hide what is called the same outside.
            hidden = {value.name for value in inner.input}
            seen = {old: new for old, new in new_names.items() if old not in hidden}
            if not seen:
                continue
            rename(inner, seen)
            for value in inner.output:
                value.name = seen.get(value.name, value.name)


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _all_names(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in (*graph.input, *graph.output)}
    names.update(tensor.name for tensor in graph.initializer)
    for place in all_places(graph):
        names.update((place.node.name, *place.node.input, *place.node.output))
    return names
