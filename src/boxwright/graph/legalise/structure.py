"""Passes on how the graph is put together; none changes what is computed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import onnx
from onnx import helper

from boxwright.graph.checks.structure import FIRST_OUTPUT_ONLY, PLAIN_NAME, dangling
from boxwright.graph.legalise.editing import Editor, NotCurableError, legaliser, rename
from boxwright.graph.view import STANDARD, all_places, attribute, subgraphs, tensor_of_constant

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
    made = {name for node in edit.graph.node for name in node.output if name}
    known: set[str] = set()
    waiting = list(edit.graph.node)
    ordered: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if all(name in known for name in _reads(node) if name in made):
                ordered.append(node)
                known.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise NotCurableError(f"the graph has a circle through {later[0].name!r}")
        waiting = later
    if [id(node) for node in ordered] == [id(node) for node in edit.graph.node]:
        return
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del edit.graph.node[:]
    edit.graph.node.extend(copies)
    edit.note(None, f"{len(copies)} nodes put in order")


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
    for node in edit.graph.node:
        for at, old in enumerate(node.output):
            if old and old not in fixed and not PLAIN_NAME.fullmatch(old):
                new = edit.fresh(_plain(old))
                rename(edit.graph, old, new)
                node.output[at] = new
                edit.note(node, f"its output {old!r} is now {new!r}")
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
    """Take off outputs that have no name, and those that nobody reads and targets refuse."""
    for node in edit.graph.node:
        if node.op_type in FIRST_OUTPUT_ONLY:
            for at, name in enumerate(node.output):
                if at and name and not edit.view.uses[name]:
                    node.output[at] = ""
        number = len(node.output)
        while len(node.output) > 1 and not node.output[-1]:
            node.output.pop()
        if len(node.output) < number:
            edit.note(node, f"{number - len(node.output)} unused output(s) taken off")


@legaliser("no-ops")
def no_ops(edit: Editor) -> None:
    """Take out Identity, and Dropout, which outside of training is the same."""
    fixed = {value.name for value in edit.graph.output}
    given = {value.name for value in edit.graph.input} | set(edit.view.initializers)
    keep: list[onnx.NodeProto] = []
    for node in edit.graph.node:
        source, result = (node.input[0], node.output[0]) if node.input else ("", "")
        masked = any(edit.view.uses[name] for name in node.output[1:] if name)
        training = edit.view.input_constant(node, 2)
        idle = node.op_type == "Identity" or (
            node.op_type == "Dropout"
            and not masked
            and (training is None or not np.any(training))
            and not (len(node.input) > 2 and node.input[2] and training is None)
        )
        if not idle or node.domain not in STANDARD or (result in fixed and source in fixed | given):
            keep.append(node)
            continue
        edit.note(node, "taken out")
        if result in fixed:
            # The output's name has to stay: it goes to whoever makes the value.
            rename(edit.graph, source, result)
            for other in (*keep, *edit.graph.node):
                for at, name in enumerate(other.output):
                    if name == source:
                        other.output[at] = result
        else:
            rename(edit.graph, result, source)
    _replace_nodes(edit, keep)


@legaliser("constants")
def constants(edit: Editor) -> None:
    """Make initializers of Constant nodes."""
    keep = []
    for node in edit.graph.node:
        tensor = tensor_of_constant(node)
        if tensor is None or node.output[0] in {value.name for value in edit.graph.output}:
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
        for tensor in list(inner.initializer):
            new = edit.fresh(f"{node.output[0]}/{tensor.name}")
            rename(inner, tensor.name, new)
            tensor.name = new
            edit.graph.initializer.add().CopyFrom(tensor)
        wanted = {value.name: out for value, out in zip(inner.output, node.output, strict=True)}
        for other in inner.node:
            for at, name in enumerate(other.output):
                new = wanted.get(name) or edit.fresh(f"{node.output[0]}/{name}")
                rename(inner, name, new)
                other.output[at] = new
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
