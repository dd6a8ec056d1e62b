"""``boxwright verify``: how far a model or engine is from a reference."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from boxwright.cli.common import Number, Settings, Verb, note, show
from boxwright.cli.progress import progress

if TYPE_CHECKING:
    from boxwright.evaluate.parity_report import ParityReport
    from boxwright.evaluate.verification import Verification

_PATH = click.Path(path_type=Path)


@click.command(
    "verify",
    cls=Verb,
    examples="""
    boxwright verify tiny.bw --images photos/
    boxwright verify tiny.bw --images val2017/ --annotations instances_val2017.json --max-drop 0.5
    boxwright verify tiny.bw --images photos/ --again
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
    type=click.Choice(["auto", "trained", "random", "opencv"]),
    default="auto",
    show_default=True,
    help="How much difference to accept: what SUBJECT's precision explains (auto); or as for "
    "trained float32 weights, for random weights, for OpenCV's rounding.",
)
@click.option("--backend", help="Backend that runs SUBJECT.  [default: the engine's own]")
@click.option(
    "--annotations",
    type=_PATH,
    help="Labels of the images: AP of SUBJECT and of its own model, and their difference.",
)
@click.option(
    "--max-drop",
    type=Number(0, 100),
    help="Points of AP that SUBJECT may lose; more is exit code 3. Needs --annotations.",
)
@click.option(
    "-o",
    "--output",
    type=_PATH,
    help="Folder for pictures of the images the two disagree on most, and for evaluations.",
)
@click.option("--receipt/--no-receipt", default=True, help="Write what was found into the engine.")
@click.option("--again", is_flag=True, help="Compare with what the engine's receipt says.")
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
    annotations: Path | None,
    max_drop: float | None,
    output: Path | None,
    receipt: bool,
    again: bool,
) -> None:
    """Measure how far a model or engine is from a reference.

    Both sides get the same pixels. Compared are boxes and scores, the candidates above a
    low threshold, and the detections (the suppression); of a model (.onnx) also the raw
    heads, which an engine does not give out. So a failure says where it begins. Then
    SUBJECT is held against itself: the same images in another order, beside copies, one
    by one, and again. With labels, the difference in AP follows, with an interval. An
    engine keeps all of it in its receipt.
    Exit code 3 when a check fails, or with --again when the receipt says otherwise.
    """
    from boxwright.evaluate import parity
    from boxwright.evaluate.verification import Request, verify

    if max_drop is not None and annotations is None:
        raise click.UsageError("--max-drop needs --annotations")
    known = {
        "trained": parity.Tolerances,
        "random": parity.Tolerances.random_weights,
        "opencv": parity.Tolerances.opencv,
    }
    tolerances = None if tolerance == "auto" else known[tolerance]()
    with progress(settings) as report:
        result = verify(
            Request(
                subject=subject,
                against=against,
                images=images,
                limit=limit,
                cfg=cfg,
                tolerances=tolerances,
                backend=backend,
                annotations=annotations,
                output=output,
                seed=settings.seed,
                device=settings.device,
                command=shlex.join(["boxwright", *sys.argv[1:]]),
                keep=receipt,
                again=again,
            ),
            report,
        )
    show(settings, result.to_dict(), lambda: _render(result))
    failures = result.failures(max_drop)
    if failures:
        if not settings.json:
            note(settings, f"{'; '.join(failures)}: exit code 3")
        raise click.exceptions.Exit(3)


def _render(result: Verification) -> None:
    """Everything that was found, on stdout."""
    render(result.proof.parity)
    click.echo("\nDoes it agree with itself?\n")
    for check in result.proof.consistency:
        click.echo(str(check))
    if result.drop is not None:
        ap, low, high = (100 * result.drop[key] for key in ("value", "low", "high"))
        click.echo(
            f"\nAP {100 * result.ap_subject:.2f} %, of its own model "
            f"{100 * result.ap_model:.2f} %: difference {ap:+.2f} points "
            f"(95 % interval {low:+.2f} to {high:+.2f})"
        )
    if result.changes is not None:
        said = "says the same" if not result.changes else "says otherwise"
        click.echo(f"\nthe receipt {said}")
        for line in result.changes:
            click.echo(f"  {line}")
    if result.kept:
        click.echo("\nwritten into the engine's receipt")


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
