"""``boxwright ship``: from trained weights to a proven engine in one go."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwright.cli.common import Number, Settings, Verb, note, print_json
from boxwright.cli.options import import_options, speed_budgets
from boxwright.cli.progress import progress

if TYPE_CHECKING:
    from boxwright.evaluate.report.evidence import Check
    from boxwright.ship.settings import ShipSettings
    from boxwright.ship.summary import ShipResult

_FILE = click.Path(path_type=Path)
_EXIT_BUDGET = 3
# As import_options calls them.
_IMPORT_OPTIONS = (
    *("cfg", "names", "data", "size", "resize", "interpolation", "licence"),
    *("head", "options"),
)


@click.command(
    "ship",
    cls=Verb,
    examples="""
    boxwright ship yolov4-tiny.weights --images photos/ -o shipped/
    boxwright ship tiny.weights coco.names --images val/ --annotations val.json -o shipped/
    boxwright ship mine.onnx --head yolox --option channels=rgb --images photos/ -o shipped/
    boxwright ship tiny.weights --images val/ --annotations val.json --calibration t/ -o shipped/
    boxwright ship tiny.weights --images photos/ --max-latency 40 --min-fps 25 -o shipped/
    """,
)
@click.argument("weights", type=_FILE, nargs=-1, required=True)
@click.option(
    "--images",
    multiple=True,
    required=True,
    help="Folder of images to prove it on; without labels also an image or a pattern; repeatable.",
)
@click.option(
    "--annotations",
    type=_FILE,
    help="Labels of the images: COCO json, YOLO or VOC.  [default: no AP is measured]",
)
@click.option(
    "--target",
    type=click.Choice(["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]),
    default="auto",
    show_default=True,
    help="Runtime to build for; auto takes the best this version has.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "fp16", "int8"]),
    default="auto",
    show_default=True,
    help="Precision; auto takes the fastest here that keeps to --max-drop.",
)
@click.option(
    "--calibration",
    multiple=True,
    help="Folder, image or pattern to calibrate INT8 on, others than --images; repeatable. "
    " [default: INT8 does not take part]",
)
@click.option(
    "--max-drop",
    type=Number(0, 100),
    help="Budget: points of AP (0 to 100) that may be lost, source to engine.",
)
@speed_budgets
@import_options
@click.option(
    "--against",
    multiple=True,
    metavar="PEER",
    help="Measure speed beside this too, as `boxwright bench` does; repeatable.",
)
@click.option(
    "--second-opinion",
    is_flag=True,
    help="Compare with OpenCV's own reading of the Darknet files, too.",
)
@click.option("--restart", is_flag=True, help="Do everything again.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the engine, the report and the evidence.",
)
@click.pass_obj
def command(settings: Settings, /, restart: bool, **options: Any) -> None:
    """Go from weights to a proven engine in one go.

    Imports, builds, verifies, measures accuracy (with labels) and speed, and writes a
    report. WEIGHTS is the trained file; files that describe it (.cfg, .names, .data) may
    stand beside it. A run that was stopped goes on where it was when the same command is
    given again; another option redoes only what depends on it.

    Exit code 3 when a stated budget is missed or a check fails.
    """
    from boxwright.ship.pipeline import ship

    started = time.perf_counter()
    wanted = make_settings(settings, options)

    def on_stage(name: str, why: str) -> None:
        note(settings, f"{name}: again, because {why}" if why else name)

    with progress(settings) as report:
        result = ship(wanted, restart=restart, progress=report, on_stage=on_stage)
    finish(settings, result, time.perf_counter() - started)


def make_settings(settings: Settings, options: dict[str, Any]) -> ShipSettings:
    """The verb's options as the library takes them."""
    from boxwright.ship.settings import Budgets, ShipSettings

    return ShipSettings(
        weights=options["weights"],
        images=options["images"],
        output=options["output"],
        annotations=options["annotations"],
        target=options["target"],
        precision=options["precision"],
        calibration=options["calibration"],
        budgets=Budgets(options["max_drop"], options["min_fps"], options["max_latency"]),
        import_options={
            "format": options["format_"],
            **{name: options[name] for name in _IMPORT_OPTIONS},
        },
        against=options["against"],
        opencv=options["second_opinion"],
        device=settings.device,
        seed=settings.seed,
    )


def finish(settings: Settings, result: ShipResult, seconds: float) -> None:
    """Show the result, and leave with exit code 3 where something was missed."""
    if settings.json:
        print_json({**result.to_dict(), "seconds": round(seconds, 2)})
    else:
        render(result, seconds)
    if not result.ok:
        if not settings.json:
            failed = [c.name for c in (*result.budgets, *result.checks) if c.ok is False]
            note(settings, f"not met: {', '.join(failed)}: exit code 3")
        raise click.exceptions.Exit(_EXIT_BUDGET)


def render(result: ShipResult, seconds: float) -> None:
    """The summary as tables on stdout."""
    from boxwright.cli.tables import facts, heading, table
    from boxwright.files import human_size

    summary = result.summary
    done = [stage for stage in result.stages if not stage.skipped]
    was = len(result.stages) - len(done)
    heading("Proven" if result.ok else "NOT proven")
    table(
        ("", "source", "engine"),
        [
            _accuracy(summary),
            ("size", human_size(summary["source_bytes"]), human_size(summary["engine_bytes"])),
            ("latency p50, file to boxes", "", _unit(summary["latency_p50_ms"], "ms")),
            ("latency p90, file to boxes", "", _unit(summary["latency_p90_ms"], "ms")),
            ("latency p50, network", "", _unit(summary["network_p50_ms"], "ms")),
            ("throughput, file to boxes", "", _unit(summary["images_per_second"], "images/s")),
        ],
        right=("source", "engine"),
    )
    _precisions(summary)
    click.echo()
    checks: list[Check] = [*result.budgets, *result.checks]
    table(
        ("check", "verdict", "measured"),
        [(check.name, _VERDICTS[check.ok], check.detail) for check in checks],
    )
    for remark in result.remarks:
        click.echo(f"note: {remark}")
    heading(f"Done in {seconds:.1f} s" + (f"; {was} stages were done before" if was else ""))
    facts([*result.files.items()])


def _precisions(summary: Mapping[str, Any]) -> None:
    """Which precisions were tried, and why one was chosen."""
    from boxwright.cli.tables import table

    if not summary["precision"]:
        return
    click.echo()
    if summary["precisions_tried"]:
        table(
            ("precision", "network, ms", "points lost", ""),
            [
                (
                    row["precision"],
                    "not measured" if row["median_ms"] is None else f"{row['median_ms']:.2f}",
                    "not measured" if row["drop"] is None else f"{row['drop']:+.2f}",
                    "chosen" if row["precision"] == summary["precision"] else "",
                )
                for row in summary["precisions_tried"]
            ],
            right=("network, ms", "points lost"),
        )
    click.echo(f"built in {summary['precision']}: {summary['precision_reason']}")


_VERDICTS = {True: "ok", False: "FAILED", None: "not measured"}


def _accuracy(summary: Mapping[str, Any]) -> tuple[str, str, str]:
    """AP, or, without labels, how many detections of the source the engine has."""
    if summary["ap_engine"] is not None or summary["detections_matched"] is None:
        return "AP", _percent(summary["ap_source"]), _percent(summary["ap_engine"])
    matched, expected = summary["detections_matched"]
    return "detections that agree (no labels)", f"{expected}", f"{matched}"


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.2f} %"


def _unit(value: float | None, unit: str) -> str:
    return "not measured" if value is None else f"{value:.1f} {unit}"
