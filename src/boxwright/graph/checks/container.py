"""The file around the graph: opset, IR version, functions, values kept elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from boxwright.graph.checks.seen import Seen
from boxwright.graph.targets import Target
from boxwright.graph.view import STANDARD, View


def opset(view: View, target: Target) -> Iterator[Seen]:
    """An opset outside of what the target documents, and what changed meanwhile."""
    oldest, newest = target.opsets
    if view.opset < oldest:
        yield Seen("opset-old", f"opset {view.opset}; {target.name} documents {oldest} and newer")
    if view.opset <= newest:
        return
    yield Seen("opset-new", f"opset {view.opset}; {target.name} goes up to {newest}")
    told: set[str] = set()
    for place in view.places:
        node = place.node
        if node.domain in STANDARD and node.op_type not in told:
            change = signature_change(node.op_type, newest, view.opset)
            if change is not None:
                told.add(node.op_type)
                yield Seen("opset-changed", f"{node.op_type} of opset {change}", place)


@lru_cache(maxsize=4096)
def signature_change(operator: str, old: int, new: int) -> int | None:
    """In which opset the inputs or attributes of an operator became other ones.

    ``None`` where they are the same in both, whatever types were allowed in addition, or
    where ONNX does not know the operator in both.
    """
    from onnx import defs

    newest = min(new, defs.onnx_opset_version())
    try:
        before = defs.get_schema(operator, old, "")
        after = defs.get_schema(operator, newest, "")
    except defs.SchemaError:
        return None
    if before.since_version == after.since_version or _form(before) == _form(after):
        return None
    return int(after.since_version)


def _form(schema: object) -> object:
    inputs = [item.name for item in schema.inputs]  # type: ignore[attr-defined]
    attributes = {
        name: item.default_value.SerializeToString()
        for name, item in schema.attributes.items()  # type: ignore[attr-defined]
    }
    return inputs, attributes


def ir_version(view: View, target: Target) -> Iterator[Seen]:
    """An IR version that the target's reader refuses by its number."""
    newest = target.ir_version
    known = 8 if target.column == "8.6" else 10
    if view.proto.ir_version > (newest or known):
        limit = f"{target.name} reads up to {newest}" if newest else "older readers only warn"
        yield Seen("ir-version", f"IR version {view.proto.ir_version}; {limit}")


def functions(view: View, target: Target) -> Iterator[Seen]:
    """Model-local functions."""
    if view.proto.functions:
        names = ", ".join(item.name for item in view.proto.functions[:3])
        yield Seen("functions", f"{len(view.proto.functions)} function(s): {names}")


def external_data(view: View, target: Target) -> Iterator[Seen]:
    """Initializers whose values are in other files (whether those exist is asked elsewhere)."""
    from onnx import TensorProto

    kept = [t for t in view.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    if kept:
        yield Seen("external-data", f"{len(kept)} tensor(s), such as {kept[0].name!r}",
                   subject=kept[0].name)  # fmt: skip


CHECKS = (opset, ir_version, functions, external_data)
