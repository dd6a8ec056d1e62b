"""Passes on how the graph is put together; none changes what is computed."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import onnx
from onnx import helper

from boxwright.errors import NotCurableError
from boxwright.graph.checks.structure import FIRST_OUTPUT_ONLY, PLAIN_NAME, dangling
from boxwright.graph.legalise.editing import Editor, legaliser, rename
from boxwright.graph.view import (
    STANDARD,
    all_places,
    attribute,
    definition,
    subgraphs,
    tensor_of_constant,
)

_Message = TypeVar("_Message", onnx.NodeProto, onnx.ValueInfoProto)


@legaliser("initializer-inputs")
def initializer_inputs(edit: Editor) -> None:
    """Take weights out of the list of inputs."""
    both = [v.name for v in edit.graph.input if v.name in edit.view.initializers]
    if not both:
        return
    inputs = [_again(value) for value in edit.view.inputs]
    del edit.graph.input[:]
    edit.graph.input.extend(inputs)
    edit.proto.ir_version = max(edit.proto.ir_version, 4)  # before 4 they had to be listed
    edit.note(None, f"{len(both)} initializer(s) no longer listed as inputs")


@legaliser("sort")
def sort(edit: Editor) -> None:
    """Put every node after those whose outputs it reads; others keep their order."""
    maker = {name: at for at, node in enumerate(edit.graph.node) for name in node.output if name}
    readers: list[list[int]] = [[] for _ in edit.graph.node]
    waits = []
    for at, node in enumerate(edit.graph.node):
        makers = {maker[name] for name in _reads(node) if name in maker}
        waits.append(len(makers))
        for before in makers:
            readers[before].append(at)
    ready = [at for at, number in enumerate(waits) if not number]
    heapq.heapify(ready)
    ordered = []
    while ready:
        at = heapq.heappop(ready)
        ordered.append(at)
        for later in readers[at]:
            waits[later] -= 1
            if not waits[later]:
                heapq.heappush(ready, later)
    if len(ordered) < len(waits):
        stuck = next(at for at, number in enumerate(waits) if number)
        raise NotCurableError(f"the graph has a circle through {edit.graph.node[stuck].name!r}")
    if ordered == sorted(ordered):
        return
    _replace_nodes(edit, [edit.graph.node[at] for at in ordered])
    edit.note(None, f"{len(ordered)} nodes put in order")


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from (name for name in node.input if name)
    for inner in subgraphs(node):
        for place in all_places(inner):
            yield from (name for name in place.node.input if name)
        yield from (value.name for value in inner.output)


@legaliser("names")
def names(edit: Editor) -> None:
    """Give nodes names of their own, and plain ones to nodes and tensors inside the graph."""
    taken: set[str] = set()
    for place in all_places(edit.graph):
        node = place.node
        if not node.name:
            continue
        name = _plain(node.name)
        number = 1
        while name in taken:
            name, number = f"{_plain(node.name)}_{number}", number + 1
        taken.add(name)
        if name != node.name:
            edit.note(node, f"now {name!r}")
            node.name = name
    fixed = {value.name for value in (*edit.graph.input, *edit.graph.output)}
    new_names: dict[str, str] = {}
    for node in edit.graph.node:
        for at, old in enumerate(node.output):
            if old and old not in fixed and not PLAIN_NAME.fullmatch(old):
                new_names[old] = node.output[at] = edit.fresh(_plain(old))
                edit.note(node, f"its output {old!r} is now {node.output[at]!r}")
    rename(edit.graph, new_names)
    for value in list(edit.graph.value_info):
        if not PLAIN_NAME.fullmatch(value.name):
            edit.graph.value_info.remove(value)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_./:\-\[\]]", "_", name) or "node"


@legaliser("outputs")
def outputs(edit: Editor) -> None:
    """Declare what nobody reads as outputs where there are none; name the one that is missing.

    An output that no node makes is taken for the one tensor that nobody reads, where both
    are one: the graph itself leaves no other reading.
    """
    loose = [name for name in edit.view.producers if not edit.view.uses[name]]
    if not edit.graph.output:
        if not loose:
            raise NotCurableError("no tensor is left over to be an output")
        for name in loose:
            edit.graph.output.append(_value(edit, name))
            edit.note(edit.view.producers[name], f"{name!r} is an output now")
        return
    only = dangling(edit.view)
    if only is None:
        return
    made = set(edit.view.producers) | set(edit.view.initializers)
    made |= {value.name for value in edit.graph.input}
    missing = next(value.name for value in edit.graph.output if value.name not in made)
    node = edit.view.producers[only]
    for at, name in enumerate(node.output):
        if name == only:
            node.output[at] = missing
    edit.note(node, f"its output {only!r} is {missing!r} now, which no node made")


@legaliser("shapes")
def shapes(edit: Editor) -> None:
    """Declare the types and shapes of outputs, as ONNX's inference finds them."""
    for value in edit.graph.output:
        untyped = not value.HasField("type") or not value.type.tensor_type.elem_type
        if untyped and value.name in edit.view.types:
            value.CopyFrom(_value(edit, value.name))
            edit.note(None, f"output {value.name!r} declared")


