"""Reading of frozen graphs: one ``GraphDef`` with its weights as constants."""

from __future__ import annotations

from pathlib import Path

from boxwright.importers.tensorflow.detection_api import find_export
from boxwright.importers.tensorflow.graphdef import network_of
from boxwright.importers.tensorflow.network import Network
from boxwright.importers.tensorflow.preprocessor import cut_preprocessor
from boxwright.importers.tensorflow.proto import parse
from boxwright.importers.tensorflow.tflite import read_whole


def read_frozen(path: Path) -> Network:
    """Read a frozen graph.

    Raises:
        ImportFailedError: It is damaged, not frozen, or holds what cannot be converted.
    """
    graph = parse("GraphDef", read_whole(path), path)
    preprocessor = cut_preprocessor(graph, path)
    names = {node.name: node.name for node in graph.node}
    export = find_export(graph, names, path, preprocessor)
    outputs = None if export is None else [export.boxes, export.scores]
    network = network_of(graph, path, outputs=outputs)
    network.export = export
    return network
