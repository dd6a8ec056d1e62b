"""``boxwright inspect``: what a model or an engine holds, and what a runtime would refuse."""

from __future__ import annotations

from pathlib import Path

import click

from boxwright.cli.common import Settings, Size, Verb, show
from boxwright.cli.progress import progress

_EXIT_REFUSED = 3


@click.command(
    "inspect",
    cls=Verb,
    examples="""
    boxwright inspect tiny.bw
    boxwright inspect tiny.onnx --layers
    boxwright inspect theirs.onnx --for tensorrt@8.6 --cured cured.onnx
    boxwright inspect tiny.onnx --precision fp16
    """,
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="List every layer with its shape and cost.")
@click.option(
    "--cfg", type=click.Path(path_type=Path), help="Network description, for Darknet weights."
)
@click.option(
    "--for",
    "target",
    metavar="TARGET",
    help="List what this runtime would refuse: tensorrt, tensorrt-rtx, onnxruntime or openvino, "
    "with a version if you like: tensorrt@8.6.",
)
@click.option(
    "--cured",
    type=click.Path(path_type=Path),
    metavar="OUT.onnx",
    help="With --for: write the graph with what can be cured cured.",
)
@click.option("--size", type=Size(), help="With --cured: height and width where they are free.")
@click.option(
    "--batch", type=click.IntRange(1, 65536), help="With --cured: batch where it is free."
)
@click.option("--tidy", is_flag=True, help="With --cured: cure what is merely noted, too.")
@click.option(
    "--precision",
    type=click.Choice(["fp16"]),
    help="List what a float16 graph of it would keep in float32, and why.",
)
@click.option(
    "--keep",
    metavar="PREFIX",
    multiple=True,
    help="With --precision: nodes whose names begin so stay in float32; may be repeated.",
)
@click.pass_obj
def command(
    settings: Settings,
    /,
    file: Path,
    layers: bool,
    cfg: Path | None,
    target: str | None,
    cured: Path | None,
    size: tuple[int, int] | None,
    batch: int | None,
    tidy: bool,
    precision: str | None,
    keep: tuple[str, ...],
) -> None:
    """Show what a model or an engine holds, or what a runtime would refuse in it.

    FILE is an ONNX model or an engine that Boxwright wrote, or trained weights that
    `boxwright import` reads (of Darknet's, the .cfg beside its weights will do too).
    Shown are its card, inputs and outputs, operators, parameters and
    multiply-accumulates for one image; of an engine also its receipt and whether its
    plans fit this machine.

    With --for, FILE may be any ONNX file, and shown is what that runtime would make of
    its graph: exit code 3 when it would refuse it, 0 when it would not. With --cured the
    cured graph is what the exit code speaks of; it is run beside the original, and written
    only where both agree.

    With --precision fp16, shown is the float16 graph that TensorRT 11 and TensorRT-RTX are
    given for that precision: which nodes stay in float32 and why, and which weights lose
    values. Nothing is written.
    """
    if keep and precision is None:
        raise click.UsageError("--keep says what stays in float32: give --precision fp16")
    if precision is not None:
        from boxwright.cli.inspect.precision import foresee

        if layers or target is not None:
            raise click.UsageError("--precision is a view of its own: leave --layers, --for away")
        foresee(settings, file, cfg, keep)
    elif target is not None:
        from boxwright.cli.inspect.doctor import Wish, consult

        if layers:
            raise click.UsageError("--layers lists what the graph holds; leave --for away")
        accepted = consult(settings, file, cfg, Wish(target, cured, size, batch, tidy))
        if not accepted:
            raise click.exceptions.Exit(_EXIT_REFUSED)
    elif cured is not None or size is not None or batch is not None or tidy:
        raise click.UsageError("--cured, --size, --batch and --tidy need a runtime: --for TARGET")
    else:
        _show_content(settings, file, cfg, layers)


def _show_content(settings: Settings, file: Path, cfg: Path | None, layers: bool) -> None:
    """What the file holds."""
    from boxwright.cli.inspect.content import content_of, open_subject
    from boxwright.graph.cost import cost

    with progress(settings) as report:
        subject = open_subject(file, cfg, report)
    costs = cost(subject.model.proto)
    content = content_of(subject, costs, layers, settings.device)

    def shown() -> None:
        from boxwright.cli.inspect.render import render

        render(subject, costs, content, layers)

    show(settings, content, shown)
