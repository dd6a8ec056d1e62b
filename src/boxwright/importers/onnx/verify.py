"""An imported model beside the file it was made from, run as it is.

Three things are compared, on made-up images: the head's tensors of the file, fed by
arithmetic in numpy, with those inside the model, fed bytes; the decoding of the file's
tensors by ONNX's own evaluator with the model's `boxes` and `scores`. So a wrong pixel
format, a cure that changed the network and a broken decode each show by themselves; a
family's convention that does not hold for these weights does not, for no file says it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import ImportFailedError, InputError
from boxwright.graph.pixels import PixelFormat
from boxwright.importers import running
from boxwright.importers.onnx import probe, source, surgery
from boxwright.importers.registry import Check, Verification
from boxwright.model import BOXES, IMAGES, SCORES, Model

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]

# Of the largest value: float32 sums in another order, twice over.
_TENSOR = 1e-4
# In pixels and in score.
_BOXES, _SCORES = 0.05, 1e-4


def verify(path: Path, model: Model, images: int = 2) -> Verification:
    """Compare `model` with the file it was imported from.

    Raises:
        ImportFailedError: The file does not run, or the model was not made of it.
    """
    import onnxruntime

    pixels = np.stack([running.picture(model.card.input_size, seed) for seed in range(images)])
    against = f"ONNX Runtime {onnxruntime.__version__} on {path.name}"
    proto, _ = source.read_source(path)
    transform = next((t for t in model.card.transforms if t.name == "import:onnx"), None)
    if transform is None:
        raise ImportFailedError(f"the model was not imported from an ONNX file such as {path}")
    if transform.parameters.get("contract"):
        checks = _same_contract(proto, model, pixels)
    else:
        checks = _same_head(proto, model, pixels, transform.parameters["pixels"], str(path))
    return Verification(against, tuple(checks))


def _same_contract(proto: onnx.ModelProto, model: Model, pixels: Array) -> list[Check]:
    reason = "the same graph"
    checks = []
    for name in (BOXES, SCORES):
        one = running.run(proto, {IMAGES: pixels[:1]}, [name])[name]
        two = running.run(model.proto, {IMAGES: pixels[:1]}, [name])[name]
        checks.append(Check(name, _gap(one, two), _BOXES if name == BOXES else _SCORES, reason))
    return checks


def _same_head(
    proto: onnx.ModelProto, model: Model, pixels: Array, form: dict[str, Any], origin: str
) -> list[Check]:
    surgery.cut_nms_plugin(proto)
    wanted = dict.fromkeys(_head_tensors(model.proto))
    fixed = model.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    image = probe.image_input(proto, origin)
    pixel_format = _format(form)
    theirs: dict[str, list[Array]] = {}
    ours: dict[str, list[Array]] = {}
    for one in pixels:
        batch = np.stack([one] * max(fixed, image.batch or 1, 1))
        feed = {image.name: feed_of(batch, pixel_format)} | _side_feeds(proto, model)
        names = {name: _there(proto, name) for name in wanted}
        found = running.run(proto, feed, list(dict.fromkeys(names.values())))
        inside = running.run(model.proto, {IMAGES: batch}, [*wanted, BOXES, SCORES])
        for name in wanted:
            theirs.setdefault(name, []).append(found[names[name]])
        for name, value in inside.items():
            ours.setdefault(name, []).append(value)
    checks = [
        Check(
            f"head tensor {surgery.original_name(name)}",
            max(_gap(a, b, relative=True) for a, b in zip(ours[name], theirs[name], strict=True)),
            _TENSOR,
            "relative to its largest value; float32 sums in another order",
        )
        for name in wanted
    ]
    return [*checks, *_decoded(model, theirs, ours)]


def _decoded(
    model: Model, theirs: dict[str, list[Array]], ours: dict[str, list[Array]]
) -> list[Check]:
    """The decoding alone, by ONNX's evaluator, on the file's own tensors."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(_tail(model.proto, list(theirs)))
    gaps = {BOXES: 0.0, SCORES: 0.0}
    for at in range(len(ours[BOXES])):
        # A cure may have made 32-bit floats of 64-bit ones.
        feed = {n: theirs[n][at].astype(ours[n][at].dtype, copy=False) for n in theirs}
        with np.errstate(all="ignore"):
            values: Any = evaluator.run([BOXES, SCORES], feed)
        for name, value in zip((BOXES, SCORES), values, strict=True):
            gaps[name] = max(gaps[name], _gap(np.asarray(value), ours[name][at]))
    return [
        Check(BOXES, gaps[BOXES], _BOXES, "pixels; float32 through exponentials"),
        Check(SCORES, gaps[SCORES], _SCORES, "float32"),
    ]


