"""Changes to a foreign graph that leave what it computes alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.graph.legalise.editing import rename
from boxwright.graph.view import small_values, subgraphs, tensor_of_constant
from boxwright.importers.onnx.probe import ImageInput
from boxwright.model import BOXES, IMAGES, SCORES

if TYPE_CHECKING:
    import onnx

# Plugins of TensorRT that suppress: their inputs are boxes and scores, which is what we
# want. (EfficientNMS_TRT in NVIDIA/TensorRT, plugin/efficientNMSPlugin.)
_NMS_PLUGINS = frozenset({"EfficientNMS_TRT", "EfficientNMS_ONNX_TRT"})

_OURS = ("pre/", "decode/", "scalar/")


def cut_nms_plugin(proto: onnx.ModelProto) -> dict[str, Any] | None:
    """Take TensorRT's suppressing plugin off the end, in place; what it said of its inputs.

    Returns:
        ``boxes`` and ``scores``, names of its inputs, and its attributes ``box_coding``
        (0 corners, 1 centre and size), ``score_activation`` (1 sigmoid), ``iou_threshold``
        and ``background_class``; ``None`` where there is no such plugin.
    """
    from onnx import TensorProto, helper

    found = [node for node in proto.graph.node if node.op_type in _NMS_PLUGINS]
    if len(found) != 1 or len(found[0].input) != 2:
        return None
    node = found[0]
    said = {item.name: item.f if item.type == item.FLOAT else item.i for item in node.attribute}
    boxes, scores = node.input
    proto.graph.node.remove(node)
    del proto.graph.output[:]
    for name in (boxes, scores):
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    keep_needed(proto.graph)
    for item in [item for item in proto.opset_import if item.domain == node.domain != ""]:
        if not any(other.domain == item.domain for other in proto.graph.node):
            proto.opset_import.remove(item)
    return {
        "boxes": boxes,
        "scores": scores,
        "box_coding": said.get("box_coding", 0),
        "score_activation": said.get("score_activation", 0),
        "background_class": said.get("background_class", -1),
        "iou_threshold": said.get("iou_threshold", 0.5),
    }


def keep_needed(graph: onnx.GraphProto) -> int:
    """Drop, in place, what no output needs; the number of nodes dropped."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output if name):
            kept.append(node)
            needed.update(_read(node))
    dropped = len(graph.node) - len(kept)
    if dropped:
        nodes = [copy_node(node) for node in reversed(kept)]
        del graph.node[:]
        graph.node.extend(nodes)
    for tensor in [t for t in graph.initializer if t.name not in needed]:
        graph.initializer.remove(tensor)
    return dropped


def _read(node: onnx.NodeProto) -> Iterable[str]:
    """What a node reads; a body may read anything outside of it."""
    yield from node.input
    for inner in subgraphs(node):
        for within in inner.node:
            yield from _read(within)
        yield from (value.name for value in inner.output)


def clear_names(proto: onnx.ModelProto, image: ImageInput) -> str:
    """Rename, in place, what bears a name of the contract; the image input's new name."""
    graph = proto.graph
    taken = {BOXES, SCORES, IMAGES}
    names = {name for node in graph.node for name in (*node.input, *node.output) if name}
    names |= {value.name for value in (*graph.input, *graph.output)}
    everything = names | {tensor.name for tensor in graph.initializer}
    new: dict[str, str] = {}
    for name in sorted(everything):
        if name in taken or name.startswith(_OURS):
            new[name] = _free(f"source/{name}", everything)
    if new:
        for node in graph.node:
            for at, name in enumerate(node.output):
                node.output[at] = new.get(name, name)
        rename(graph, new)
        for value in (*graph.input, *graph.output):
            value.name = new.get(value.name, value.name)
        for tensor in graph.initializer:
            tensor.name = new.get(tensor.name, tensor.name)
    for node in graph.node:
        if node.name in taken or node.name.startswith(_OURS):
            node.name = f"source/{node.name}"
    del graph.value_info[:]
    return new.get(image.name, image.name)


def original_name(name: str) -> str:
    """What a tensor was called in the source."""
    return name.removeprefix("source/")


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def free_batch(proto: onnx.ModelProto, image: str, *, reshapes: bool = True) -> onnx.ModelProto:
    """A copy whose first extent is free: input, outputs, and shapes that Reshape is given.

    Exporters write the batch of 1 they saw as a number into the shapes of Reshape. A 0
    there keeps whatever the extent is. Whether that was the batch is for the caller to see,
    by running both.

    Args:
        proto: The graph.
        image: Its input of images.
        reshapes: Change those shapes; a graph whose exporter left the batch free needs no
            change, and a 1 in it may be the first extent of a grid.
    """
    import onnx as library

    free = library.ModelProto()
    free.CopyFrom(proto)
    graph = free.graph
    for value in graph.input:
        if value.name == image:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    known = {tensor.name: tensor for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node if tensor_of_constant(node) is not None}
    changed: dict[str, str] = {}
    for node in graph.node:
        if not reshapes or node.op_type != "Reshape" or len(node.input) < 2:
            continue
        source = node.input[1]
        tensor = known.get(source)
        if tensor is None and source in made:
            tensor = tensor_of_constant(made[source])
        values = None if tensor is None else small_values(tensor)
        if values is None or values.ndim != 1 or len(values) < 2 or values[0] != 1:
            continue
        if not _let_zero_keep(node, values):
            continue
        if source not in changed:
            changed[source] = _zero_first(graph, source, values, set(known) | set(made))
        node.input[1] = changed[source]
    return free


def _let_zero_keep(node: onnx.NodeProto, shape: NDArray[Any]) -> bool:
    """Make a 0 keep an extent; ``False`` where it stands for no values at all.

    PyTorch's exporter says ``allowzero``, though no extent is 0.
    """
    allowed = [item for item in node.attribute if item.name == "allowzero" and item.i]
    if allowed and (shape == 0).any():
        return False
    for item in allowed:
        node.attribute.remove(item)
    return True


def _zero_first(graph: onnx.GraphProto, name: str, values: NDArray[Any], taken: set[str]) -> str:
    from onnx import numpy_helper

    new = _free(f"{name}/free", taken)
    shape = np.array([0, *values[1:]], np.int64)
    graph.initializer.append(numpy_helper.from_array(shape, new))
    return new


def copy_node(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node once more."""
    copy = type(node)()
    copy.CopyFrom(node)
    return copy
