"""A model in INT8: calibrated ranges and a placement made into Q/DQ pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boxwright._version import __version__
from boxwright.card import Transform
from boxwright.errors import InputError, ModelError
from boxwright.graph.legalise import PASSES
from boxwright.graph.view import View, tensor_of_constant
from boxwright.model import Model
from boxwright.probe import with_probe
from boxwright.quantize.insert import insert
from boxwright.quantize.placement import Placement, place
from boxwright.quantize.preactivation import kept_ranges
from boxwright.quantize.rules import Rules
from boxwright.ranges import with_ranges

if TYPE_CHECKING:
    import onnx

    from boxwright.preprocess import Pixels
    from boxwright.quantize.calibration import Calibration
    from boxwright.quantize.ranges import Method

TRANSFORM = "quantize"


@dataclass(frozen=True)
class Quantized:
    """A model in INT8, and how it came to be.

    Attributes:
        model: The model with Q/DQ pairs.
        placement: What is quantised, and what not and why.
        amax: The largest magnitude that each quantised tensor can hold.
    """

    model: Model
    placement: Placement
    amax: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """How it was made, and the table of layers and tensors; JSON values only."""
        return {
            "parameters": dict(self.model.card.transforms[-1].parameters),
            "layers": [
                {
                    "name": layer.name,
                    "operator": layer.operator,
                    "weights": list(layer.shape),
                    "group": layer.group,
                    "precision": "int8" if layer.reason is None else "float",
                    **({} if layer.reason is None else {"reason": layer.reason}),
                }
                for layer in self.placement.layers
            ],
            "tensors": [
                {"name": t.name, "amax": self.amax[t.name], "scale_group": t.group}
                for t in self.placement.tensors
            ],
        }


def prepare(model: Model) -> Model:
    """The model as layers are looked for in it.

    Every node has a name of its own, which layers are known by. Constants are initializers, for
    weights are looked for there. Batch normalisation is part of the convolution before it: no
    runtime computes it in INT8, and the pair behind a convolution would be in front of it. Tensors
    keep their names.

    Raises:
        InputError: It is quantised already.
        ModelError: A node or a tensor of it is damaged.
    """
    if model.quantized:
        raise InputError(
            "this model is quantised already; give the float model that it was made from"
        )
    copy = type(model.proto)()
    copy.CopyFrom(model.proto)
    if fault := View(copy).fault:
        raise ModelError(f"{model.card.name} cannot be quantised: {fault}")
    _name_nodes(copy.graph)
    _constants_to_initializers(copy.graph)
    folded, _ = PASSES["batchnorm"](copy)
    return Model(folded, model.card)


def quantize(
    model: Model,
    calibration: Calibration,
    *,
    method: Method = "minmax",
    percentile: float = 99.99,
    rules: Rules | None = None,
    keep: Collection[str] = (),
    probe: Pixels | None = None,
) -> Quantized:
    """Quantise a model.

    Args:
        model: In float; it is not changed.
        calibration: What its tensors held on images.
        method: How a range follows from what was seen.
        percentile: Of the magnitudes, for the method of that name.
        rules: What may be quantised.
        keep: Layers that stay in float; a mapping says why each does.
        probe: A real image for the model to keep, uint8 ``(H, W, 3)`` of its size, on which
            backends try what they built (:mod:`boxwright.probe`).

    Raises:
        InputError: The model is quantised already, `keep` names no layer, or the
            calibration lacks a tensor.
    """
    rules = rules or Rules()
    named = prepare(model)
    placement = place(named.proto, rules, keep)
    amax = _ranges(placement, calibration, method, percentile)
    proto = insert(named.proto, placement, amax)
    if probe is not None:
        with_probe(proto, probe)
    with_ranges(proto, kept_ranges(named.proto, placement, calibration, amax))
    transform = _transform(placement, calibration, method, percentile, rules, keep)
    result = Model(proto, model.card.with_transform(transform))
    result.check("the quantised model")
    return Quantized(result, placement, amax)


def _ranges(
    placement: Placement, calibration: Calibration, method: Method, percentile: float
) -> dict[str, float]:
    """The largest magnitude of each tensor, one for all that share a scale."""
    groups: dict[int, float] = {}
    for tensor in placement.tensors:
        if tensor.name not in calibration.statistics:
            raise InputError(
                f"the calibration knows nothing of the tensor {tensor.name!r}: "
                "was it made with this model?"
            )
        found = calibration.amax(tensor.name, method, percentile=percentile)
        groups[tensor.group] = max(groups.get(tensor.group, 0.0), found)
    return {tensor.name: groups[tensor.group] for tensor in placement.tensors}


def _transform(
    placement: Placement,
    calibration: Calibration,
    method: Method,
    percentile: float,
    rules: Rules,
    keep: Collection[str],
) -> Transform:
    import onnx

    parameters: dict[str, Any] = {
        "method": method,
        **({"percentile": percentile} if method == "percentile" else {}),
        "images": calibration.images,
        "images_sha256": calibration.images_sha256,
        "rules": {name: getattr(rules, name) for name in rules.__dataclass_fields__},
        "keep": sorted(keep),
    }
    kept = Counter(layer.reason for layer in placement.layers if layer.reason is not None)
    effect = {
        "layers": {"int8": len(placement.quantized), "float": sum(kept.values())},
        "kept_in_float": dict(sorted((str(reason), count) for reason, count in kept.items())),
        "tensors": len(placement.tensors),
    }
    versions = {"boxwright": __version__, "onnx": str(onnx.__version__)}
    return Transform(TRANSFORM, parameters, versions, effect)


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken = Counter(node.name for node in graph.node)
    names = set(taken)
    for node in graph.node:
        if node.name and taken[node.name] == 1:
            continue
        base = next((name for name in node.output if name), node.op_type)
        # What is decoding stays recognisable as such.
        if node.name.startswith("decode/") and not base.startswith("decode/"):
            base = node.name
        name, number = base, 1
        while name in names:
            number += 1
            name = f"{base}_{number}"
        names.add(name)
        node.name = name


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    found = [(node, tensor_of_constant(node)) for node in graph.node]
    if all(tensor is None for _, tensor in found):
        return
    kept = [node for node, tensor in found if tensor is None]
    for node, tensor in found:
        if tensor is not None:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = node.output[0]
    del graph.node[:]
    graph.node.extend(kept)