def _value(edit: Editor, name: str) -> onnx.ValueInfoProto:
    kind = edit.view.types.get(name)
    if kind is None:
        raise NotCurableError(f"the type of {name!r} cannot be inferred")
    return helper.make_tensor_value_info(name, kind, edit.view.shapes.get(name))


@legaliser("empty-outputs")
def empty_outputs(edit: Editor) -> None:
    """Take off outputs without a name, and those that nobody reads and targets refuse.

    Those that the operator must have get a name instead; what it computes stays the same.
    """
    for node in edit.graph.node:
        if node.op_type in FIRST_OUTPUT_ONLY:
            for at, name in enumerate(node.output):
                if at and name and not edit.view.uses[name]:
                    node.output[at] = ""
        number = len(node.output)
        while len(node.output) > 1 and not node.output[-1] and _is_optional(edit, node):
            node.output.pop()
        if len(node.output) < number:
            edit.note(node, f"{number - len(node.output)} unused output(s) taken off")
        if node.op_type in FIRST_OUTPUT_ONLY:
            continue
        for at, name in enumerate(node.output):
            if not name:
                node.output[at] = edit.fresh(f"{node.name or node.op_type.lower()}/unused")
                edit.note(node, f"its output {at} is {node.output[at]!r} now")


def _is_optional(edit: Editor, node: onnx.NodeProto) -> bool:
    """Whether the last output may be left out: not of Split, which would split otherwise."""
    known = definition(node.op_type, edit.view.opset) if node.domain in STANDARD else None
    at = len(node.output) - 1
    if known is None or at >= len(known.outputs):
        return False
    return bool(known.outputs[at].option == onnx.defs.OpSchema.FormalParameterOption.Optional)


@legaliser("no-ops")
def no_ops(edit: Editor) -> None:
    """Take out Identity, and Dropout, which outside of training is the same."""
    fixed = {value.name for value in edit.graph.output}
    given = {value.name for value in edit.graph.input} | set(edit.view.initializers)
    keep: list[onnx.NodeProto] = []
    now: dict[str, str] = {}
    for node in edit.graph.node:
        source = now.get(node.input[0], node.input[0]) if node.input else ""
        result = node.output[0] if node.output else ""
        # The names of outputs stay: such a node goes only where its source may take the name.
        stays = result in fixed and (source in fixed or source in given)
        if not _is_idle(edit, node) or stays:
            keep.append(node)
            continue
        edit.note(node, "taken out")
        if result in fixed:
            now |= {old: result for old, new in now.items() if new == source}
            now[source] = result
            given.add(result)
        else:
            now[result] = source
    rename(edit.graph, now)
    for node in keep:
        for at, name in enumerate(node.output):
            node.output[at] = now.get(name, name)
    _replace_nodes(edit, keep)


def _is_idle(edit: Editor, node: onnx.NodeProto) -> bool:
    if node.domain not in STANDARD or not node.input or not node.output:
        return False
    if node.op_type == "Dropout":
        masked = any(edit.view.uses[name] for name in node.output[1:] if name)
        mode = edit.view.input_constant(node, 2)
        known = len(node.input) < 3 or not node.input[2] or mode is not None
        return not masked and known and (mode is None or not np.any(mode))
    return node.op_type == "Identity"


