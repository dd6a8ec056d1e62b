"""``boxwright bench``: how fast a detector is, beside its peers, and where the time goes."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwright.cli.common import Number, Settings, Verb, note, print_json
from boxwright.cli.options import speed_budgets
from boxwright.cli.progress import progress

if TYPE_CHECKING:
    from boxwright.evaluate.speed import BenchmarkResult, Participant

_PATH = click.Path(path_type=Path)


class Batches(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``1`` or ``1,2,4,8``."""

    name = "N,N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read positive integers; repetitions do not matter."""
        words = value if isinstance(value, (list, tuple)) else str(value).split(",")
        texts = [str(word).strip() for word in words]
        if not texts or not all(re.fullmatch(r"[1-9]\d{0,3}", text) for text in texts):
            self.fail(f"expected batch sizes such as 1,2,4,8, got {value!r}")
        return tuple(dict.fromkeys(map(int, texts)))


@click.command(
    "bench",
    cls=Verb,
    examples="""
    boxwright bench tiny.bw --images photos/
    boxwright bench tiny.bw --against bare --against opencv-dnn --batch 1,8
    boxwright bench int8.bw --against fp32.bw --images photos/ --charts charts/
    boxwright bench tiny.bw --batch 1 --max-latency 40 --json
    """,
)
@click.argument("subject", type=_PATH, metavar="ENGINE")
@click.option(
    "--against",
    multiple=True,
    metavar="PEER",
    help="Engine, model, backend, Darknet weights (OpenCV runs them), 'opencv-dnn', or 'bare' "
    "for ONNX Runtime without us; repeatable.",
)
@click.option("--images", multiple=True, help="Image, folder or pattern; repeatable.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Use at most this many images, drawn at random.",
)
@click.option(
    "--batch", type=Batches(), help="Batch sizes.  [default: 1,2,4,8, or the engine's own]"
)
@click.option(
    "--rounds",
    type=click.IntRange(2),
    default=10,
    show_default=True,
    help="Turns each contender gets, in changing order.",
)
@click.option(
    "--seconds",
    type=Number(0, 3600),
    default=2.0,
    show_default=True,
    help="Least measuring time per contender and batch size.",
)
@click.option(
    "--warmup",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Most warm-up runs; fewer once durations are stable.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Threads for every contender.  [default: one per physical core]",
)
@click.option("--backend", help="Backend that runs ENGINE.  [default: the engine's own]")
@click.option("--cfg", type=_PATH, help="Network description, where a peer is weights.")
@click.option(
    "--charts",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write charts (SVG) into.",
)
@speed_budgets
@click.pass_obj
def command(
    settings: Settings,
    /,
    subject: Path,
    images: tuple[str, ...],
    limit: int,
    charts: Path | None,
    min_fps: float | None,
    max_latency: float | None,
    **options: Any,
) -> None:
    """Measure how fast a detector is, and where its time goes.

    ENGINE is an engine, or a model as it is. Peers take turns with it on the same
    images, and their answers are compared with its own. Times are of one batch after
    the other, none overlapping; end to end is from the bytes of a file to boxes. Without
    --images, made-up ones are used.

    Budgets: --min-fps is held against the best batch size, --max-latency against the
    smallest. Exit code 3 when one is missed.
    """
    from boxwright.evaluate.benchmark import Plan, benchmark

    if charts is not None:
        from boxwright.evaluate.charts import check_available

        check_available()  # before minutes of measuring, not after
    plan = Plan(
        options["batch"], options["rounds"], options["seconds"], options["warmup"], settings.seed
    )
    with progress(settings) as report:
        result = benchmark(
            subject,
            options["against"],
            images=_images(images, limit, settings.seed),
            plan=plan,
            backend=options["backend"],
            device=settings.device,
            threads=options["threads"],
            cfg=options["cfg"],
            progress=report,
        )
    written = _write_charts(result, charts)
    missed = result.missed(min_fps=min_fps, max_latency_ms=max_latency)
    if settings.json:
        budget = {"min_fps": min_fps, "max_latency_ms": max_latency, "missed": missed}
        print_json({**result.to_dict(), "budget": budget, "charts": [str(p) for p in written]})
    else:
        render(result)
        for path in written:
            note(settings, f"written: {path}")
        for miss in missed:
            note(settings, f"budget missed: {miss}")
    if missed:
        if not settings.json:
            note(settings, "exit code 3")
        raise click.exceptions.Exit(3)


