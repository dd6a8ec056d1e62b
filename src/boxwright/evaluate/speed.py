"""What a benchmark found, ready to be kept as JSON, drawn, and held against a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from boxwright.evaluate.machine import Noise
from boxwright.evaluate.timing import Interval, Summary, WarmUp

SPEED_SCHEMA = 1


@dataclass(frozen=True)
class Agreement:
    """Whether a contender finds what the subject finds, in the same images.

    Attributes:
        agrees: Every detection has a partner of its class within the tolerances.
        images: Images compared.
        subject: Detections of the subject.
        contender: Detections of the contender.
        matched: Pairs within reach of each other.
        box_error: Largest corner difference of a pair, relative to the image side.
        score_error: Largest score difference of a pair.
        reason: What differs, for people; empty where it agrees.
    """

    agrees: bool
    images: int
    subject: int
    contender: int
    matched: int
    box_error: float
    score_error: float
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **dataclasses.asdict(self),
            "box_error": _short(self.box_error),
            "score_error": _short(self.score_error),
        }


@dataclass(frozen=True)
class Participant:
    """Who took part.

    Attributes:
        name: Unlike the others' names.
        kind: ``engine``, ``model``, ``bare`` or ``opencv-dnn``.
        backend: The runtime.
        precision: As built.
        threads: As it was told; ``None`` where it cannot be told.
        agreement: With the subject; ``None`` for the subject itself.
    """

    name: str
    kind: str
    backend: str
    precision: str
    threads: int | None
    agreement: Agreement | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        agreement = None if self.agreement is None else self.agreement.to_dict()
        return {**dataclasses.asdict(self), "agreement": agreement}


@dataclass(frozen=True)
class Measurement:
    """One contender at one batch size. Durations are of a whole batch, in milliseconds.

    Attributes:
        contender: Its name.
        batch: Images at once.
        network: From pixels at input size to outputs on the host, nothing in between.
        end_to_end: From the bytes of the files to detections.
        stages: `boxwright.evaluate.stages.STAGES` within the end-to-end runs.
        network_rounds: Median of each round.
        end_to_end_rounds: Median of each round.
        network_samples: Every duration, in the order they were measured.
        warm_up: What it took to settle.
        joules_per_image: Energy of the network runs per device, whatever else the
            device did meanwhile included; empty where none can be read.
    """

    contender: str
    batch: int
    network: Summary
    end_to_end: Summary
    stages: Mapping[str, Summary]
    network_rounds: tuple[float, ...]
    end_to_end_rounds: tuple[float, ...]
    network_samples: tuple[float, ...] = field(repr=False)
    warm_up: WarmUp
    joules_per_image: Mapping[str, float] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        """Throughput of the network: one batch after the other, none overlapping."""
        return 1000 * self.batch / self.network.mean

    @property
    def end_to_end_images_per_second(self) -> float:
        """Throughput from file bytes to detections, one batch after the other."""
        return 1000 * self.batch / self.end_to_end.mean

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the single samples are left out."""
        return {
            "contender": self.contender,
            "batch": self.batch,
            "network_ms": self.network.to_dict(),
            "end_to_end_ms": self.end_to_end.to_dict(),
            "stages_ms": {name: summary.to_dict() for name, summary in self.stages.items()},
            "images_per_second": round(self.images_per_second, 3),
            "end_to_end_images_per_second": round(self.end_to_end_images_per_second, 3),
            "network_rounds_ms": [round(value, 4) for value in self.network_rounds],
            "end_to_end_rounds_ms": [round(value, 4) for value in self.end_to_end_rounds],
            "warm_up": dataclasses.asdict(self.warm_up),
            "joules_per_image": {
                name: round(joules, 4) for name, joules in self.joules_per_image.items()
            },
        }


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as a peer the subject is; above 1 the subject is faster.

    Attributes:
        peer: The peer's name.
        batch: Images at once.
        network: Of the peer's round median over the subject's, round by round.
        end_to_end: The same from file bytes to detections.
    """

    peer: str
    batch: int
    network: Interval
    end_to_end: Interval

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "peer": self.peer,
            "batch": self.batch,
            "network": self.network.to_dict(),
            "end_to_end": self.end_to_end.to_dict(),
        }


@dataclass(frozen=True)
class BenchmarkResult:
    """A whole benchmark.

    Attributes:
        created: When, in UTC.
        participants: The subject first.
        measurements: Batch by batch, the subject first in each.
        ratios: The subject against each peer, batch by batch.
        images: Where the pixels came from; JSON values.
        settings: Rounds, seconds, threads and so on; JSON values.
        environment: The machine; JSON values.
        noise: How quiet the machine was.
        notes: What a reader has to know beside the numbers.
    """

    created: str
    participants: tuple[Participant, ...]
    measurements: tuple[Measurement, ...]
    ratios: tuple[Ratio, ...]
    images: Mapping[str, Any]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    noise: Noise
    notes: tuple[str, ...] = ()

    @property
    def subject(self) -> Participant:
        """What the benchmark was about."""
        return self.participants[0]

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes measured, in order."""
        return tuple(dict.fromkeys(item.batch for item in self.measurements))

    def of(self, contender: str, batch: int) -> Measurement | None:
        """One contender at one batch size, where it was measured."""
        return next(
            (m for m in self.measurements if m.contender == contender and m.batch == batch), None
        )

    @property
    def best_images_per_second(self) -> float:
        """The subject's largest end-to-end throughput of any batch size."""
        return max(m.end_to_end_images_per_second for m in self._own())

    @property
    def latency_p90_ms(self) -> float:
        """The subject's 90th percentile end to end, at the smallest batch size measured."""
        return min(self._own(), key=lambda m: m.batch).end_to_end.p90

    def missed(
        self, *, min_fps: float | None = None, max_latency_ms: float | None = None
    ) -> list[str]:
        """Which of the budgets were missed, in words; none where all are met.

        Args:
            min_fps: At most :attr:`best_images_per_second`.
            max_latency_ms: At least :attr:`latency_p90_ms`.
        """
        found = []
        if min_fps is not None and self.best_images_per_second < min_fps:
            found.append(
                f"{self.best_images_per_second:.1f} images/s end to end, "
                f"at least {min_fps:g} wanted"
            )
        if max_latency_ms is not None and self.latency_p90_ms > max_latency_ms:
            found.append(
                f"{self.latency_p90_ms:.2f} ms latency end to end (p90), "
                f"at most {max_latency_ms:g} wanted"
            )
        return found

    def _own(self) -> list[Measurement]:
        return [m for m in self.measurements if m.contender == self.subject.name]

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "schema": SPEED_SCHEMA,
            "created": self.created,
            "subject": self.subject.name,
            "participants": [item.to_dict() for item in self.participants],
            "measurements": [item.to_dict() for item in self.measurements],
            "ratios": [item.to_dict() for item in self.ratios],
            "images": dict(self.images),
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "noise": self.noise.to_dict(),
            "notes": list(self.notes),
        }


