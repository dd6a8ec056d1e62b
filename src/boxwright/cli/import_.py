"""``boxwright import``: trained weights to one ONNX model."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwright.cli.common import Settings, Verb, show
from boxwright.cli.options import import_options
from boxwright.cli.progress import progress

if TYPE_CHECKING:
    from boxwright.importers import ImportRequest, Verification
    from boxwright.model import Model

_FILE = click.Path(path_type=Path)


@click.command(
    "import",
    cls=Verb,
    examples="""
    boxwright import yolov4-tiny.weights --cfg yolov4-tiny.cfg --names coco.names -o tiny.onnx
    boxwright import yolov4.weights --size 320x608 --resize letterbox
    boxwright import yolox_nano.onnx --names coco.names --simplify --verify -o nano.onnx
    """,
)
@click.argument("weights", type=_FILE)
@click.option(
    "-o", "--output", type=_FILE, help="Model to write.  [default: name of WEIGHTS + .onnx]"
)
@import_options
@click.option(
    "--simplify/--no-simplify",
    default=False,
    help="Take out nodes that nothing needs, with proof (extra: simplify).",
)
@click.option(
    "--verify", "verified", is_flag=True, help="Compare with the source, run by something else."
)
@click.pass_obj
def command(
    settings: Settings,
    /,
    weights: Path,
    output: Path | None,
    format_: str | None,
    simplify: bool,
    verified: bool,
    **given: Any,
) -> None:
    """Turn trained weights into one ONNX model.

    The model keeps one contract whatever it was made from: uint8 images in, boxes and
    scores out. Its card (class names, sizes, thresholds, source hashes) travels inside
    the file. WEIGHTS is the trained file, whose format is told from its content; Darknet
    needs its .cfg too, and Caffe its prototxt.
    """
    from boxwright.files import refuse_overwriting
    from boxwright.importers import choose, make_request

    target = output or Path(f"{weights.stem}.onnx")
    refuse_overwriting(target, weights, *(given.get(name) for name in ("cfg", "names", "data")))
    started = time.perf_counter()
    with progress(settings) as report:
        request = make_request(weights, progress=report, **given)
        importer = choose(request, format_)
        model = importer.load(request)
        verification = _verified(importer, request, model) if verified else None
        if simplify:
            from boxwright.graph.simplify import simplify as simplified

            model = simplified(model).model
        model.save(target)
    seconds = time.perf_counter() - started
    content = _content(target, seconds, model, verification)
    show(settings, content, lambda: _render(target, content, model))


def _verified(importer: Any, request: ImportRequest, model: Model) -> Verification:
    """What a comparison with the source showed; one that failed writes nothing."""
    from boxwright.errors import ImportFailedError

    if not hasattr(importer, "verify"):
        raise ImportFailedError(
            f"format {importer.name} has no source to be run beside it; leave --verify out and "
            "compare engines with boxwright verify"
        )
    verification: Verification = importer.verify(request, model)
    failed = [check for check in verification.checks if not check.passed]
    if failed or not verification.checks:
        listed = "; ".join(
            f"{check.name} differs by {check.difference:.3g}, expected at most "
            f"{check.tolerance:g} ({check.reason})"
            for check in failed
        )
        raise ImportFailedError(
            f"{request.weights}: the model is not what {verification.against} computes: "
            f"{listed or 'nothing could be compared'}; nothing is written"
        )
    return verification


def _content(
    target: Path, seconds: float, model: Model, verification: Verification | None
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "output": str(target),
        "bytes": target.stat().st_size,
        "seconds": round(seconds, 3),
        "card": json.loads(model.card.to_json()),
    }
    if verification is not None:
        content["verified"] = {
            **dataclasses.asdict(verification),
            "passed": verification.passed,
        }
    return content


def _render(target: Path, content: dict[str, Any], model: Model) -> None:
    from boxwright.cli.tables import facts
    from boxwright.files import human_size

    card = model.card
    height, width = card.input_size
    told = next((t.parameters.get("told") for t in card.transforms if "told" in t.parameters), None)
    facts(
        [
            ("model", f"{target} ({human_size(content['bytes'])})"),
            ("network", f"{card.family}, {len(card.class_names)} classes"),
            ("told by", told),
            ("input", f"{height} x {width}, {card.resize}, {card.interpolation} interpolation"),
            ("heads", f"{len(card.heads)}, {sum(h.rows for h in card.heads)} candidates"),
            ("licence", card.licence or "not stated"),
            ("simplified", _simplified(model)),
            ("verified", _checked(content.get("verified"))),
            ("took", f"{content['seconds']:.1f} s"),
        ]
    )


def _simplified(model: Model) -> str | None:
    effect = next((t.effect for t in model.card.transforms if t.name == "simplify"), None)
    if effect is None:
        return None
    before, after = effect["nodes"]
    return (
        f"{before} nodes, now {after}; outputs differ by {effect['difference']:.2g} of their "
        f"largest value on {effect['images']} images"
    )


def _checked(verified: dict[str, Any] | None) -> str | None:
    if verified is None:
        return None
    listed = ", ".join(f"{c['name']} {c['difference']:.2g}" for c in verified["checks"])
    return f"against {verified['against']}: {listed}"
