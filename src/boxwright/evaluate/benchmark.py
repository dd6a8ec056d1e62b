"""How fast a detector is, beside its peers, and where its time goes.

All contenders take turns, round by round, so that whatever the machine does to one it
does to all. In a round everyone gets the same images; a ratio is therefore taken of two
neighbours in time on the same work, and the spread of these ratios says how sure it is.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.errors import InputError
from boxwright.evaluate import machine
from boxwright.evaluate.agreement import agreement_of
from boxwright.evaluate.contenders import Contender, Opened, open_contenders, open_file
from boxwright.evaluate.speed import (
    Agreement,
    BenchmarkResult,
    Measurement,
    Participant,
    Ratio,
    speed_for_receipt,
)
from boxwright.evaluate.stages import STAGES, Pipeline, read_files, synthetic_jpeg
from boxwright.evaluate.timing import (
    Clock,
    Summary,
    WarmUp,
    collector_off,
    interleave,
    measure,
    median_interval,
    monotonic_ns,
    variation,
    warm_up,
)
from boxwright.images import import_cv2
from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from boxwright.detections import Detections

__all__ = ["BenchmarkResult", "Plan", "benchmark", "run_contenders", "speed_for_receipt"]

DEFAULT_BATCHES = (1, 2, 4, 8)

_SYNTHETIC_IMAGES = 4
_MAX_BATCH = 1024
_GPU_BACKENDS = ("tensorrt", "rtx")
# Images whose detections are compared, of those that are measured.
_COMPARED = 8


@dataclass(frozen=True)
class Plan:
    """How a benchmark is done.

    Attributes:
        batches: Batch sizes; ``None`` for 1, 2, 4 and 8, or an engine's fixed batch.
        rounds: Turns that every contender gets at each batch size.
        seconds: Least measuring time per contender and batch size, half of it for the
            network alone and half for whole runs.
        warmup: Most warm-up runs; they end earlier once durations are stable.
        seed: Of the order of turns and of the bootstrap.
    """

    batches: tuple[int, ...] | None = None
    rounds: int = 10
    seconds: float = 2.0
    warmup: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = self.batches if self.batches is not None else (1,)
        if not sizes or not all(type(n) is int and 1 <= n <= _MAX_BATCH for n in sizes):
            raise InputError(
                f"batch sizes must be whole numbers from 1 to {_MAX_BATCH}, got {self.batches!r}"
            )
        for name, least in (("rounds", 2), ("warmup", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise InputError(f"{name} must be a whole number of {least} or more, got {value!r}")
        if not 0 <= self.seconds <= 3600:
            raise InputError(f"seconds must be from 0 to 3600, got {self.seconds!r}")


@dataclass
class _Taken:
    """What was measured of one contender at one batch size, so far."""

    warm_up: WarmUp
    network: list[list[float]] = field(default_factory=list)
    end_to_end: list[list[float]] = field(default_factory=list)
    stages: list[tuple[int, ...]] = field(default_factory=list)
    joules: dict[str, float] = field(default_factory=dict)

    def add_energy(self, before: dict[str, float], after: dict[str, float]) -> None:
        for name in before.keys() & after.keys():
            self.joules[name] = self.joules.get(name, 0.0) + after[name] - before[name]

    def finish(self, contender: str, batch: int) -> Measurement:
        samples = [value for values in self.network for value in values]
        whole = [value for values in self.end_to_end for value in values]
        images = batch * len(samples)
        columns = zip(STAGES, zip(*self.stages, strict=True), strict=True)
        return Measurement(
            contender,
            batch,
            Summary.of(samples),
            Summary.of(whole),
            {name: Summary.of([value / 1e6 for value in values]) for name, values in columns},
            tuple(float(np.median(values)) for values in self.network),
            tuple(float(np.median(values)) for values in self.end_to_end),
            tuple(samples),
            self.warm_up,
            {name: joules / images for name, joules in sorted(self.joules.items())},
        )


def benchmark(
    subject: Opened | str | Path,
    against: Sequence[str | Path] = (),
    *,
    images: Sequence[Path] = (),
    plan: Plan | None = None,
    backend: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    cfg: str | Path | None = None,
    progress: ProgressCallback = silent,
) -> BenchmarkResult:
    """Measure an engine or model, beside its peers.

    Args:
        subject: An engine or model, or the file of one.
        against: Peers: files (``.bw``, ``.onnx``, Darknet ``.weights``, which OpenCV runs),
            names of backends, ``bare`` (ONNX Runtime without us on the same plan),
            ``opencv-dnn`` (on the Darknet files the subject came from).
        images: Image files to use; by default made-up ones.
        plan: Batch sizes, rounds and so on.
        backend: For the subject; by default the engine's own.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        threads: For everyone who can be told; by default one per physical core.
        cfg: Description of Darknet weights; by default beside them.
        progress: Told about each round.

    Raises:
        InputError: An argument is wrong; see also `boxwright.backends.load`.
        ImageError: An image cannot be read.
        BackendUnavailableError: A contender cannot run on this machine.
    """
    chosen = plan or Plan()
    count = machine.default_threads() if threads is None else threads
    if type(count) is not int or not 1 <= count <= _MAX_BATCH:
        raise InputError(f"threads must be a whole number from 1 to {_MAX_BATCH}, got {count!r}")
    files, described = _images(images, chosen.seed)
    origin = subject if isinstance(subject, (str, Path)) else getattr(subject, "path", None)
    opened = open_file(subject) if isinstance(subject, (str, Path)) else subject
    with (
        _opencv_threads(count),
        open_contenders(
            opened,
            against,
            origin=origin,
            backend=backend,
            device=device,
            threads=count,
            cfg=cfg,
        ) as contenders,
    ):
        gpus = _gpus(device, contenders)
        result = run_contenders(contenders, files, plan=chosen, gpus=gpus, progress=progress)
    return _told(result, described, threads=count, device=device)


def run_contenders(
    contenders: Sequence[Contender],
    files: Sequence[bytes],
    *,
    plan: Plan | None = None,
    gpus: tuple[int, ...] = (),
    clock: Clock = monotonic_ns,
    progress: ProgressCallback = silent,
) -> BenchmarkResult:
    """Measure contenders that are loaded already, the subject first.

    Args:
        contenders: One or more, each with a name of its own.
        files: Contents of image files; round by round the next ones are used.
        plan: Batch sizes, rounds and so on.
        gpus: Numbers of the GPUs that take part, whose energy is counted.
        clock: Tells the time.
        progress: Told about each round.

    Raises:
        InputError: A batch size cannot be run by someone.
    """
    chosen = plan or Plan()
    batches = _batches(contenders, chosen.batches)
    pipelines = [Pipeline(contender, clock) for contender in contenders]
    found = [_detections(pipeline, files, batches[0]) for pipeline in pipelines]
    score = contenders[0].card.score_threshold
    participants = tuple(
        _participant(contender, None if index == 0 else agreement_of(found[0], found[index], score))
        for index, contender in enumerate(contenders)
    )
    before = machine.snapshot()
    measurements: list[Measurement] = []
    with machine.EnergyMeter(gpus) as meter, collector_off():
        for position, batch in enumerate(batches):
            done = _Progress(progress, position * chosen.rounds, len(batches) * chosen.rounds)
            turn = _Batch(contenders, pipelines, files, batch, chosen, clock, meter)
            measurements += turn.run(done)
    after = machine.snapshot()
    environment = machine.describe_machine()
    noise = machine.judge(before, after, _spread(measurements), environment["cores"] or 1)
    return BenchmarkResult(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        participants=participants,
        measurements=tuple(measurements),
        ratios=tuple(_ratios(contenders, measurements, chosen.seed)),
        images={"count": len(files)},
        settings={
            "rounds": chosen.rounds,
            "seconds": chosen.seconds,
            "warmup": chosen.warmup,
            "seed": chosen.seed,
        },
        environment={**environment, "before": before.to_dict(), "after": after.to_dict()},
        noise=noise,
        notes=tuple(_notes(participants)),
    )


@dataclass(frozen=True)
class _Batch:
    """All contenders at one batch size."""

    contenders: Sequence[Contender]
    pipelines: Sequence[Pipeline]
    files: Sequence[bytes]
    batch: int
    plan: Plan
    clock: Clock
    meter: machine.EnergyMeter

    def run(self, progress: _Progress) -> list[Measurement]:
        taken = [_Taken(self._warm_up(index)) for index in range(len(self.contenders))]
        orders = interleave(len(self.contenders), self.plan.rounds, self.plan.seed)
        for number, order in enumerate(orders):
            chunk = chunk_of(self.files, number, self.batch)
            for index in order:
                self._turn(index, chunk, taken[index])
            progress(number + 1)
        return [
            result.finish(contender.name, self.batch)
            for contender, result in zip(self.contenders, taken, strict=True)
        ]

    def _warm_up(self, index: int) -> WarmUp:
        chunk = chunk_of(self.files, 0, self.batch)
        pipeline = self.pipelines[index]
        return warm_up(lambda: pipeline.run(chunk), most=self.plan.warmup, clock=self.clock)

    def _turn(self, index: int, chunk: list[bytes], taken: _Taken) -> None:
        contender, pipeline = self.contenders[index], self.pipelines[index]
        # Half for the network alone, half for whole runs.
        seconds = self.plan.seconds / self.plan.rounds / 2
        pixels = pipeline.pixels(chunk)

        def network() -> None:
            contender.network(pixels)

        def whole() -> int:
            _, durations = pipeline.run(chunk)
            taken.stages.append(durations)
            return sum(durations)

        # Once unmeasured: the neighbour has filled the caches with its own weights.
        network()
        energy = self.meter.read()
        taken.network.append(measure(network, seconds=seconds, clock=self.clock))
        taken.add_energy(energy, self.meter.read())
        taken.end_to_end.append(measure(whole, seconds=seconds, clock=self.clock))


@dataclass(frozen=True)
class _Progress:
    callback: ProgressCallback
    before: int
    total: int

    def __call__(self, rounds: int) -> None:
        self.callback("measuring", self.before + rounds, self.total)


def chunk_of(files: Sequence[bytes], number: int, batch: int) -> list[bytes]:
    """The files of round `number`: the next `batch` ones, from the start again at the end."""
    start = number * batch
    return [files[(start + index) % len(files)] for index in range(batch)]


def _batches(contenders: Sequence[Contender], wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    fixed = {c.fixed_batch: c.name for c in contenders if c.fixed_batch is not None}
    if not fixed:
        return tuple(dict.fromkeys(DEFAULT_BATCHES if wanted is None else wanted))
    sizes = sorted(fixed)
    if len(sizes) > 1:
        told = ", ".join(f"{name} {size}" for size, name in sorted(fixed.items()))
        raise InputError(f"the contenders take no common batch size: {told}")
    if wanted is not None and set(wanted) != set(sizes):
        raise InputError(
            f"{fixed[sizes[0]]} was built for batches of {sizes[0]} only, got {list(wanted)}"
        )
    return (sizes[0],)


def _detections(pipeline: Pipeline, files: Sequence[bytes], batch: int) -> list[Detections]:
    """Of the first images, for comparison; run in batches of a size that fits."""
    found: list[Detections] = []
    count = min(len(files), _COMPARED)
    for number in range(-(-count // batch)):
        found += pipeline.run(chunk_of(files, number, batch))[0]
    return found[:count]


def _told(result: BenchmarkResult, images: dict[str, Any], **settings: Any) -> BenchmarkResult:
    """The result with what only the caller knew."""
    notes = result.notes
    if images["source"] == "synthetic":
        notes += (
            "no images were given: made-up ones were used, in which there is hardly anything "
            "to find; give photos of your own to measure postprocessing",
        )
    merged = {**result.settings, **settings}
    return replace(result, images=images, settings=merged, notes=notes)


def _gpus(device: str, contenders: Sequence[Contender]) -> tuple[int, ...]:
    """Which GPUs work: the one named, or the first where a backend needs one."""
    kind, _, number = device.partition(":")
    on_gpu = any(item.backend.startswith(_GPU_BACKENDS) for item in contenders)
    if kind == "cuda" or on_gpu:
        return (int(number) if number.isdecimal() else 0,)
    return ()


def _spread(measurements: Sequence[Measurement]) -> dict[str, float]:
    return {
        f"{item.contender}, batch {item.batch},": variation(item.network_rounds)
        for item in measurements
    }


def _participant(contender: Contender, agreement: Agreement | None) -> Participant:
    return Participant(
        contender.name,
        contender.kind,
        contender.backend,
        contender.precision,
        contender.threads,
        agreement,
    )


def _ratios(
    contenders: Sequence[Contender], measurements: Sequence[Measurement], seed: int
) -> Iterator[Ratio]:
    by_key = {(item.contender, item.batch): item for item in measurements}
    subject = contenders[0].name
    for (name, batch), peer in by_key.items():
        if name == subject:
            continue
        own = by_key[subject, batch]
        network = np.divide(peer.network_rounds, own.network_rounds).tolist()
        whole = np.divide(peer.end_to_end_rounds, own.end_to_end_rounds).tolist()
        yield Ratio(name, batch, median_interval(network, seed), median_interval(whole, seed))


def _notes(participants: Sequence[Participant]) -> Iterator[str]:
    for item in participants:
        if item.agreement is not None and not item.agreement.agrees:
            yield (
                f"{item.name} gives another answer than {participants[0].name} "
                f"({item.agreement.reason}): a ratio of speeds compares unlike work"
            )
        if item.threads is None:
            yield f"{item.name} cannot be told how many threads to use; it chose by itself"


def _images(paths: Sequence[Path], seed: int) -> tuple[list[bytes], dict[str, Any]]:
    """File contents, and what the result says of them."""
    if paths:
        files, source = read_files(paths), "files"
    else:
        files = [synthetic_jpeg(seed + index) for index in range(_SYNTHETIC_IMAGES)]
        source = "synthetic"
    kilobytes = sum(map(len, files)) / len(files) / 1000
    return files, {"source": source, "count": len(files), "mean_kilobytes": round(kilobytes, 1)}


@contextlib.contextmanager
def _opencv_threads(count: int) -> Iterator[None]:
    """OpenCV's threads, which resizing uses too, are one number for the whole process."""
    cv2 = import_cv2()
    before = cv2.getNumThreads()
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