def speed_for_receipt(result: BenchmarkResult) -> dict[str, Any]:
    """The part of a benchmark that an engine's receipt keeps, under ``speed``.

    It says what was measured, on what machine and how quiet that was, without peers'
    details, single rounds, or what the receipt holds already.
    """
    subject = result.subject
    environment = result.environment
    facts = ("cpu", "usable_cores", "physical_cores", "cpu_quota_cores", "libraries")
    return {
        "schema": SPEED_SCHEMA,
        "created": result.created,
        "backend": subject.backend,
        "precision": subject.precision,
        "threads": subject.threads,
        "images": dict(result.images),
        "batches": [
            {
                "batch": item.batch,
                "network_ms": item.network.to_dict(),
                "end_to_end_ms": item.end_to_end.to_dict(),
                "stages_ms": {name: round(s.p50, 4) for name, s in item.stages.items()},
                "images_per_second": round(item.images_per_second, 3),
                "end_to_end_images_per_second": round(item.end_to_end_images_per_second, 3),
                "joules_per_image": {k: round(v, 4) for k, v in item.joules_per_image.items()},
            }
            for item in result.measurements
            if item.contender == subject.name
        ],
        "ratios": [item.to_dict() for item in result.ratios],
        "machine": {
            **{name: environment[name] for name in facts if environment.get(name) is not None},
            **{name: environment[name] for name in ("before", "after") if name in environment},
        },
        "noise": result.noise.to_dict(),
    }


def _short(value: float) -> float:
    return float(f"{value:.3g}")
