"""Networks whose end no file describes: converted, then recognised as any ONNX graph is.

SavedModels, Keras files, frozen graphs and TensorFlow Lite files without an operation that
decodes give tensors and no meaning. They become a plain graph first, and then go the way of
other programs' ONNX files, with the same ``--head`` and ``--option``. One output of one row
per image is a classifier's.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from boxwright.card import Attribute, ModelCard, Nms, Transform
from boxwright.errors import ImportFailedError, ModelError
from boxwright.files import printable
from boxwright.graph.builder import GraphBuilder
from boxwright.graph.pixels import add_pixels
from boxwright.importers.names import asked_names, numbered_names
from boxwright.importers.registry import ImportRequest, choose
from boxwright.importers.tensorflow.convert import OPERATIONS, input_size, record, source_files
from boxwright.importers.tensorflow.lowering import Lowering, Tensor
from boxwright.importers.tensorflow.network import Network, refusal, short
from boxwright.importers.tensorflow.options import (
    KNOWN,
    choose_values,
    keeps_quantization,
    pixel_format,
)
from boxwright.model import Model

_INPUT = "source_image"
# A classifier's one attribute, and the output that has it.
_CLASS = "class"


def load_foreign(request: ImportRequest, network: Network) -> Model:
    """Convert a network of unknown end; see :meth:`TensorFlowImporter.load`."""
    if _is_classifier(request, network):
        return _load_classifier(request, network)
    chosen = choose_values(request, network)
    size = input_size(request, network)
    form = pixel_format(request, network)
    lowering, outputs = _lower(request, network, size)
    inner = {
        "channels": form.channels,
        "scale": form.scale,
        "mean": ",".join(map(repr, form.mean)),
        "std": ",".join(map(repr, form.std)),
    }
    options = {k: v for k, v in request.options.items() if k not in KNOWN} | inner
    remaining = iter(outputs)
    for key, values in chosen.items():
        options[key] = [next(remaining) for _ in values]
    names = request.names
    if names is None and network.labels:
        names = network.labels
    with tempfile.TemporaryDirectory(prefix="boxwright-") as folder:
        path = Path(folder) / f"{printable(request.weights.stem)}.onnx"
        path.write_bytes(lowering.graph.model.SerializeToString(deterministic=True))
        plain = dataclasses.replace(
            request, weights=path, size=None, options=options, names=names, cfg=None
        )
        model = _as_onnx(plain, str(path), str(request.weights))
    own = record(request, lowering, form, _compared(network, outputs, model))
    return model.with_card(_own_card(request, model.card, own))


def _compared(network: Network, outputs: list[str], model: Model) -> dict[str, str]:
    """Names of the outputs in the model, and in the source."""
    there = {name for node in model.proto.graph.node for name in node.output}
    found = {}
    for name, source in zip(outputs, _sources(network), strict=True):
        given = next((n for n in (f"source/{name}", name) if n in there), None)
        if given is not None:
            found[given] = source
    return found


def _sources(network: Network) -> list[str]:
    return network.output_names or network.outputs


def _output_names(network: Network) -> list[str]:
    return network.output_names or [name.replace(":", "_") for name in network.outputs]


def _as_onnx(request: ImportRequest, made: str, origin: str) -> Model:
    try:
        return choose(request, "onnx").load(request)
    except ImportFailedError as error:
        # The file it speaks of is gone when the message is read.
        raise ImportFailedError(str(error).replace(made, origin)) from error


def _own_card(request: ImportRequest, card: ModelCard, own: Transform) -> ModelCard:
    files = [request.weights]
    if isinstance(request.names, Path):
        files.append(request.names)
    inner = card.transforms[-1]
    merged = dataclasses.replace(
        own,
        parameters={**inner.parameters, **own.parameters},
        effect={**inner.effect, **own.effect},
    )
    return dataclasses.replace(
        card,
        name=printable(request.weights.stem),
        source_format="tensorflow",
        source_files=source_files(files),
        transforms=(merged,),
    )


def _lower(
    request: ImportRequest, network: Network, size: tuple[int, int]
) -> tuple[Lowering, list[str]]:
    """The network as a plain graph with an input of its own, and its outputs' names."""
    from onnx import TensorProto

    graph = GraphBuilder(printable(request.weights.stem))
    lowering = Lowering(network, graph, OPERATIONS, keep_quantization=keeps_quantization(request))
    graph.input(_INPUT, TensorProto.FLOAT, ["N", *size, 3])
    fed = Tensor((1, *size, 3), np.dtype(np.float32), None, {"plain": _INPUT})
    lowering.feed(network.inputs[0], fed)
    return lowering, _add_outputs(lowering, request)


