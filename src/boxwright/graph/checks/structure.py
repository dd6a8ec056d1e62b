"""How the graph is put together: order, names, inputs, outputs, nodes that do nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from boxwright.graph.checks.seen import Seen
from boxwright.graph.targets import Target
from boxwright.graph.view import (
    STANDARD,
    Place,
    Shape,
    View,
    dims_of,
    subgraphs,
    tensor_of_constant,
)

# What exporters write: words, digits and / . : _ - [ ]. Anything else has broken some tool.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_./:\-\[\]]*")

# Operators of which NVIDIA's parsers convert the first output alone. Further outputs of
# BatchNormalization before opset 14 are another matter: they say that it is training.
FIRST_OUTPUT_ONLY = {"LayerNormalization", "MaxPool"}

# NVIDIA's parsers make one output of these; TensorRT 8.6 counts those without a name, too.
_COUNTED = FIRST_OUTPUT_ONLY | {"BatchNormalization"}

# The parsers let any output of these be left out.
_RECURRENT = {"GRU", "LSTM", "RNN"}

_MOST_MALFORMED = 20


def initializers_as_inputs(view: View, target: Target) -> Iterator[Seen]:
    """Weights that are listed as inputs too, as IR version 3 asked for."""
    both = [value.name for value in view.graph.input if value.name in view.initializers]
    if both:
        yield Seen("initializers-as-inputs", f"{len(both)}, such as {both[0]!r}", subject=both[0])


def malformed(view: View, target: Target) -> Iterator[Seen]:
    """Nodes that break their operator's definition; the other checks leave them out."""
    for place, fault in view.malformed[:_MOST_MALFORMED]:
        yield Seen("malformed", fault, place)
    for name, fault in view.broken_tensors[:_MOST_MALFORMED]:
        yield Seen("malformed", f"{name!r}: {fault}", subject=name)


def order(view: View, target: Target) -> Iterator[Seen]:
    """A node that reads what a later one makes."""
    known = {value.name for value in view.graph.input} | set(view.initializers)
    for place in view.places:
        if place.depth:
            continue
        for name in place.node.input:
            if name and name not in known and name in view.producers:
                yield Seen("order", f"it reads {name!r}, which a later node makes", place)
                return
        known.update(place.node.output)


def names(view: View, target: Target) -> Iterator[Seen]:
    """Nodes of one name, and names that are more than letters and digits."""
    count = Counter(place.node.name for place in view.places if place.node.name)
    twice = [name for name, number in count.items() if number > 1]
    if twice:
        yield Seen("duplicate-names", f"{len(twice)} name(s), such as {twice[0]!r}",
                   subject=twice[0])  # fmt: skip
    inner = {name for place in view.places for name in place.node.output}
    fixed = {value.name for value in (*view.graph.input, *view.graph.output)}
    odd = sorted(n for n in (inner | set(count)) - fixed if not PLAIN_NAME.fullmatch(n))
    if odd:
        yield Seen("odd-names", f"{len(odd)} name(s), such as {odd[0]!r}", subject=odd[0])


def outputs(view: View, target: Target) -> Iterator[Seen]:
    """Outputs that are missing, without a type, or inputs."""
    made = set(view.producers) | set(view.initializers)
    given = {value.name for value in view.inputs}
    if not view.graph.output:
        yield Seen("no-outputs", "the graph declares none")
    for value in view.graph.output:
        if value.name in given:
            yield Seen("output-is-input", f"{value.name!r}", subject=value.name)
        elif value.name not in made:
            yield Seen("output-not-produced", f"{value.name!r}", subject=value.name,
                       curable=dangling(view) is not None)  # fmt: skip
        elif not value.HasField("type") or (
            value.type.HasField("tensor_type") and not value.type.tensor_type.elem_type
        ):
            yield Seen("output-untyped", f"{value.name!r}", subject=value.name,
                       curable=value.name in view.types)  # fmt: skip


def dangling(view: View) -> str | None:
    """The one tensor that must be the one missing output, if it is that clear."""
    made = set(view.producers) | set(view.initializers) | {v.name for v in view.graph.input}
    missing = [value.name for value in view.graph.output if value.name not in made]
    loose = [name for name in view.producers if not view.uses[name]]
    return loose[0] if len(missing) == len(loose) == 1 else None


