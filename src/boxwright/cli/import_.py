"""``boxwright import``: trained weights to one ONNX model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from boxwright.cli.common import Settings, Size, Verb, show
from boxwright.cli.progress import progress

_FILE = click.Path(path_type=Path)


@click.command(
    "import",
    cls=Verb,
    examples="""
    boxwright import yolov4-tiny.weights --cfg yolov4-tiny.cfg --names coco.names -o tiny.onnx
    boxwright import yolov4.weights --size 320x608 --resize letterbox
    """,
)
@click.argument("weights", type=_FILE)
@click.option(
    "-o", "--output", type=_FILE, help="Model to write.  [default: name of WEIGHTS + .onnx]"
)
@click.option("--format", "format_", help="Format of WEIGHTS.  [default: told from the file]")
@click.option(
    "--cfg", type=_FILE, help="Darknet network description.  [default: beside WEIGHTS, same name]"
)
@click.option("--names", type=_FILE, help="Class names, one per line.")
@click.option("--data", type=_FILE, help="Darknet .data file, for its class names.")
@click.option(
    "--size",
    type=Size(),
    metavar="HxW",
    help="Input size, height x width.  [default: the network's]",
)
@click.option(
    "--resize",
    type=click.Choice(["letterbox", "stretch"]),
    help="How images are brought to that size.  [default: as the source did]",
)
@click.option(
    "--interpolation",
    type=click.Choice(["darknet", "opencv"]),
    help="How pixels are interpolated.  [default: as the source did]",
)
@click.option("--licence", help="Licence of the weights, kept on the card.")
@click.pass_obj
def command(
    settings: Settings, /, weights: Path, output: Path | None, format_: str | None, **options: Any
) -> None:
    """Turn trained weights into one ONNX model.

    The model keeps one contract whatever it was made from: uint8 images in, boxes and
    scores out. Its card (class names, sizes, thresholds, source hashes) travels inside
    the file. WEIGHTS is the trained file; Darknet needs its .cfg too.
    """
    import boxwright
    from boxwright.files import human_size, refuse_overwriting

    target = output or Path(f"{weights.stem}.onnx")
    refuse_overwriting(target, weights, *(options.get(name) for name in ("cfg", "names", "data")))
    started = time.perf_counter()
    with progress(settings) as report:
        model = boxwright.import_model(weights, format=format_, progress=report, **options)
        model.save(target)
    seconds = time.perf_counter() - started
    size = target.stat().st_size
    content = {
        "output": str(target),
        "bytes": size,
        "seconds": round(seconds, 3),
        "card": json.loads(model.card.to_json()),
    }

    def render() -> None:
        from boxwright.cli.tables import facts

        card = model.card
        height, width = card.input_size
        facts(
            [
                ("model", f"{target} ({human_size(size)})"),
                ("network", f"{card.family}, {len(card.class_names)} classes"),
                ("input", f"{height} x {width}, {card.resize}, {card.interpolation} interpolation"),
                ("heads", f"{len(card.heads)}, {sum(h.rows for h in card.heads)} candidates"),
                ("licence", card.licence or "not stated"),
                ("took", f"{seconds:.1f} s"),
            ]
        )

    show(settings, content, render)
