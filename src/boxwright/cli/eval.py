"""``boxwright eval``: how accurate a model or engine is on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwright.cli.common import Number, Settings, Verb, note, show
from boxwright.cli.progress import progress

if TYPE_CHECKING:
    from boxwright.datasets import Dataset
    from boxwright.evaluate.accuracy import ClassAccuracy
    from boxwright.evaluate.run import Evaluation

_PATH = click.Path(path_type=Path)
_FRACTION = Number(0, 1)
# So many of the best and of the worst classes are shown.
_SHOWN = 5


@click.command(
    "eval",
    cls=Verb,
    examples="""
    boxwright eval tiny.bw --annotations instances_val2017.json --images val2017/
    boxwright eval tiny.bw --data voc.data --metric voc --points 11
    boxwright eval tiny.bw --data VOC2007/ --split test --min-ap 0.4 -o accuracy/
    """,
)
@click.argument("model", type=_PATH)
@click.option("--annotations", type=_PATH, help="COCO annotations (.json); the same as --data.")
@click.option(
    "--data",
    type=_PATH,
    help="Labels: COCO .json, Darknet .data, YOLO .yaml, .txt list of images, or a folder in "
    "the layout of Pascal VOC, COCO or YOLO.",
)
@click.option("--images", type=_PATH, help="Folder of the images, where it cannot be found.")
@click.option("--split", help="val, train, test, ... where there are several.")
@click.option("--names", type=_PATH, help="File with the labels' class names, one a line.")
@click.option(
    "--score",
    type=_FRACTION,
    help="Look at detections above this.  [default: 0.001 for coco, 0.005 for voc]",
)
@click.option(
    "--iou", type=_FRACTION, help="Overlap that suppresses the weaker box.  [default: the card's]"
)
@click.option(
    "--multi-label/--best-class",
    "multi_label",
    default=None,
    help="Whether a box may count for several classes.  [default: the card's]",
)
@click.option("--batch", type=click.IntRange(1), help="Images run at once.")
@click.option("--backend", help="Runtime to use.  [default: the engine's own]")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many images.")
@click.option(
    "--metric",
    type=click.Choice(["coco", "voc"]),
    default="coco",
    show_default=True,
    help="AP over IoU .50 to .95, or mAP at IoU .50 as `darknet detector map` prints it.",
)
@click.option(
    "--points",
    type=click.Choice(["0", "11", "101"]),
    default="0",
    show_default=True,
    help="With --metric voc: recall points; 0 is the area under the curve.",
)
@click.option(
    "--min-ap", type=_FRACTION, help="Exit code 3 when AP (voc: mAP) is below this, 0 to 1."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for results.json, evaluation.json and detections.jsonl.  [default: none]",
)
@click.option("--save", type=_PATH, help="Write the detections here, in COCO's results format.")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on with an unfinished run in the folder of -o.",
)
@click.pass_obj
def command(
    settings: Settings,
    /,
    model: Path,
    annotations: Path | None,
    data: Path | None,
    min_ap: float | None,
    output: Path | None,
    save: Path | None,
    **options: Any,
) -> None:
    """Measure accuracy on labelled images.

    MODEL is an engine, or a model as it is. Classes are matched by name. What is wrong
    with labels and images is said once a kind and counted; an image that cannot be read
    does not count. At most 100 detections an image count, but with --metric voc all.
    """
    from boxwright.evaluate.run import evaluate, save_results

    dataset = _dataset(annotations, data, options)
    with progress(settings) as report:
        evaluation = evaluate(
            model,
            dataset,
            metric=options["metric"],
            points=int(options["points"]),
            backend=options["backend"],
            device=settings.device,
            score_threshold=options["score"],
            iou_threshold=options["iou"],
            multi_label=options["multi_label"],
            batch_size=options["batch"],
            output=output,
            resume=options["resume"],
            progress=report,
        )
    if save is not None:
        save_results(evaluation, save)
    _remarks(settings, dataset, evaluation)
    reached = evaluation.accuracy.headline
    missed = min_ap is not None and (reached is None or reached < min_ap)
    content = {
        **evaluation.to_dict(curves=False),
        "budget": None if min_ap is None else {"min_ap": min_ap, "met": not missed},
        "output": None if output is None else str(output),
        "save": None if save is None else str(save),
    }
    show(settings, content, lambda: render(evaluation))
    if missed:
        if not settings.json:
            shown = "unknown" if reached is None else f"{reached:.4f}"
            note(settings, f"AP is {shown}, below the budget of {min_ap:g}: exit code 3")
        raise click.exceptions.Exit(3)


def _dataset(annotations: Path | None, data: Path | None, options: dict[str, Any]) -> Dataset:
    from boxwright import datasets

    path = annotations or data
    if path is None or (annotations and data):
        raise click.UsageError("give the labels with one of --annotations and --data")
    dataset = datasets.open(
        path, images=options["images"], split=options["split"], names=options["names"]
    )
    return dataset if options["limit"] is None else dataset.head(options["limit"])


def _remarks(settings: Settings, dataset: Dataset, evaluation: Evaluation) -> None:
    """What was found while detecting; reading has logged its own findings."""
    known = set(dataset.report.lines())
    for line in evaluation.dataset.report.lines():
        if line not in known and settings.verbosity >= 0:
            click.echo(f"warning: {line}", err=True)
    for line in evaluation.class_map.lines():
        note(settings, f"note: {line}")


def render(evaluation: Evaluation) -> None:
    """The result as tables on stdout."""
    from boxwright.cli.tables import facts

    accuracy = evaluation.accuracy
    timing = evaluation.timing
    counts = f"{accuracy.images} images, {accuracy.objects} objects, {accuracy.detections} boxes"
    if evaluation.unreadable:
        counts += f"; {len(evaluation.unreadable)} images could not be read and do not count"
    facts(
        [
            ("model", evaluation.model["name"]),
            ("labels", f"{evaluation.dataset.name} (sha256 {evaluation.dataset.sha256[:12]})"),
            ("counted", counts),
            ("speed", f"{timing['images_per_second']} images/s, files to boxes"),
        ]
    )
    if accuracy.metric == "coco":
        _render_coco(evaluation)
    else:
        _render_voc(evaluation)
    _render_classes(accuracy.classes, accuracy.metric)


def _render_coco(evaluation: Evaluation) -> None:
    from boxwright.cli.tables import table
    from boxwright.evaluate.accuracy import Accuracy

    a = evaluation.accuracy
    assert isinstance(a, Accuracy)  # noqa: S101 - by its metric
    click.echo()
    table(
        ("", "all", "small", "medium", "large"),
        [
            ("AP", *map(_number, (a.ap, a.ap_small, a.ap_medium, a.ap_large))),
            ("AP50", _number(a.ap50), "", "", ""),
            ("AP75", _number(a.ap75), "", "", ""),
            ("AR 100", *map(_number, (a.ar_100, a.ar_small, a.ar_medium, a.ar_large))),
            ("AR 10", _number(a.ar_10), "", "", ""),
            ("AR 1", _number(a.ar_1), "", "", ""),
        ],
        right=("all", "small", "medium", "large"),
    )


def _render_voc(evaluation: Evaluation) -> None:
    from boxwright.cli.tables import facts
    from boxwright.evaluate.accuracy import VocAccuracy

    a = evaluation.accuracy
    assert isinstance(a, VocAccuracy)  # noqa: S101 - by its metric
    way = f"{a.points} recall points" if a.points else "area under the curve"
    at = a.at
    click.echo()
    facts(
        [
            (f"mAP@{a.iou:.2f}", f"{_number(a.map)} ({way}, all {len(a.classes)} classes)"),
            ("with objects", f"{_number(a.map_present)} (classes that have any)"),
            (
                f"above {at.score:g}",
                f"precision {_number(at.precision)}, recall {_number(at.recall)}, "
                f"F1 {_number(at.f1)}, average IoU {_number(at.average_iou)}",
            ),
            (
                "",
                f"TP {at.true_positives}, FP {at.false_positives}, FN {at.false_negatives}",
            ),
        ]
    )


def _render_classes(classes: tuple[ClassAccuracy, ...], metric: str) -> None:
    from boxwright.cli.tables import heading, table

    ranked = sorted(
        (item for item in classes if item.ap is not None), key=lambda item: -(item.ap or 0)
    )
    few = len(ranked) <= 2 * _SHOWN
    columns = ("class", *(("AP",) if metric == "coco" else ()), "AP50", "objects", "boxes")
    for title, items in (
        [("Classes", ranked)]
        if few
        else [("Best classes", ranked[:_SHOWN]), ("Worst classes", ranked[-_SHOWN:])]
    ):
        heading(title)
        rows = [
            (
                item.name,
                *((_number(item.ap),) if metric == "coco" else ()),
                *(_number(item.ap50), item.objects, item.detections),
            )
            for item in items
        ]
        table(columns, rows, right=columns[1:])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
