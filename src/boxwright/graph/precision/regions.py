"""Which nodes to convert, their neighbours considered.

A node that is safe by itself stays in float32 where it decodes what the last products
found, and where nothing around it gains from float16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from boxwright.graph.precision.report import Kept, Weights
from boxwright.graph.precision.rules import MOVES, PRODUCTS, QUANTISED, Judge
from boxwright.graph.view import View

if TYPE_CHECKING:
    import onnx


@dataclass
class Decision:
    """Which nodes of the main graph are converted.

    Attributes:
        view: The graph.
        half: Indices of the nodes that are.
        kept: Why the others that deal in float32 are not, by index: reason and detail.
        weights: What was found of each constant looked at.
    """

    view: View
    half: set[int] = field(default_factory=set)
    kept: dict[int, tuple[str, str]] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = self.view.graph.node
        self._made_by = {name: i for i, node in enumerate(nodes) for name in node.output if name}

    def keep(self, index: int, reason: str, detail: str = "") -> None:
        """Let a node stay in float32."""
        self.half.discard(index)
        self.kept[index] = (reason, detail)

    def maker(self, name: str) -> int | None:
        """Index of the node that makes a tensor."""
        return self._made_by.get(name)

    def keeps(self, node: onnx.NodeProto) -> bool:
        """Whether a node of the main graph computes in float32."""
        return self._made_by.get(next((n for n in node.output if n), "")) in self.kept

    def listed(self) -> tuple[Kept, ...]:
        """For a report, in the order of the graph."""
        nodes = self.view.graph.node
        return tuple(
            Kept(nodes[i].name or nodes[i].output[0], nodes[i].op_type, *self.kept[i])
            for i in sorted(self.kept)
        )


def decide(
    view: View, keep: Iterable[str], ranges: Mapping[str, tuple[float, float]] | None
) -> Decision:
    """Which nodes to convert; see :func:`boxwright.graph.precision.to_half`."""
    judge = Judge(view, tuple(keep), ranges or {})
    found = Decision(view, weights=judge.weights)
    for index, node in enumerate(view.graph.node):
        if not judge.deals_in_floats(node):
            continue
        verdict = judge.verdict(node)
        if verdict is None:
            found.half.add(index)
        else:
            found.keep(index, *verdict)
    _keep_tail(judge, found)
    _keep_islands(found)
    return found


def _keep_tail(judge: Judge, found: Decision) -> None:
    """Keep what computes after the last product on every way to the outputs.

    What merely moves values there is converted as far as it is fed with float16: half the
    bytes are moved.
    """
    nodes = found.view.graph.node
    tail = _after_products(found)
    for index in tail:
        node = nodes[index]
        follows = node.op_type in MOVES or node.op_type in QUANTISED
        if index in found.half and not (follows and not _is_fed_float32(judge, found, node)):
            found.keep(index, "tail")
    for index in reversed(tail):
        node = nodes[index]
        # Integers are scaled once: for readers in float32, to float32.
        if index in found.half and node.op_type == "DequantizeLinear":
            readers = found.view.readers.get(node.output[0], [])
            if readers and all(map(found.keeps, readers)):
                found.keep(index, "tail")


def _after_products(found: Decision) -> list[int]:
    """Indices of the nodes from which no product in float16 is reached, in order."""
    nodes = found.view.graph.node
    reaching: set[str] = set()
    tail: list[int] = []
    for index in range(len(nodes) - 1, -1, -1):
        node = nodes[index]
        product = index in found.half and node.op_type in PRODUCTS
        if product or any(name in reaching for name in node.output):
            reaching.update(node.input)
        else:
            tail.append(index)
    return tail[::-1]


def _is_fed_float32(judge: Judge, found: Decision, node: onnx.NodeProto) -> bool:
    sources = (found.view.producers.get(n) for n in node.input if judge.is_float(n))
    return any(source is not None and found.keeps(source) for source in sources)


def _keep_islands(found: Decision) -> None:
    """Keep what hangs together without a product: casts around it cost more than it saves."""
    nodes = found.view.graph.node
    parent = {index: index for index in found.half}

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index in found.half:
        for name in nodes[index].input:
            source = found.maker(name)
            if source is not None and source in found.half:
                parent[root(index)] = root(source)
    useful = {root(index) for index in found.half if nodes[index].op_type in PRODUCTS}
    for index in sorted(found.half):
        if root(index) not in useful:
            found.keep(index, "island")
