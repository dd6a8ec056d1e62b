"""``boxwright verify``: how far a model or engine is from a reference."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwright.cli.common import Settings, Verb, note, show
from boxwright.cli.progress import progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from boxwright.card import ModelCard
    from boxwright.evaluate.parity_report import ParityReport

_PATH = click.Path(path_type=Path)


@click.command(
    "verify",
    cls=Verb,
    examples="""
    boxwright verify tiny.bw --images photos/
    boxwright verify tiny.bw --against darknet-outputs.npz --images dog_416x416.png
    boxwright verify tiny.bw --against yolov4-tiny.weights --images photos/ --tolerance opencv
    """,
)
@click.argument("subject", type=_PATH)
@click.option(
    "--against",
    type=_PATH,
    help="A dump (.npz), a model (.onnx), an engine (.bw), or Darknet weights, which OpenCV "
    "then runs.  [default: SUBJECT's own model on the reference backend]",
)
@click.option(
    "--images",
    multiple=True,
    help="Image, folder or pattern; repeatable. A dump that keeps its pixels needs none.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Compare at most this many images, drawn at random.",
)
@click.option("--cfg", type=_PATH, help="Network description, where --against is weights.")
@click.option(
    "--tolerance",
    type=click.Choice(["trained", "random", "opencv"]),
    default="trained",
    show_default=True,
    help="How much difference to accept: for trained or random weights, or OpenCV's rounding.",
)
@click.option("--backend", help="Backend that runs SUBJECT.  [default: the engine's own]")
@click.pass_obj
def command(
    settings: Settings,
    /,
    subject: Path,
    against: Path | None,
    images: tuple[str, ...],
    limit: int,
    cfg: Path | None,
    tolerance: str,
    backend: str | None,
) -> None:
    """Measure how far a model or engine is from a reference.

    Both sides get the same pixels. Compared are the raw heads (the network), boxes and
    scores above a low threshold (the decoding), and the detections (the suppression),
    so a failure says where it begins. Exit code 3 when a check is outside tolerance.
    """
    from boxwright.evaluate import parity

    tolerances = {
        "trained": parity.Tolerances,
        "random": parity.Tolerances.random_weights,
        "opencv": parity.Tolerances.opencv,
    }[tolerance]()
    model, card = _open(subject)
    reference, reference_backend = _reference(against, cfg, model, card)
    pixels = _pixels(images, limit, settings.seed, card)
    with progress(settings) as report:
        result = parity.compare(
            model,
            reference,
            pixels,
            tolerances,
            backend=backend,
            reference_backend=reference_backend,
            card=card,
            progress=report,
        )
    show(settings, result.to_dict(), lambda: render(result))
    if not result.ok:
        if not settings.json:
            note(settings, "outside tolerance: exit code 3")
        raise click.exceptions.Exit(3)


def _open(path: Path) -> tuple[Any, ModelCard]:
    from boxwright.engine import Engine, is_engine_file
    from boxwright.model import Model

    opened: Engine | Model
    if is_engine_file(path) or path.suffix.lower() == ".bw":
        opened = Engine.open(path)
    else:
        opened = Model.load(path)
    return opened, opened.card


def _reference(
    against: Path | None, cfg: Path | None, model: Any, card: ModelCard
) -> tuple[Any, str | None]:
    """What to compare with, and the backend it runs on where it is a model."""
    if against is None:
        portable = model.model() if hasattr(model, "model") else model
        return portable, "reference"
    if against.suffix.lower() == ".weights":
        from boxwright.evaluate.opencv_oracle import OpenCvDarknet

        return OpenCvDarknet(cfg or against.with_suffix(".cfg"), against), None
    return against, None


def _pixels(
    images: tuple[str, ...], limit: int, seed: int, card: ModelCard
) -> NDArray[np.uint8] | None:
    if not images:
        return None
    from boxwright.images import find_images, load_image
    from boxwright.preprocess import Preprocessor

    paths = find_images(images)
    if len(paths) > limit:
        paths = sorted(random.Random(seed).sample(paths, limit))  # noqa: S311 - not a secret
    prepare = Preprocessor(card)
    return prepare.prepare_batch([load_image(path) for path in paths])[0]


def render(report: ParityReport) -> None:
    """The report as tables on stdout."""
    from boxwright.cli.tables import table

    verdict = "agrees with" if report.ok else "DIFFERS from"
    images = f"{report.images} image{'' if report.images == 1 else 's'}"
    click.echo(f"{report.subject} {verdict} {report.reference} on {images}\n")
    rows = report.rows()
    if rows:
        table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    lost = [(boxes, box) for boxes in report.boxes if not boxes.ok for box in boxes.unmatched]
    if lost:
        click.echo("\nboxes that only one side has:\n")
        table(
            ("image", "stage", "side", "class", "score", "xyxy", "reason"),
            [
                (
                    box.image,
                    boxes.stage,
                    box.side,
                    box.class_id,
                    f"{box.score:.4f}",
                    " ".join(f"{value:.1f}" for value in box.xyxy),
                    box.reason,
                )
                for boxes, box in lost
            ],
            right=("image", "class", "score"),
        )
    for remark in report.notes:
        click.echo(f"note: {remark}")
