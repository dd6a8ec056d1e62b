"""``boxwright detect``: objects in images."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwright.cli.common import CommaList, Number, Settings, Verb, note, print_json
from boxwright.cli.progress import progress

if TYPE_CHECKING:
    from boxwright.detector import Detector
    from boxwright.outputs import ResultWriter
    from boxwright.runs import FileResult, RunSummary

# Up to this many images, each gets a table; above, a line.
_TABLES = 4
_DEFAULT_FOLDER = Path("detected")
_FRACTION = Number(0, 1)


@click.command(
    "detect",
    cls=Verb,
    examples="""
    boxwright detect tiny.bw street.jpg
    boxwright detect tiny.bw photos/ -o out/ --save jsonl,coco,yolo,drawn
    boxwright detect faces.bw people.jpg --attributes genderage.bw
    boxwright detect tiny.bw "cam1/**/*.jpg" --class person --score 0.5 --json
    """,
)
@click.argument("engine", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write into.  [default: nothing is written; with --save: detected]",
)
@click.option(
    "--save",
    type=CommaList(("drawn", "jsonl", "coco", "yolo")),
    help="What to write: drawn, jsonl, coco, yolo.  [default: drawn,jsonl]",
)
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    help="COCO annotations whose image and category ids --save coco takes.  [default: ids from "
    "file names]",
)
@click.option(
    "--attributes",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="ENGINE",
    help="Attribute model (sex and age, a class) that describes each box; repeatable.",
)
@click.option(
    "--attributes-crop",
    metavar="CROP",
    help="What attribute models see: box, square or aligned, with a scale if need be, such as "
    "square:1.5.  [default: the card's]",
)
@click.option("--score", type=_FRACTION, help="Score threshold.  [default: the card's]")
@click.option(
    "--iou", type=_FRACTION, help="Overlap that suppresses the weaker box.  [default: the card's]"
)
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Only this; repeatable.")
@click.option("--agnostic", is_flag=True, help="Suppress across classes too.")
@click.option("--max", "max_", type=click.IntRange(1), help="At most this many boxes an image.")
@click.option("--batch", type=click.IntRange(1), help="Images run at once.")
@click.option("--backend", help="Runtime to use.  [default: one the engine has a plan for]")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="Precision to run.  [default: one the engine has a plan for]",
)
@click.option(
    "--rebuild/--no-rebuild",
    default=True,
    show_default=True,
    help="Build a plan where the engine has none that fits this machine.",
)
@click.option("--limit", type=click.IntRange(1), help="Only the first so many images.")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on with an unfinished run in the same folder (not with --save drawn alone).",
)
@click.pass_obj
def command(
    settings: Settings,
    /,
    engine: Path,
    inputs: tuple[str, ...],
    output: Path | None,
    save: tuple[str, ...] | None,
    annotations: Path | None,
    resume: bool,
    limit: int | None,
    **options: Any,
) -> None:
    """Detect objects in images.

    ENGINE is an engine, or a model as it is. INPUTS are images, folders, quoted patterns
    and text files that list one image per line. Boxes are printed in pixels of the
    image. An image that cannot be read is named and counted, and the run goes on; the
    exit code is 1 only if none could be read.
    """
    from boxwright.images import find_images
    from boxwright.runs import detect_files

    folder = output or (_DEFAULT_FOLDER if save else None)
    kinds = (save or ("drawn", "jsonl")) if folder else ()
    if annotations is not None and "coco" not in kinds:
        raise click.UsageError("--annotations needs --save coco")
    if options["attributes_crop"] is not None and not options["attributes"]:
        raise click.UsageError("--attributes-crop needs --attributes")
    paths = find_images(inputs, without=[folder / "drawn"] if folder else [])[:limit]
    report = _Report(settings, tables=len(paths) <= _TABLES)
    with contextlib.ExitStack() as stack:
        detector = stack.enter_context(_detector(settings, engine, options))
        models = (engine, *options["attributes"])
        writer = _writer(detector, models, paths, folder, kinds, annotations, resume)
        if writer is not None:
            stack.enter_context(writer)
            if writer.resumed:
                note(settings, f"going on: {writer.resumed} of {len(paths)} images are done")
        summary = detect_files(
            detector,
            paths,
            writer=writer,
            drawn=folder / "drawn" if folder and "drawn" in kinds else None,
            on_result=report,
            progress=stack.enter_context(progress(settings)),
        )
    report.finish(summary, folder)
    if summary.all_failed:
        raise click.exceptions.Exit(1)


def _detector(settings: Settings, engine: Path, options: dict[str, Any]) -> Detector:
    from boxwright.detector import Detector

    with progress(settings) as report:
        return Detector(
            engine,
            backend=options["backend"],
            precision=options["precision"],
            rebuild=options["rebuild"],
            progress=report,
            device=settings.device,
            score_threshold=options["score"],
            iou_threshold=options["iou"],
            class_agnostic=True if options["agnostic"] else None,
            classes=options["classes"] or None,
            max_detections=options["max_"],
            batch_size=options["batch"],
            attributes=options["attributes"],
            attributes_crop=options["attributes_crop"],
        )


def _writer(
    detector: Detector,
    models: tuple[Path, ...],
    paths: list[Path],
    folder: Path | None,
    kinds: tuple[str, ...],
    annotations: Path | None,
    resume: bool,
) -> ResultWriter | None:
    from boxwright.outputs import ResultWriter

    if folder is None or not set(kinds) - {"drawn"}:
        return None
    # What a result depends on: a run is only continued with the same.
    facts = {**detector.settings, "engine_sha256": _sha256(models[0]), "save": list(kinds)}
    if len(models) > 1:
        facts["attributes_sha256"] = [_sha256(model) for model in models[1:]]
    return ResultWriter(
        paths,
        facts,
        class_names=detector.card.class_names,
        jsonl=folder / "detections.jsonl" if "jsonl" in kinds else None,
        coco=folder / "coco.json" if "coco" in kinds else None,
        annotations=annotations,
        yolo=folder / "labels" if "yolo" in kinds else None,
        restart=not resume,
    )


def _sha256(engine: Path) -> str:
    """Of what is run: evidence added to an engine's receipt leaves it as it is."""
    from boxwright.engine import Engine, is_engine_file
    from boxwright.files import sha256_file

    return Engine.open(engine).content_sha256 if is_engine_file(engine) else sha256_file(engine)