def _add_outputs(lowering: Lowering, request: ImportRequest) -> list[str]:
    """Declare the outputs; returns their names."""
    from onnx import TensorProto

    network, graph = lowering.network, lowering.graph
    # Taken before a node of the same name is written.
    names = [graph.unique(name) for name in _output_names(network)]
    tensors = lowering.run(network.outputs, request.progress)
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.data is not None:
            raise refusal(network.path, f"its output {short(name)!r} does not depend on the image")
        if tensor.shape[0] != 1:
            raise refusal(
                network.path,
                f"its output {short(name)!r} has {tensor.shape[0]} rows for each image and no "
                "axis for images",
            )
        given = graph.add("Identity", [lowering.get(tensor, "plain")], name)
        graph.output(given, TensorProto.FLOAT, ["N", *tensor.shape[1:]])
    return names


def _is_classifier(request: ImportRequest, network: Network) -> bool:
    """Whether the one output is a row of class values; a softmax at the end says so."""
    if request.head is not None or len(network.outputs) != 1:
        return False
    producers = network.producers()
    node = producers.get(network.outputs[0])
    while node is not None and node.kind in ("Identity", "Dequantize", "Quantize"):
        node = producers.get(node.inputs[0])
    if node is None or node.kind != "Softmax":
        return False
    before = producers.get(node.inputs[0])
    while before is not None and before.kind in ("BiasAdd", "Identity", "Add", "AddV2"):
        before = producers.get(before.inputs[0])
    return before is not None and before.kind in ("MatMul", "FullyConnected")


def _load_classifier(request: ImportRequest, network: Network) -> Model:
    from onnx import TensorProto

    size = input_size(request, network)
    form = pixel_format(request, network)
    graph = GraphBuilder(printable(request.weights.stem))
    lowering = Lowering(network, graph, OPERATIONS, keep_quantization=keeps_quantization(request))
    graph.images(*size)
    graph.unique(_CLASS)  # so that no node of the file takes it
    fed = Tensor((1, *size, 3), np.dtype(np.float32), None, {"planes": add_pixels(graph, form)})
    lowering.feed(network.inputs[0], fed)
    (scores,) = lowering.run(network.outputs, request.progress)
    if len(scores.shape) != 2 or scores.shape[0] != 1:
        raise refusal(network.path, f"a classifier gives one row, not {list(scores.shape)}")
    classes = scores.shape[1]
    graph.add("Identity", [lowering.get(scores, "plain")], _CLASS)
    graph.output(_CLASS, TensorProto.FLOAT, ["N", classes])
    names, file = asked_names(request.names, classes, "the network")
    if names is None and len(network.labels) == classes:
        names = tuple(map(printable, network.labels))
    names = names or numbered_names(classes)
    card = ModelCard(
        name=printable(request.weights.stem),
        task="classify",
        family=network.description or "classifier",
        class_names=names,
        attributes=(Attribute(_CLASS, "class", names),),
        input_size=size,
        resize=request.resize or "stretch",
        interpolation=request.interpolation or "opencv",
        nms=Nms(kind="none"),
        source_format="tensorflow",
        source_files=source_files([request.weights, *([file] if file else [])]),
        licence=request.licence or network.licence,
        transforms=(record(request, lowering, form, {_CLASS: _sources(network)[0]}),),
    )
    model = Model(graph.model, card)
    try:
        model.check(str(request.weights))
    except ModelError as error:
        raise ImportFailedError(str(error)) from error
    return model
