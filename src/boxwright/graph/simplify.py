"""Fewer nodes, same results: OnnxSlim does it, and running both graphs proves it.

OnnxSlim (MIT, in pure Python, with a release every few weeks) folds what is constant and fuses
what has a shorter form. It has been wrong before, as every such tool has, so nothing of
it is kept that computes something else on random pixels and on pictures.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright._version import __version__
from boxwright.card import Transform
from boxwright.errors import ModelError
from boxwright.extras import require
from boxwright.graph.compare import run_both
from boxwright.model import IMAGES, Model

if TYPE_CHECKING:
    import onnx

# Relative to each output's largest value: folding weights rounds in another place.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Simplified:
    """What simplification did.

    Attributes:
        model: The simpler model; its card has the transform.
        nodes: How many nodes there were and are.
        operators: Number of nodes by operator, ``(before, after)``, where they differ.
        difference: The largest difference of an output, relative to its largest value.
        compared: On how many images.
    """

    model: Model
    nodes: tuple[int, int]
    operators: dict[str, tuple[int, int]]
    difference: float
    compared: int


def simplify(model: Model, images: Sequence[NDArray[np.uint8]] = (), seed: int = 0) -> Simplified:
    """Simplify a model, and prove that it is still the same.

    Args:
        model: What to simplify; it is not changed.
        images: Pictures to compare on beside random pixels: uint8 ``(H, W, 3)`` of the
            model's input size.
        seed: Of the random pixels.

    Raises:
        MissingExtraError: OnnxSlim is not installed.
        ModelError: OnnxSlim fails, or outputs differ by more than :data:`TOLERANCE`.
    """
    slim = require("onnxslim", extra="simplify")
    heads = [head.tensor for head in model.card.heads]
    before = model.proto
    after = _tidied(_slimmed(slim, before, heads), before)
    feeds = [*_random(model, seed), *(np.asarray(image)[None] for image in images)]
    fixed = before.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    worst = 0.0
    for feed in feeds:
        batch = feed if len(feed) >= fixed else np.repeat(feed, fixed, axis=0)
        found = run_both(before, after, {IMAGES: batch})
        if found.difference is None:
            raise ModelError(f"simplification cannot be proved, so it is refused: {found.reason}")
        if not found.difference <= TOLERANCE:
            raise ModelError(
                f"simplification is refused: output {found.worst!r} would differ by "
                f"{found.difference:.3g} of its largest value, expected at most {TOLERANCE:g}; "
                "import without --simplify"
            )
        worst = max(worst, found.difference)
    counts = [Counter(node.op_type for node in proto.graph.node) for proto in (before, after)]
    operators = {
        name: (counts[0][name], counts[1][name])
        for name in sorted({*counts[0], *counts[1]})
        if counts[0][name] != counts[1][name]
    }
    nodes = (len(before.graph.node), len(after.graph.node))
    effect = {
        "nodes": list(nodes),
        "operators": {name: list(pair) for name, pair in operators.items()},
        "difference": worst,
        "images": len(feeds),
    }
    versions = {"boxwright": __version__, "onnxslim": str(slim.__version__)}
    card = model.card.with_transform(
        Transform("simplify", {"tolerance": TOLERANCE}, versions, effect)
    )
    result = Model(after, card)
    result.check("the simplified model")
    return Simplified(result, nodes, operators, worst, len(feeds))


def _slimmed(slim: Any, proto: onnx.ModelProto, heads: list[str]) -> onnx.ModelProto:
    """OnnxSlim's result; tensors that the card names stay what they are."""
    import onnx as library

    copy = library.ModelProto()
    copy.CopyFrom(proto)
    outputs = [value.name for value in copy.graph.output]
    for name in dict.fromkeys(heads):
        if name not in outputs:
            # Without a type, OnnxSlim's inference fills it in.
            copy.graph.output.add(name=name)
    if len(copy.graph.output) > len(outputs):
        copy = _inferred(copy)
    logger = logging.getLogger("onnxslim")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        with contextlib.redirect_stdout(io.StringIO()):
            result: onnx.ModelProto = slim.slim(copy)
    except Exception as error:  # its errors share no base but Exception
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"OnnxSlim cannot simplify this graph: {reason}") from error
    finally:
        logger.setLevel(level)
    if not isinstance(result, library.ModelProto):
        raise ModelError("OnnxSlim gave no graph")
    kept = [value for value in result.graph.output if value.name in outputs]
    copies = [library.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del result.graph.output[:]
    result.graph.output.extend(copies)
    return result


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Types of the added outputs."""
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(proto)
    known = {value.name: value for value in inferred.graph.value_info}
    for value in proto.graph.output:
        if not value.type.tensor_type.elem_type and value.name in known:
            value.CopyFrom(known[value.name])
    return proto


def _tidied(result: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """What OnnxSlim does not keep: versions, declared outputs, names of nodes."""
    del result.graph.value_info[:]
    result.ir_version = original.ir_version
    result.producer_name = original.producer_name
    result.producer_version = original.producer_version
    declared = {value.name: value for value in original.graph.output}
    for value in result.graph.output:
        value.CopyFrom(declared[value.name])
    taken = {node.name for node in result.graph.node}
    for node in result.graph.node:
        if not node.name and node.output[0] not in taken:
            node.name = node.output[0]
    return result


def _random(model: Model, seed: int) -> list[NDArray[np.uint8]]:
    """Two images of random pixels, and one that is smooth."""
    height, width = model.card.input_size
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (2, 1, height, width, 3), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 255 // height, columns * 255 // width, rows * 0 + 114], axis=-1)
    return [*noise, smooth.astype(np.uint8)[None]]