def node_outputs(view: View, target: Target) -> Iterator[Seen]:
    """Outputs that are left out, or that NVIDIA's parsers do not make."""
    for place in view.places:
        node = place.node
        named = [name for name in node.output if name]
        if len(named) < len(node.output):
            code = "empty-outputs-counted" if node.op_type in _COUNTED else "empty-outputs"
            if node.op_type not in _RECURRENT:
                what = f"{len(node.output) - len(named)} of {len(node.output)}"
                yield Seen(code, what, place, curable=not place.depth)
        extra = [name for name in node.output[1:] if name]
        if extra and node.op_type in FIRST_OUTPUT_ONLY:
            if place.depth or any(view.uses[name] for name in extra):
                code = "pool-indices" if node.op_type == "MaxPool" else "extra-outputs"
                yield Seen(code, f"{', '.join(extra)} is used", place)
            else:
                yield Seen("unused-outputs", f"{', '.join(extra)}", place)


def noise(view: View, target: Target) -> Iterator[Seen]:
    """Identity and Dropout, Constant nodes, casts of casts."""
    standard = [place for place in view.places if place.node.domain in STANDARD]
    idle = [p for p in standard if p.node.op_type in ("Identity", "Dropout") and not p.depth]
    if idle:
        yield Seen("no-op", f"{len(idle)} of them", idle[0])
    constants = [p for p in standard if tensor_of_constant(p.node) is not None and not p.depth]
    if constants:
        yield Seen("constant-node", f"{len(constants)} of them", constants[0])
    yield from _constant_integers(view, standard)
    for place in standard:
        before = view.producers.get(place.node.input[0]) if place.node.input else None
        if place.node.op_type == "Cast" and before is not None and before.op_type == "Cast":
            yield Seen("cast-chain", f"it casts what {before.name or before.output[0]!r} cast",
                       place, curable=not place.depth)  # fmt: skip


def _constant_integers(view: View, standard: list[Place]) -> Iterator[Seen]:
    """Constant nodes that keep integers in an attribute instead of a tensor."""
    codes = {"value_ints": "constant-integers", "value_int": "constant-integer"}
    fixed = {value.name for value in view.graph.output}
    for place in standard:
        if place.node.op_type == "Constant":
            stays = place.depth or place.node.output[0] in fixed
            for item in place.node.attribute:
                if item.name in codes:
                    yield Seen(codes[item.name], item.name, place, curable=not stays)


def foldable(view: View, target: Target) -> Iterator[Seen]:
    """Batch normalisation right after a convolution that nobody else reads."""
    for place in view.places:
        node = place.node
        if node.op_type != "BatchNormalization" or place.depth or len(node.input) < 5:
            continue
        before = view.producers.get(node.input[0])
        if (
            before is not None
            and before.op_type == "Conv"
            and len(before.input) > 1
            and view.uses[node.input[0]] == 1
            and not any(node.output[1:])
            and all(name in view.initializers for name in (before.input[1], *node.input[1:5]))
        ):
            yield Seen("foldable-batchnorm", f"after {before.name or before.output[0]!r}", place)


def control_flow(view: View, target: Target) -> Iterator[Seen]:
    """If, Loop and Scan, and branches whose shapes differ."""
    for place in view.places:
        branches = list(subgraphs(place.node))
        if place.node.op_type not in ("If", "Loop", "Scan") or not branches:
            continue
        yield Seen("control-flow", f"{sum(len(b.node) for b in branches)} nodes inside", place)
        if place.node.op_type != "If" or len(branches) != 2:
            continue
        if view.input_constant(place.node, 0) is not None:
            yield Seen("constant-if", "only one branch is ever taken", place,
                       curable=not place.depth)  # fmt: skip
            continue
        for one, other in zip(branches[0].output, branches[1].output, strict=False):
            first, second = dims_of(one), dims_of(other)
            if first is None or second is None:
                continue
            if len(first) != len(second):
                what = f"{len(first)} and {len(second)} dimensions"
                yield Seen("control-flow-rank", what, place)
                break
            if any(a != b and None not in (a, b) for a, b in zip(first, second, strict=True)):
                yield Seen("control-flow-shape", f"{_shown(first)} and {_shown(second)}", place)
                break


def _shown(shape: Shape) -> str:
    return " x ".join("?" if extent is None else str(extent) for extent in shape)


CHECKS = (
    malformed,
    initializers_as_inputs,
    order,
    names,
    outputs,
    node_outputs,
    noise,
    foldable,
    control_flow,
)
