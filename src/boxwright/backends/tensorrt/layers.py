"""What each layer of an engine really runs in, as TensorRT describes it.

The description comes from the engine inspector (JSON), whose key of a tensor's type changed
from ``Format/Datatype`` (8.6, 10) to ``Datatype`` (11, RTX), or from the build's log (text).
The log is all there is where TensorRT-RTX builds without a GPU; and the inspector of 8.6 says
"N/A due to dynamic shapes" of an engine of a free batch, where its log has the types.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# The receipt lists layers by name up to this many; the counts hold them all.
MAX_LISTED = 2000

# From the lowest: a layer fed with both runs its arithmetic in the lower one.
_KINDS = ("int8", "fp8", "int4", "fp4", "float16", "bfloat16", "float32", "other")
_WORDS = {
    "int8": "int8",
    "fp8": "fp8",
    "int4": "int4",
    "fp4": "fp4",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp32": "float32",
    "float": "float32",
}
_TEXT_LAYER = re.compile(r"^\s*Name: (?P<name>.*?), LayerType: (?P<type>[^,]*), (?P<rest>.*)$")
_TEXT_TYPE = re.compile(r"Datatype: (\w+)")
# TensorRT 8.6: Layer(Myelin): NAME, Tactic: 0x0, images (UInt8[-1,32,64,3]) -> a (Half[...])
_OLD_LAYER = re.compile(
    r"Layer\((?P<type>\w+)\): (?P<name>.*), Tactic: 0x[0-9a-fA-F]+, "
    r"(?P<inputs>.*?)-> (?P<outputs>.*)",
    re.DOTALL,
)
_OLD_TYPE = re.compile(r"\((\w+)\[")


@dataclass(frozen=True)
class EngineLayer:
    """One layer as built: often several of the graph's, fused.

    Attributes:
        name: TensorRT's.
        kind: TensorRT's type of layer, such as ``CaskConvolution`` or ``runtime_fusion``.
        precision: ``int8``, ``float16``, ``float32``, ... or ``other`` (integers, and where
            TensorRT does not say).
    """

    name: str
    kind: str
    precision: str


def read_layers(text: str | None) -> list[EngineLayer]:
    """The layers in an inspector's JSON or in a log; empty where neither can be read."""
    if not text:
        return []
    start = text.find("{")
    if text.lstrip()[:1] == "{" or text.startswith("Engine Layer Information:{"):
        try:
            # TensorRT 8.6 leaves control characters in its strings.
            return list(_from_json(json.loads(text[start:], strict=False)))
        except (ValueError, RecursionError):
            return []
    return list(_from_text(text))


def best_described(*texts: str | None) -> list[EngineLayer]:
    """The layers by the description that says the precision of the most of them."""
    found = [read_layers(text) for text in texts]
    return max(found, key=lambda layers: sum(layer.precision != "other" for layer in layers))


def summarise(layers: list[EngineLayer]) -> dict[str, dict[str, int]]:
    """How many layers of each kind run in each precision, the lowest first."""
    counts = {kind: Counter[str]() for kind in _KINDS}
    for layer in layers:
        counts[layer.precision][layer.kind] += 1
    return {kind: dict(sorted(found.items())) for kind, found in counts.items() if found}


def describe(layers: list[EngineLayer]) -> dict[str, Any]:
    """For a receipt: counts, and each layer's precision by name."""
    listed = [
        {"name": layer.name[:500], "kind": layer.kind, "precision": layer.precision}
        for layer in layers[:MAX_LISTED]
    ]
    return {"layers": summarise(layers), "layer_precisions": listed}


def _from_json(content: Any) -> Iterator[EngineLayer]:
    layers = content.get("Layers") if isinstance(content, dict) else None
    for layer in layers if isinstance(layers, list) else ():
        # Without detailed profiling the inspector gives bare names.
        if isinstance(layer, str):
            yield EngineLayer(layer, "unknown", "other")
        elif isinstance(layer, dict):
            found = [_tensor_types(layer.get(side)) for side in ("Inputs", "Outputs", "Constants")]
            name, kind = str(layer.get("Name", "")), str(layer.get("LayerType", "unknown"))
            yield EngineLayer(name, kind, _precision(*found))


def _tensor_types(tensors: Any) -> list[str]:
    return [
        str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "")
        for tensor in (tensors if isinstance(tensors, list) else ())
        if isinstance(tensor, dict)
    ]


def _from_text(text: str) -> Iterator[EngineLayer]:
    if "\nLayer(" in text:
        # Names of fused layers hold control characters, line breaks among them.
        for part in re.split(r"\n(?=Layer\()", text):
            yield from _from_old_text(part)
        return
    for line in text.splitlines():
        match = _TEXT_LAYER.match(line)
        if match is None:
            continue
        inputs, _, rest = match["rest"].partition("Constants: [")
        constants, _, outputs = rest.partition("Outputs: [")
        found = [_TEXT_TYPE.findall(side) for side in (inputs, outputs, constants)]
        yield EngineLayer(match["name"], match["type"], _precision(*found))


def _from_old_text(part: str) -> Iterator[EngineLayer]:
    match = _OLD_LAYER.fullmatch(part.rstrip())
    if match is not None:
        inputs, outputs = (_OLD_TYPE.findall(match[side]) for side in ("inputs", "outputs"))
        yield EngineLayer(match["name"], match["type"], _precision(inputs, outputs, []))


def _precision(inputs: list[str], outputs: list[str], constants: list[str]) -> str:
    """What a layer computes in: its inputs' lowest type, else its outputs', else its weights'."""
    for side in (inputs, outputs, constants):
        kinds = [kind for text in side if (kind := _kind(text)) is not None]
        if kinds:
            return min(kinds, key=_KINDS.index)
    return "other"


def _kind(text: str) -> str | None:
    """The type in ``Half`` or ``Channel major FP16 format where C % 8 == 0``."""
    for word in re.findall(r"[a-z0-9]+", text.lower()):
        # uint8 pixels say nothing about the layer that casts them.
        if word in _WORDS:
            return _WORDS[word]
    return None