@dataclass
class _Report:
    """Shows each result as it comes, or collects it for the JSON document."""

    settings: Settings
    tables: bool
    started: float = field(default_factory=time.perf_counter)
    records: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, result: FileResult) -> None:
        from boxwright.outputs import failure_record, image_record

        if result.detections is None or result.size is None:
            self.records.append(failure_record(result.path, result.error or ""))
            if not self.settings.json:
                click.echo(f"warning: {result.error}", err=True)
        elif self.settings.json:
            self.records.append(image_record(result.path, result.size, result.detections))
        elif self.tables:
            from boxwright.cli.detections import show_table

            show_table(result)
        else:
            # `print`, so that a progress bar on the same terminal makes room for it.
            counts = Counter(result.detections.names())
            found = ", ".join(f"{count} {name}" for name, count in counts.most_common())
            print(f"{result.path}: {found or 'nothing'}")

    def finish(self, summary: RunSummary, folder: Path | None) -> None:
        if self.settings.json:
            document: dict[str, Any] = {
                "images": self.records,
                "summary": {
                    **dataclasses.asdict(summary),
                    "images_per_second": round(summary.images_per_second, 2),
                    "output": None if folder is None else str(folder),
                },
            }
            if summary.all_failed:
                document["error"] = {
                    "type": "ImageError",
                    "message": _NONE_READ,
                    "exit_code": 1,
                }
            print_json(document)
            return
        if summary.all_failed:
            click.echo(f"error: {_NONE_READ}", err=True)
            return
        parts = [_count(summary.done, "image"), _count(summary.detections, "object")]
        if summary.resumed:
            parts.append(f"{summary.resumed} done before")
        if summary.failed:
            parts.append(f"{summary.failed} could not be read")
        parts.append(f"{summary.images_per_second:.1f} images/s")
        where = f"; written to {folder}/" if folder else ""
        note(self.settings, f"\n{', '.join(parts)}{where}")


_NONE_READ = "none of the images could be read"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
