"""``boxwright build``: a model to an engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from boxwright.cli.common import BatchRange, Settings, Verb, backend_options, show
from boxwright.cli.progress import progress

_FILE = click.Path(path_type=Path)


@click.command(
    "build",
    cls=Verb,
    examples="""
    boxwright build tiny.onnx -o tiny.bw
    boxwright build tiny.onnx --backend onnxruntime --batch 1:8:32 -o tiny.bw
    boxwright build tiny.onnx --option intra_op_num_threads=2
    """,
)
@click.argument("model", type=_FILE)
@click.option("-o", "--output", type=_FILE, help="Engine to write.  [default: name of MODEL + .bw]")
@click.option("--backend", default="onnxruntime", show_default=True, help="Runtime to build for.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Precision asked for.",
)
@click.option(
    "--batch",
    type=BatchRange(),
    default="1:1:16",
    show_default=True,
    help="Smallest, usual and largest batch, for runtimes that compile for a range.",
)
@backend_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    model: Path,
    output: Path | None,
    backend: str,
    precision: str,
    batch: tuple[int, int, int],
    options: dict[str, Any],
) -> None:
    """Build an engine from a model.

    MODEL is an ONNX file that `boxwright import` wrote. The engine is one file: the
    model, its card, a plan for this machine and a receipt. On another machine its plan
    is rebuilt from the model inside.
    """
    from boxwright import backends
    from boxwright.files import human_size, refuse_overwriting
    from boxwright.model import Model

    target = output or Path(f"{model.stem}.bw")
    refuse_overwriting(target, model)
    started = time.perf_counter()
    with progress(settings) as report:
        engine = backends.build(
            Model.load(model),
            backend=backend,
            precision=precision,  # type: ignore[arg-type]  # click has checked the choice
            batch=batch,
            device=settings.device,
            options=options,
            output=target,
            progress=report,
        )
    seconds = time.perf_counter() - started
    size = target.stat().st_size
    plans = list(engine.plans)
    content = {
        "output": str(target),
        "bytes": size,
        "seconds": round(seconds, 3),
        "backend": backend,
        "precision": precision,
        "options": options,
        "plans": plans,
    }

    def render() -> None:
        from boxwright.cli.tables import facts

        facts(
            [
                ("engine", f"{target} ({human_size(size)})"),
                ("backend", f"{backend}, {precision}"),
                ("options", ", ".join(f"{k}={v}" for k, v in options.items()) or None),
                *(("plan", plan) for plan in plans),
                ("took", f"{seconds:.1f} s"),
            ]
        )

    show(settings, content, render)
