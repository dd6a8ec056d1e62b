"""What ``boxwright inspect`` found, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from boxwright.cli.plans import render_plans
from boxwright.cli.tables import facts, heading, table
from boxwright.files import human_size

if TYPE_CHECKING:
    from boxwright.card import ModelCard
    from boxwright.cli.inspect.content import Subject
    from boxwright.engine import Engine
    from boxwright.graph.cost import ModelCost


def render(subject: Subject, costs: ModelCost, content: dict[str, Any], layers: bool) -> None:
    """Print tables: the model, its heads and origin, and an engine's plans and evidence."""
    card = subject.model.card
    _render_model(subject, costs, content)
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
    files = [(f.name, f"{human_size(f.size)}  sha256 {f.sha256}") for f in card.source_files]
    steps = [(step.name, _text(_pairs(step.parameters | step.effect))) for step in card.transforms]
    facts([*files, *steps])
    if subject.engine is not None:
        _render_engine(subject.engine, content)
    if layers:
        _render_layers(costs)


def _render_model(subject: Subject, costs: ModelCost, content: dict[str, Any]) -> None:
    graph = content["graph"]
    facts(
        [
            (subject.kind, f"{subject.path} ({human_size(content['bytes'])})"),
            *_card_facts(subject.model.card),
            *(("in", _tensor_line(t)) for t in graph["inputs"]),
            *(("out", _tensor_line(t)) for t in graph["outputs"]),
            ("graph", f"{graph['nodes']} nodes, opset {graph['opset'].get('ai.onnx', '?')}"),
            ("operators", ", ".join(f"{n} {name}" for name, n in costs.operators.items())),
            ("parameters", f"{costs.parameters:,}"),
            ("cost", f"{costs.macs / 1e9:.3f} GMACs ({costs.flops / 1e9:.3f} GFLOPs) an image"),
            ("not counted", ", ".join(costs.uncounted) or None),
        ]
    )


def _render_engine(engine: Engine, content: dict[str, Any]) -> None:
    from boxwright.receipt import SECTIONS

    render_plans(content["plans"])
    _render_evidence(engine)
    heading("Receipt")
    # The sources and the evidence stand above already.
    shown = {"sources", "measured", "plans", *SECTIONS}
    facts(_flatten({k: v for k, v in engine.receipt.items() if k not in shown}))


def _render_layers(costs: ModelCost) -> None:
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
    more: list[tuple[str, object]] = []
    if card.landmarks:
        more.append(("landmarks", ", ".join(card.landmarks)))
    if card.crop is not None:
        more.append(("crop", f"{card.crop.shape}, scale {card.crop.scale:g}"))
    return [
        ("network", f"{card.name} ({card.family})"),
        ("task", card.task),
        ("classes", f"{len(card.class_names)}: {names}"),
        ("size", f"{height} x {width} (height x width)"),
        ("resize", f"{card.resize}, {card.interpolation} interpolation"),
        ("score above", card.score_threshold),
        ("suppression", f"{nms.kind}{beta}, IoU above {nms.iou_threshold}"),
        *more,
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
