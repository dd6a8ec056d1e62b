"""What ``boxwright inspect`` found, as one JSON document."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.cli.plans import plan_list

if TYPE_CHECKING:
    from boxwright.engine import Engine
    from boxwright.graph.cost import ModelCost
    from boxwright.model import Model


@dataclass(frozen=True)
class Subject:
    """What was found at the path."""

    kind: str
    path: Path
    model: Model
    engine: Engine | None = None


def open_subject(path: Path, cfg: Path | None, report: Any) -> Subject:
    """Open an engine or a model, or import weights.

    Raises:
        InputError: It is none of these, or damaged.
    """
    import boxwright
    from boxwright.engine import Engine, is_engine_file
    from boxwright.model import Model

    if is_engine_file(path):
        engine = Engine.open(path)
        return Subject("engine", path, engine.model(), engine)
    if path.suffix.lower() in (".onnx", ".bw"):
        # A file named .bw that does not look like an engine gets the engine's complaint.
        if path.suffix.lower() == ".bw":
            Engine.open(path)
        return Subject("model", path, Model.load(path))
    if path.suffix.lower() == ".cfg":
        path, cfg = path.with_suffix(".weights"), path
    return Subject("weights", path, boxwright.import_model(path, cfg=cfg, progress=report))


def content_of(subject: Subject, costs: ModelCost, layers: bool, device: str) -> dict[str, Any]:
    """Everything that is shown, and what only programs ask for."""
    proto = subject.model.proto
    content: dict[str, Any] = {
        "file": str(subject.path),
        "kind": subject.kind,
        "bytes": subject.path.stat().st_size,
        "card": json.loads(subject.model.card.to_json()),
        "graph": {
            "opset": {item.domain or "ai.onnx": item.version for item in proto.opset_import},
            "ir_version": proto.ir_version,
            "inputs": _tensors(proto.graph.input),
            "outputs": _tensors(proto.graph.output),
            "nodes": len(proto.graph.node),
            "operators": costs.operators,
            "parameters": costs.parameters,
            "macs": costs.macs,
            "flops": costs.flops,
            "batch": costs.batch,
            "uncounted": list(costs.uncounted),
        },
    }
    if layers:
        content["layers"] = [
            {
                "name": layer.name,
                "operator": layer.operator,
                "shape": None if layer.shape is None else list(layer.shape),
                "parameters": layer.parameters,
                "macs": layer.macs if layer.counted else None,
            }
            for layer in costs.layers
        ]
    if subject.engine is not None:
        content["receipt"] = subject.engine.receipt
        content["plans"] = plan_list(subject.engine, device)
    return content


def _tensors(values: Any) -> list[dict[str, Any]]:
    from onnx import TensorProto

    return [
        {
            "name": value.name,
            "type": TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower(),
            "shape": [
                d.dim_value if d.HasField("dim_value") else (d.dim_param or None)
                for d in value.type.tensor_type.shape.dim
            ],
        }
        for value in values
    ]