def _images(inputs: tuple[str, ...], limit: int, seed: int) -> list[Path]:
    if not inputs:
        return []
    from boxwright.images import find_images

    paths = find_images(inputs)
    if len(paths) > limit:
        paths = sorted(random.Random(seed).sample(paths, limit))  # noqa: S311 - not a secret
    return paths


def _write_charts(result: BenchmarkResult, folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    from boxwright.evaluate.charts import charts_of
    from boxwright.files import write_text

    written = []
    for name, svg in charts_of(result).items():
        write_text(folder / f"{name}.svg", svg)
        written.append(folder / f"{name}.svg")
    return written


def render(result: BenchmarkResult) -> None:
    """The result as tables on stdout."""
    from boxwright.cli.tables import facts, heading

    facts(_facts(result))
    _latency_table(result)
    _stage_table(result)
    if result.ratios:
        _ratio_table(result)
    heading("How quiet was the machine?")
    if result.noise.noisy:
        for reason in result.noise.reasons:
            click.echo(f"  {reason}")
        click.echo("  so differences of a few per cent mean nothing; ratios bear it best")
    else:
        click.echo("  quiet: nothing seen that would spoil the numbers")
    for remark in result.notes:
        click.echo(f"note: {remark}")


def _facts(result: BenchmarkResult) -> list[tuple[str, object]]:
    machine, settings, images = result.environment, result.settings, result.images
    rows: list[tuple[str, object]] = [
        ("machine", f"{machine['cpu']}, {machine['usable_cores']} of {machine['cores']} cores"),
        *(
            ("gpu", f"{device.get('name')}, driver {device.get('driver')}")
            for device in machine["after"].get("gpus", ())
        ),
        ("images", f"{images['count']}, {images['source']}"),
        ("rounds", f"{settings['rounds']}, {settings['seconds']:g} s each contender and batch"),
    ]
    return rows + [(_label(item), _who(item)) for item in result.participants]


def _label(item: Participant) -> str:
    return "subject" if item.agreement is None else "peer"


def _who(item: Participant) -> str:
    threads = "its own threads" if item.threads is None else f"{item.threads} threads"
    text = f"{item.name}: {item.backend}, {item.precision}, {threads}"
    if item.agreement is None:
        return text
    return f"{text}; {'same answer' if item.agreement.agrees else 'ANOTHER ANSWER'}"


def _latency_table(result: BenchmarkResult) -> None:
    from boxwright.cli.tables import heading, table

    heading("Network alone and end to end, ms a batch")
    columns = ("batch", "contender", "images/s", "min", "p50", "p90", "p99", "± %")
    whole = ("e2e images/s", "e2e p50", "e2e p90")
    energy = sorted({name for item in result.measurements for name in item.joules_per_image})
    table(
        (*columns, *whole, *(f"J/image {name}" for name in energy)),
        [
            (
                item.batch,
                item.contender,
                f"{item.images_per_second:.1f}",
                *(f"{getattr(item.network, name):.2f}" for name in ("min", "p50", "p90", "p99")),
                f"{100 * item.network.stdev / item.network.mean:.0f}",
                f"{item.end_to_end_images_per_second:.1f}",
                f"{item.end_to_end.p50:.2f}",
                f"{item.end_to_end.p90:.2f}",
                *(
                    f"{item.joules_per_image[name]:.3f}" if name in item.joules_per_image else ""
                    for name in energy
                ),
            )
            for item in result.measurements
        ],
        right=(*columns[:1], *columns[2:], *whole, *(f"J/image {name}" for name in energy)),
    )


def _stage_table(result: BenchmarkResult) -> None:
    from boxwright.cli.tables import heading, table
    from boxwright.evaluate.stages import STAGES

    heading("Where the time goes, median ms an image")
    table(
        ("batch", "contender", *STAGES),
        [
            (
                item.batch,
                item.contender,
                *(f"{item.stages[name].p50 / item.batch:.2f}" for name in STAGES),
            )
            for item in result.measurements
        ],
        right=("batch", *STAGES),
    )


def _ratio_table(result: BenchmarkResult) -> None:
    from boxwright.cli.tables import heading, table

    heading(f"How many times as fast {result.subject.name} is, with 95 % intervals")
    table(
        ("batch", "than", "network", "", "end to end", " "),
        [
            (
                item.batch,
                item.peer,
                f"{item.network.median:.2f}",
                f"{item.network.low:.2f} to {item.network.high:.2f}",
                f"{item.end_to_end.median:.2f}",
                f"{item.end_to_end.low:.2f} to {item.end_to_end.high:.2f}",
            )
            for item in result.ratios
        ],
        right=("batch", "network", "end to end"),
    )