@legaliser("constants")
def constants(edit: Editor) -> None:
    """Make initializers of Constant nodes."""
    keep = []
    fixed = {value.name for value in edit.graph.output}
    for node in edit.graph.node:
        tensor = tensor_of_constant(node)
        if tensor is None or not node.output or node.output[0] in fixed:
            keep.append(node)
            continue
        copy = edit.graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = node.output[0]
        edit.note(node, "an initializer now")
    _replace_nodes(edit, keep)


@legaliser("cast-chains")
def cast_chains(edit: Editor) -> None:
    """Take out a cast before another, where the first loses nothing that the second keeps."""
    for node in edit.graph.node:
        before = edit.view.producers.get(node.input[0]) if node.input else None
        if node.op_type != "Cast" or before is None or before.op_type != "Cast":
            continue
        kinds = (edit.view.types.get(before.input[0]), attribute(before, "to"))
        if None not in kinds and kinds in _LOSSLESS:
            edit.note(node, f"reads {before.input[0]!r} itself")
            node.input[0] = before.input[0]
    if edit.changes:
        edit.refresh()
        idle = {node.output[0] for node in edit.graph.node
                if node.op_type == "Cast" and not edit.view.uses[node.output[0]]}  # fmt: skip
        _replace_nodes(edit, [n for n in edit.graph.node if n.output[0] not in idle])


def _lossless() -> frozenset[tuple[int, int]]:
    kinds = onnx.TensorProto
    wider = {
        kinds.BOOL: (kinds.UINT8, kinds.INT8, kinds.INT32, kinds.INT64, kinds.FLOAT16, kinds.FLOAT),
        kinds.UINT8: (kinds.INT32, kinds.INT64, kinds.FLOAT16, kinds.FLOAT, kinds.DOUBLE),
        kinds.INT8: (kinds.INT32, kinds.INT64, kinds.FLOAT16, kinds.FLOAT, kinds.DOUBLE),
        kinds.INT32: (kinds.INT64, kinds.DOUBLE),
        kinds.FLOAT16: (kinds.FLOAT, kinds.DOUBLE),
        kinds.FLOAT: (kinds.DOUBLE,),
    }
    return frozenset((narrow, wide) for narrow, some in wider.items() for wide in some)


_LOSSLESS = _lossless()


@legaliser("constant-if")
def constant_if(edit: Editor) -> None:
    """Put the branch that is always taken in the place of its If."""

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        condition = edit.view.input_constant(node, 0) if node.op_type == "If" else None
        if condition is None:
            return None
        taken = "then_branch" if bool(np.all(condition)) else "else_branch"
        branch: onnx.GraphProto = attribute(node, taken)
        inner = onnx.GraphProto()
        inner.CopyFrom(branch)
        wanted = {value.name: out for value, out in zip(inner.output, node.output, strict=False)}
        local = [t.name for t in inner.initializer]
        local += [name for other in inner.node for name in other.output if name]
        new_names = {name: wanted.get(name) or edit.fresh(f"{node.output[0]}/{name}")
                     for name in local}  # fmt: skip
        rename(inner, new_names)
        for tensor in inner.initializer:
            tensor.name = new_names[tensor.name]
            edit.graph.initializer.add().CopyFrom(tensor)
        for other in inner.node:
            for at, name in enumerate(other.output):
                other.output[at] = new_names.get(name, name)
        edit.note(node, f"replaced by its {taken}, {len(inner.node)} node(s)")
        made = {name for other in inner.node for name in other.output}
        through = [
            helper.make_node("Identity", [source], [out], name=edit.fresh(f"{node.name}/out"))
            for source, out in wanted.items()
            if out not in made
        ]
        return [*inner.node, *through]

    edit.rewrite(replace)


def _replace_nodes(edit: Editor, nodes: list[onnx.NodeProto]) -> None:
    copies = [_again(node) for node in nodes]
    del edit.graph.node[:]
    edit.graph.node.extend(copies)
    edit.refresh()


def _again(message: _Message) -> _Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
