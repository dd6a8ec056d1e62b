"""``boxwright inspect``: what a model or an engine holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwright.cli.common import Settings, Verb, show
from boxwright.cli.plans import plan_list, render_plans
from boxwright.cli.progress import progress

if TYPE_CHECKING:
    from boxwright.card import ModelCard
    from boxwright.engine import Engine
    from boxwright.graph.cost import ModelCost
    from boxwright.model import Model


@dataclass(frozen=True)
class _Subject:
    """What was found at the path."""

    kind: str
    path: Path
    model: Model
    engine: Engine | None = None


@click.command(
    "inspect",
    cls=Verb,
    examples="""
    boxwright inspect tiny.bw
    boxwright inspect tiny.onnx --layers
    """,
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="List every layer with its shape and cost.")
@click.option(
    "--cfg", type=click.Path(path_type=Path), help="Network description, for Darknet weights."
)
@click.pass_obj
def command(settings: Settings, /, file: Path, layers: bool, cfg: Path | None) -> None:
    """Show what a model or an engine holds.

    FILE is an ONNX model or an engine that Boxwright wrote, or trained weights that
    `boxwright import` reads (of Darknet's, the .cfg beside its weights will do too).
    Shown are its card, inputs and outputs, operators, parameters and
    multiply-accumulates for one image; of an engine also its receipt and whether its
    plans fit this machine.
    """
    from boxwright.graph.cost import cost

    with progress(settings) as report:
        subject = _open(file, cfg, report)
    costs = cost(subject.model.proto)
    content = _content(subject, costs, layers, settings.device)
    show(settings, content, lambda: _render(subject, costs, content, layers))


def _open(path: Path, cfg: Path | None, report: Any) -> _Subject:
    import boxwright
    from boxwright.engine import Engine, is_engine_file
    from boxwright.model import Model

    if is_engine_file(path):
        engine = Engine.open(path)
        return _Subject("engine", path, engine.model(), engine)
    if path.suffix.lower() in (".onnx", ".bw"):
        # A file named .bw that does not look like an engine gets the engine's complaint.
        if path.suffix.lower() == ".bw":
            Engine.open(path)
        return _Subject("model", path, Model.load(path))
    if path.suffix.lower() == ".cfg":
        path, cfg = path.with_suffix(".weights"), path
    return _Subject("weights", path, boxwright.import_model(path, cfg=cfg, progress=report))


def _content(subject: _Subject, costs: ModelCost, layers: bool, device: str) -> dict[str, Any]:
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


def _render(subject: _Subject, costs: ModelCost, content: dict[str, Any], layers: bool) -> None:
    from boxwright.cli.tables import facts, heading, table
    from boxwright.files import human_size
    from boxwright.receipt import SECTIONS

    card, graph = subject.model.card, content["graph"]
    facts(
        [
            (subject.kind, f"{subject.path} ({human_size(content['bytes'])})"),
            *_card_facts(card),
            *(("in", _tensor_line(t)) for t in graph["inputs"]),
            *(("out", _tensor_line(t)) for t in graph["outputs"]),
            ("graph", f"{graph['nodes']} nodes, opset {graph['opset'].get('ai.onnx', '?')}"),
            ("operators", ", ".join(f"{n} {name}" for name, n in costs.operators.items())),
            ("parameters", f"{costs.parameters:,}"),
            ("cost", f"{costs.macs / 1e9:.3f} GMACs ({costs.flops / 1e9:.3f} GFLOPs) an image"),
            ("not counted", ", ".join(costs.uncounted) or None),
        ]
    )
    if card.heads:
        heading("Heads")
        table(
            ("kind", "grid", "anchors", "candidates", "tensor"),
            [
                (h.kind, f"{h.grid[0]} x {h.grid[1]}", len(h.anchors), h.rows, h.tensor)
                for h in card.heads
            ],
            right=("anchors", "candidates"),
        )
    heading("Made from")
    facts(
        [
            *(
                (file.name, f"{human_size(file.size)}  sha256 {file.sha256}")
                for file in card.source_files
            ),
            *(
                (step.name, _text(_pairs(step.parameters | step.effect)))
                for step in card.transforms
            ),
        ]
    )
    if subject.engine is not None:
        render_plans(content["plans"])
        _render_evidence(subject.engine)
        heading("Receipt")
        # The sources and the evidence stand above already.
        shown = {"sources", "measured", "plans", *SECTIONS}
        facts(_flatten({k: v for k, v in subject.engine.receipt.items() if k not in shown}))
    if layers:
        heading("Layers")
        table(
            ("layer", "operator", "shape", "parameters", "MMACs"),
            [
                (
                    layer.name,
                    layer.operator,
                    "?" if layer.shape is None else " x ".join(str(d or "?") for d in layer.shape),
                    f"{layer.parameters:,}" if layer.parameters else "",
                    (f"{layer.macs / 1e6:.2f}" if layer.macs else "") if layer.counted else "?",
                )
                for layer in costs.layers
            ],
            right=("parameters", "MMACs"),
        )


def _render_evidence(engine: Engine) -> None:
    """Every check that the receipt knows of, and whether it was made on this machine."""
    from boxwright.cli.tables import facts, heading, table
    from boxwright.evaluate.report.evidence import of_engine
    from boxwright.receipt import measured_elsewhere

    heading("Evidence")
    verdicts = {True: "ok", False: "FAILED", None: "-"}
    checks = of_engine(engine.path).checks()
    table(("check", "verdict", "measured"), [(c.name, verdicts[c.ok], c.detail) for c in checks])
    stamps = engine.receipt.get("measured")
    elsewhere = measured_elsewhere(engine.receipt)
    facts(
        [
            (
                section,
                f"{stamp.get('when')}, "
                + (f"ANOTHER machine ({elsewhere[section]})" if section in elsewhere else "here"),
            )
            for section, stamp in (stamps.items() if isinstance(stamps, dict) else ())
            if isinstance(stamp, dict)
        ]
    )


def _card_facts(card: ModelCard) -> list[tuple[str, object]]:
    height, width = card.input_size
    names = ", ".join(card.class_names[:5]) + (", ..." if len(card.class_names) > 5 else "")
    nms = card.nms
    beta = f" beta {nms.beta}" if nms.kind == "diou" else ""
    return [
        ("network", f"{card.name} ({card.family})"),
        ("task", card.task),
        ("classes", f"{len(card.class_names)}: {names}"),
        ("size", f"{height} x {width} (height x width)"),
        ("resize", f"{card.resize}, {card.interpolation} interpolation"),
        ("score above", card.score_threshold),
        ("suppression", f"{nms.kind}{beta}, IoU above {nms.iou_threshold}"),
        ("licence", card.licence or "not stated"),
    ]


def _tensor_line(tensor: dict[str, Any]) -> str:
    shape = " x ".join("?" if extent is None else str(extent) for extent in tensor["shape"])
    return f"{tensor['name']}: {tensor['type']} {shape}"


def _flatten(content: dict[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Nested tables as ``a.b`` rows, for people; a deep table of plain values is one row."""
    rows: list[tuple[str, object]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        if not isinstance(value, dict) or not value:
            rows.append((name, _text(value)))
        elif prefix and not any(isinstance(item, (dict, list)) for item in value.values()):
            rows.append((name, _text(_pairs(value))))
        else:
            rows += _flatten(value, f"{name}.")
    return rows


def _pairs(content: dict[str, Any]) -> list[str]:
    return [f"{key} {_text(value)}" for key, value in content.items()]


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "-"
    return "-" if value in (None, {}) else str(value)
