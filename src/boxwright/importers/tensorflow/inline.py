"""Calls of functions replaced by what the functions do.

TensorFlow 2 keeps a network as functions that call each other. Inside of a function a value
is ``node:output:index``, an argument its bare name; in the graph that results, ``node`` or
``node:index``. Variables are arguments too, so a call passes them on by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boxwright.importers.tensorflow.network import MAX_NODES, refusal, short
from boxwright.importers.tensorflow.proto import message

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_MAX_DEPTH = 50
# Operations whose outputs have names of their own; all others have one, perhaps a list.
_OUTPUTS = {
    **dict.fromkeys(
        ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
        ("y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2"),
    ),
    "TopKV2": ("values", "indices"),
}


@dataclass
class _Scope:
    """A function's body, or the graph itself, while it is written out.

    Attributes:
        prefix: In front of its nodes' names in the result.
        nodes: Its nodes by their own names.
        arguments: What its arguments are in the result.
        done: Its nodes' outputs in the result: a node's name, or a call's results.
        function: Its signature, to know its results; ``None`` for the graph itself.
        depth: How many calls deep it is.
    """

    prefix: str
    nodes: dict[str, Any]
    arguments: dict[str, str] = field(default_factory=dict)
    done: dict[str, str | list[str]] = field(default_factory=dict)
    depth: int = 0


class Inliner:
    """Writes out a graph with functions.

    Args:
        graph: ``GraphDef``.
        path: The file, for messages.
    """

    def __init__(self, graph: Any, path: Path) -> None:
        self.path = path
        self.graph = graph
        self.functions = {f.signature.name: f for f in graph.library.function}
        self.result = message("GraphDef")
        self.count = 0

    def inlined(self, wanted: Sequence[str], *, control: bool = False) -> tuple[Any, list[str]]:
        """A ``GraphDef`` without calls that has what the values `wanted` need.

        Args:
            wanted: Values, ``name:index``, or with `control` operations.
            control: Follow what must only have happened before, too.

        Returns:
            The graph, and what each of `wanted` is called in it.
        """
        self.result = message("GraphDef")
        self.count = 0
        scope = _Scope("", {node.name: node for node in self.graph.node})
        references = [self._value(scope, name, control) for name in wanted]
        return self.result, references

    def _value(self, scope: _Scope, reference: str, control: bool) -> str:
        """What a reference inside of a scope is in the result; its node is written first."""
        pending = [(scope, reference.lstrip("^").partition(":")[0], False)]
        opened: set[str] = set()
        while pending:
            inner, name, ready = pending.pop()
            if name in inner.done or name in inner.arguments:
                continue
            node = inner.nodes.get(name)
            if node is None:
                raise refusal(self.path, f"{short(name)!r} is used, but is not there")
            if ready:
                self._write(inner, node, control)
                continue
            if name in opened:
                raise refusal(self.path, f"{short(name)!r} depends on itself (a loop)")
            opened.add(name)
            pending.append((inner, name, True))
            for text in node.input:
                if control or not text.startswith("^"):
                    pending.append((inner, text.lstrip("^").partition(":")[0], False))
        return self._resolved(scope, reference)

    def _resolved(self, scope: _Scope, reference: str) -> str:
        """A reference in the words of the result."""
        parts = reference.lstrip("^").split(":")
        name = parts[0]
        if name in scope.arguments:
            return scope.arguments[name]
        done = scope.done[name]
        index = int(parts[-1]) if len(parts) > 1 and parts[-1].isdecimal() else 0
        if isinstance(done, list):
            if not done:
                return ""
            if index >= len(done):
                raise refusal(self.path, f"{short(name)!r} has no result {index}")
            return done[index]
        node = scope.nodes[name]
        if len(parts) == 3 and node.op in _OUTPUTS:
            outputs = _OUTPUTS[node.op]
            index += outputs.index(parts[1]) if parts[1] in outputs else len(outputs)
        return f"{done}:{index}" if index else done

    def _write(self, scope: _Scope, node: Any, control: bool) -> None:
        self.count += 1
        if self.count > MAX_NODES:
            raise refusal(self.path, f"its functions call each other more than {MAX_NODES} times")
        if node.op in _CALLS or node.op in self.functions:
            scope.done[node.name] = self._call(scope, node, control)
            return
        name = scope.prefix + node.name
        copied = self.result.node.add()
        copied.CopyFrom(node)
        copied.name = name
        del copied.input[:]
        copied.input.extend(self._resolved(scope, x) for x in node.input if not x.startswith("^"))
        scope.done[node.name] = name

    def _call(self, scope: _Scope, node: Any, control: bool) -> list[str]:
        name = node.attr["f"].func.name if node.op in _CALLS else node.op
        function = self.functions.get(name)
        if function is None:
            raise refusal(self.path, f"{short(node.name)!r} calls {short(name)!r}: it is not there")
        if scope.depth >= _MAX_DEPTH:
            raise refusal(self.path, f"its functions call each other {_MAX_DEPTH} deep")
        values = [self._resolved(scope, x) for x in node.input if not x.startswith("^")]
        names = [argument.name for argument in function.signature.input_arg]
        if len(values) != len(names):
            raise refusal(
                self.path, f"{short(name)!r} takes {len(names)} arguments, got {len(values)}"
            )
        inner = _Scope(
            f"{scope.prefix}{node.name}/",
            {inner.name: inner for inner in function.node_def},
            dict(zip(names, values, strict=True)),
            depth=scope.depth + 1,
        )
        if control:
            # What is restored is assigned, and no result depends on that.
            for effect in function.node_def:
                self._value(inner, effect.name, control)
        return [
            self._value(inner, function.ret[result.name], control)
            for result in function.signature.output_arg
        ]
