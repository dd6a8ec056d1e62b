"""Reading of SavedModels: a graph with functions, and variables in files beside it.

Calls are replaced by the functions' bodies. Which variable has which name in the checkpoint
is read off the operation that would restore them (``restore_op_name`` of the saver): it
assigns to each variable what it reads under a name. Nothing is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxwright.errors import ImportFailedError
from boxwright.importers.tensorflow.bundle import Bundle
from boxwright.importers.tensorflow.detection_api import RAW_BOXES, RAW_SCORES, find_export
from boxwright.importers.tensorflow.graphdef import network_of
from boxwright.importers.tensorflow.inline import Inliner
from boxwright.importers.tensorflow.network import Network, refusal, short
from boxwright.importers.tensorflow.preprocessor import cut_preprocessor
from boxwright.importers.tensorflow.proto import parse
from boxwright.importers.tensorflow.tflite import read_whole

_SIGNATURE = "serving_default"
_CALLS_ITSELF = "__saved_model_init_op"
_HANDLES = ("VarHandleOp", "VariableV2", "Variable")


def read_saved_model(folder: Path) -> Network:
    """Read a SavedModel.

    Args:
        folder: The folder that holds ``saved_model.pb``.

    Raises:
        ImportFailedError: A file is missing or damaged, or holds what cannot be converted.
    """
    path = folder / "saved_model.pb"
    saved = parse("SavedModel", read_whole(path), path)
    graphs = [g for g in saved.meta_graphs if "serve" in g.meta_info_def.tags] or list(
        saved.meta_graphs
    )
    if not graphs:
        raise refusal(path, "it holds no graph")
    meta = graphs[0]
    signature = _signature(meta, path)
    preprocessor = cut_preprocessor(meta.graph_def, path)
    inliner = Inliner(meta.graph_def, path)
    # In the order of their names, for a map has none.
    names = sorted(signature.outputs)
    outputs = [signature.outputs[name].name for name in names]
    if any(node.op == "NextIteration" for node in meta.graph_def.node):
        # TensorFlow 1 writes loops as circles, and no functions.
        graph = meta.graph_def
    else:
        graph, outputs = inliner.inlined(outputs)
        graph.library.CopyFrom(meta.graph_def.library)
    export = find_export(graph, dict(zip(names, outputs, strict=True)), path, preprocessor)
    if export is not None:
        names, outputs = [RAW_BOXES, RAW_SCORES], [export.boxes, export.scores]
    variables = _variables(meta, inliner, graph, folder, path)
    inputs = [tensor.name for tensor in signature.inputs.values()]
    network = network_of(graph, path, variables, outputs, inputs)
    network.output_names = names
    network.export = export
    return network


def _signature(meta: Any, path: Path) -> Any:
    signatures = {
        name: signature
        for name, signature in meta.signature_def.items()
        if name != _CALLS_ITSELF and signature.outputs
    }
    found = signatures.get(_SIGNATURE)
    if found is None and len(signatures) == 1:
        found = next(iter(signatures.values()))
    if found is None:
        names = ", ".join(short(name) for name in sorted(signatures)) or "none"
        raise refusal(
            path, f"expected a signature {_SIGNATURE!r}, got {names}; export the model with one"
        )
    if len(found.inputs) != 1:
        raise refusal(path, f"its signature has {len(found.inputs)} inputs; one image is converted")
    return found


def _variables(meta: Any, inliner: Inliner, graph: Any, folder: Path, path: Path) -> dict[str, Any]:
    used = {node.name for node in graph.node if node.op in _HANDLES}
    if not used:
        return {}
    restore, _ = inliner.inlined([meta.saver_def.restore_op_name], control=True)
    keys = _checkpoint_keys(restore, path)
    missing = sorted(used - set(keys))
    if missing:
        raise refusal(
            path, f"the variable {short(missing[0])!r} is used, but never restored from a file"
        )
    bundle = Bundle(folder / "variables" / "variables")
    values = bundle.read(keys[name] for name in used)
    return {name: values[keys[name]] for name in used}


def _checkpoint_keys(graph: Any, path: Path) -> dict[str, str]:
    """For each variable's node, its name in the checkpoint."""
    nodes = {node.name: node for node in graph.node}

    def source(reference: str) -> tuple[Any, int]:
        for _ in range(1000):
            name, _, index = reference.partition(":")
            node = nodes.get(name)
            if node is None or node.op != "Identity" or not node.input:
                return node, int(index) if index.isdecimal() else 0
            reference = node.input[0]
        raise refusal(path, "its variables are restored in a circle")

    found = {}
    for node in graph.node:
        if node.op not in ("AssignVariableOp", "Assign") or len(node.input) < 2:
            continue
        variable, _ = source(node.input[0])
        reader, index = source(node.input[1])
        if variable is None or reader is None or reader.op != "RestoreV2" or len(reader.input) < 2:
            continue
        names, _ = source(reader.input[1])
        texts = [] if names is None else names.attr["value"].tensor.string_val
        if index >= len(texts):
            raise ImportFailedError(
                f"{path}: {short(variable.name)!r} is restored from entry {index} of {len(texts)}"
            )
        found[variable.name] = texts[index].decode("utf-8", "surrogateescape")
    return found
