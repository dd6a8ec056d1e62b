"""The evidence for one engine: faithful to its reference, and consistent with itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright import backends
from boxwright.evaluate.consistency import ConsistencyCheck, check_consistency, noise_images
from boxwright.evaluate.parity import compare
from boxwright.evaluate.tolerances import Tolerances
from boxwright.model import Model
from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from boxwright.engine import Engine
    from boxwright.evaluate.parity_report import ParityReport
    from boxwright.evaluate.subject import Comparable

Pixels = NDArray[np.uint8]

# Enough for a batch whose rows can be permuted, and few enough for any memory.
_CONSISTENCY_IMAGES = 4


@dataclass(frozen=True)
class Proof:
    """What was found.

    Attributes:
        parity: Against the reference.
        consistency: The engine against itself.
    """

    parity: ParityReport
    consistency: tuple[ConsistencyCheck, ...]

    @property
    def ok(self) -> bool:
        """Every check passed."""
        return self.parity.ok and all(check.ok for check in self.consistency)

    def sections(self) -> dict[str, Any]:
        """For the receipt (`boxwright.receipt.add_evidence`); JSON values only."""
        return {
            "verified": [self.parity.to_dict()],
            "consistency": [check.to_dict() for check in self.consistency],
        }


def prove(
    subject: Engine | Model,
    reference: Comparable,
    pixels: Pixels | None,
    *,
    tolerances: Tolerances | None = None,
    backend: str | None = None,
    reference_backend: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> Proof:
    """Compare an engine or a model with a reference, and with itself.

    Args:
        subject: What is to be proven.
        reference: See :func:`boxwright.evaluate.parity.compare`.
        pixels: uint8 ``(N, H, W, 3)`` at network size; ``None`` for those of a dump.
        tolerances: How much difference to accept; by default what the subject's precision
            explains.
        backend: Backend the subject runs on.
        reference_backend: Backend the reference runs on, where it is a model.
        device: Device the subject runs on.
        seed: Of the noise that fills up a batch when there are few images.
        progress: Told about each image.

    Raises:
        InputError: The pixels do not fit, or a file cannot be read.
    """
    if tolerances is None:
        tolerances = Tolerances.of_precision(precision_of(subject, backend, device))
    report = compare(
        subject,
        reference,
        pixels,
        tolerances,
        backend=backend,
        reference_backend=reference_backend,
        card=subject.card,
        progress=progress,
    )
    checks = consistency_of(subject, pixels, backend=backend, device=device, seed=seed)
    return Proof(report, tuple(checks))


def consistency_of(
    subject: Engine | Model,
    pixels: Pixels | None,
    *,
    backend: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> list[ConsistencyCheck]:
    """Self-consistency on the first different images of `pixels`, filled up with noise."""
    height, width = subject.card.input_size
    given = [] if pixels is None else list({image.tobytes(): image for image in pixels}.values())
    missing = max(_CONSISTENCY_IMAGES - len(given), 0)
    filling = noise_images(missing, height, width, seed=seed)
    batch = np.stack([*given[:_CONSISTENCY_IMAGES], *filling])
    with backends.load(subject, backend=backend, device=device) as runner:
        return check_consistency(runner, batch, precision_of(subject, backend, device))


def precision_of(subject: Engine | Model, backend: str | None = None, device: str = "auto") -> str:
    """What the engine's build that runs here computes in; of a model, what it would run in.

    ``tf32`` and ``bf16`` beside the precisions there are to ask for: a runtime may have been
    told to compute a float32 graph so.
    """
    if isinstance(subject, Model):
        return "int8" if subject.quantized else "fp32"
    from boxwright.backends import registry
    from boxwright.backends.plans import Fingerprint
    from boxwright.backends.selection import choose

    choice = choose(subject, backend, device=device)
    plan = choice.plan or registry.get(choice.backend).fingerprint(choice.spec)
    built = Fingerprint.parse(plan)
    computes = "" if built is None else built.precision.partition("+")[2]
    return computes or choice.spec.precision


def pixels_digest(pixels: Pixels | None) -> str | None:
    """SHA-256 of the pixels a check was made on, by which a repetition knows them again."""
    if pixels is None:
        return None
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
