"""``boxwright build``: a model to an engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from boxwright.cli.common import BatchRange, Settings, Verb, show
from boxwright.cli.options import backend_options
from boxwright.cli.progress import progress

_FILE = click.Path(path_type=Path)


@click.command(
    "build",
    cls=Verb,
    examples="""
    boxwright build tiny.onnx -o tiny.bw
    boxwright build tiny.onnx --backend onnxruntime --batch 1:8:32 -o tiny.bw
    boxwright build tiny.onnx --option intra_op_num_threads=2
    boxwright build tiny.bw
    """,
)
@click.argument("model", type=_FILE)
@click.option(
    "-o",
    "--output",
    type=_FILE,
    help="Engine to write.  [default: name of MODEL + .bw; an engine itself gains the plan]",
)
@click.option(
    "--backend", help="Runtime to build for.  [default: the engine's; of a model, onnxruntime]"
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="Precision asked for.  [default: the engine's; of a model, fp32]",
)
@click.option(
    "--batch",
    type=BatchRange(),
    help="Smallest, usual and largest batch, for runtimes that compile for a range.  "
    "[default: the engine's; of a model, 1:1:16]",
)
@backend_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    model: Path,
    output: Path | None,
    backend: str | None,
    precision: str | None,
    batch: tuple[int, int, int] | None,
    options: dict[str, Any],
) -> None:
    """Build an engine from a model.

    MODEL is an ONNX file that `boxwright import` wrote. The engine is one file: the
    model, its card, a plan for this machine and a receipt. On another machine its plan
    is rebuilt from the model inside.

    MODEL may also be an engine. Then its own model is built, and the plan is added to
    those it has; of the same machine, backend, precision and batch it takes the place of
    the old one.
    """
    from boxwright import backends
    from boxwright.builds import newest
    from boxwright.engine import Engine
    from boxwright.files import refuse_overwriting

    source = backends.open_source(model)
    is_engine = isinstance(source, Engine)
    target = output or (model if is_engine else Path(f"{model.stem}.bw"))
    if not is_engine:
        refuse_overwriting(target, model)
    started = time.perf_counter()
    with progress(settings) as report:
        engine = backends.build(
            source,
            backend=backend,
            precision=precision,  # type: ignore[arg-type]  # click has checked the choice
            batch=batch,
            device=settings.device,
            options=options,
            output=target,
            progress=report,
        )
    seconds = time.perf_counter() - started
    build = newest(engine.receipt, source.receipt if isinstance(source, Engine) else {})
    content = {
        "output": str(target),
        "bytes": target.stat().st_size,
        "seconds": round(seconds, 3),
        "backend": build.facts["backend"],
        "precision": build.facts["precision"],
        "options": options,
        "plan": build.fingerprint,
        "plans": list(engine.plans),
    }
    show(settings, content, lambda: _render(content))


def _render(content: dict[str, Any]) -> None:
    from boxwright.cli.tables import facts
    from boxwright.files import human_size

    options = ", ".join(f"{name}={value}" for name, value in content["options"].items())
    others = [plan for plan in content["plans"] if plan != content["plan"]]
    facts(
        [
            ("engine", f"{content['output']} ({human_size(content['bytes'])})"),
            ("backend", f"{content['backend']}, {content['precision']}"),
            ("options", options or None),
            ("plan", content["plan"]),
            *(("kept", plan) for plan in others),
            ("took", f"{content['seconds']:.1f} s"),
        ]
    )