def _tail(proto: onnx.ModelProto, inputs: list[str]) -> onnx.ModelProto:
    """The nodes under ``decode/`` and the outputs, fed with the head's tensors."""
    import onnx as library

    tail = library.ModelProto()
    tail.CopyFrom(proto)
    del tail.graph.input[:], tail.graph.value_info[:]
    kept = [n for n in tail.graph.node if n.name.startswith("decode/") or n.name in (BOXES, SCORES)]
    nodes = [surgery.copy_node(node) for node in kept]
    del tail.graph.node[:]
    tail.graph.node.extend(nodes)
    for name in inputs:
        tail.graph.input.add(name=name).type.tensor_type.elem_type = 1
    surgery.keep_needed(tail.graph)
    return tail


def _head_tensors(proto: onnx.ModelProto) -> list[str]:
    """What nodes under ``decode/`` read that is made outside of it."""
    inside = {
        name
        for node in proto.graph.node
        if node.name.startswith("decode/") or node.name in (BOXES, SCORES)
        for name in node.output
    }
    constants = {tensor.name for tensor in proto.graph.initializer}
    read = [
        name
        for node in proto.graph.node
        if node.name.startswith("decode/") or node.name in (BOXES, SCORES)
        for name in node.input
        if name and name not in inside and name not in constants
    ]
    return list(dict.fromkeys(read))


def _there(proto: onnx.ModelProto, name: str) -> str:
    """A tensor's name in the file."""
    made = {output for node in proto.graph.node for output in node.output}
    own = surgery.original_name(name)
    if name in made or own in made:
        return name if name in made else own
    raise ImportFailedError(f"the file makes no tensor {own!r}: the model is not made of it")


def _format(content: dict[str, Any]) -> PixelFormat:
    try:
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in content.items()
        }
        return PixelFormat(**fields)
    except (TypeError, InputError) as error:
        raise ImportFailedError(
            f"the card does not say what the network is fed: {error}"
        ) from error


def feed_of(pixels: Array, form: PixelFormat) -> Array:
    """What `form` makes of uint8 ``(N, H, W, 3)`` RGB, in numpy and 64 bits."""
    values = pixels.astype(np.float64)
    if form.channels == "grey":
        values = values @ np.array([0.299, 0.587, 0.114])[:, None]
    elif form.channels == "bgr":
        values = values[..., ::-1]
    values = (values * form.scale - np.array(form.mean)) / np.array(form.std)
    if form.layout == "nchw":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values.astype(form.element))


def _side_feeds(proto: onnx.ModelProto, model: Model) -> dict[str, Array]:
    from onnx import numpy_helper

    from boxwright.importers.onnx.convert import side_inputs

    tensors = side_inputs(proto, model.card.input_size)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def _gap(one: Array, two: Array, *, relative: bool = False) -> float:
    """Largest difference; infinite where shapes or NaNs differ."""
    if one.shape != two.shape:
        return float("inf")
    first, second = one.astype(np.float64), two.astype(np.float64)
    if np.array_equal(first, second, equal_nan=True):
        return 0.0
    gap = float(np.abs(first - second).max(initial=0))
    if not np.isfinite(gap):
        return float("inf")
    return gap / (float(np.abs(first).max(initial=0)) or 1.0) if relative else gap
