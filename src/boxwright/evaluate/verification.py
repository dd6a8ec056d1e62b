"""What ``boxwright verify`` does: gather the evidence for one engine, and keep it."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.backends.selection import choose
from boxwright.builds import receipt_of
from boxwright.engine import Engine, is_engine_file
from boxwright.errors import InputError
from boxwright.evaluate.diagnosis import diagnose
from boxwright.evaluate.proof import Proof, pixels_digest, prove
from boxwright.model import Model
from boxwright.receipt import add_evidence, differences

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boxwright.card import ModelCard
    from boxwright.evaluate.subject import Comparable
    from boxwright.evaluate.tolerances import Tolerances
    from boxwright.images import Pixels
    from boxwright.progress import ProgressCallback

Sample = list[tuple[Path, "Pixels"]]


@dataclass(frozen=True)
class Request:
    """What to verify, and how.

    Attributes:
        subject: A ``.bw`` or ``.onnx`` file.
        against: The reference; ``None`` for the subject's own model on the reference backend.
        images: Files, folders and patterns.
        limit: How many images to compare tensor by tensor.
        cfg: Network description, where `against` is Darknet weights.
        tolerances: How much difference to accept; ``None`` for what the subject's precision
            explains.
        backend: Backend that runs the subject.
        annotations: Labels, for the difference in AP.
        output: Folder for pictures and evaluations.
        seed: Of the choice of images.
        device: Where the subject runs.
        command: How to repeat it, for the receipt.
        keep: Write the findings into the engine's receipt.
        again: Compare the findings with what the receipt says already.
    """

    subject: Path
    against: Path | None
    images: tuple[str, ...]
    limit: int
    cfg: Path | None
    tolerances: Tolerances | None
    backend: str | None
    annotations: Path | None
    output: Path | None
    seed: int
    device: str
    command: str
    keep: bool
    again: bool


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        proof: Parity and self-consistency.
        accuracy: As :func:`boxwright.evaluate.drop.compare_sides` has it, with labels.
        changes: With ``again``, what the receipt says otherwise; else ``None``.
        kept: Whether the findings were written into an engine.
    """

    proof: Proof
    accuracy: dict[str, Any] | None
    changes: list[str] | None
    kept: bool

    @property
    def drop(self) -> dict[str, float] | None:
        """Difference in AP, subject minus model, with the bounds of its interval."""
        return None if self.accuracy is None else self.accuracy["difference"]["ap"]

    @property
    def ap_subject(self) -> float:
        """AP of the subject, 0 to 1; 0 without labels."""
        return 0.0 if self.accuracy is None else float(self.accuracy["ap_engine"])

    @property
    def ap_model(self) -> float:
        """AP of the subject's own model, 0 to 1; 0 without labels."""
        return 0.0 if self.accuracy is None else float(self.accuracy["ap_source"])

    def failures(self, max_drop: float | None = None) -> list[str]:
        """What is not as it must be, in words.

        Args:
            max_drop: Points of AP that may be lost.
        """
        fault = diagnose(self.proof.parity)
        found = [] if fault is None else [f"outside tolerance ({fault})"]
        failed = [check.name for check in self.proof.consistency if not check.ok]
        if failed:
            found.append(f"DISAGREES WITH ITSELF ({', '.join(failed)})")
        lost = 100 * (self.ap_model - self.ap_subject)
        if max_drop is not None and lost > max_drop:
            found.append(f"{lost:.2f} points of AP lost, at most {max_drop:g} wanted")
        if self.changes:
            found.append("the receipt says otherwise")
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        consistency = [check.to_dict() for check in self.proof.consistency]
        return {
            **self.proof.parity.to_dict(),
            "diagnosis": diagnose(self.proof.parity),
            "consistency": consistency,
            "accuracy_drop": None if self.accuracy is None else self.accuracy["difference"],
            "changes": self.changes,
            "in_receipt": self.kept,
        }


def verify(request: Request, progress: ProgressCallback) -> Verification:
    """Gather the evidence, and write it into the receipt where the subject is an engine.

    Raises:
        InputError: A file or an image is at fault, or ``again`` finds nothing to repeat.
    """
    subject = _open(request.subject)
    build = _build_that_runs(request, subject)
    earlier = _earlier(subject, build) if request.again else None
    reference, reference_backend = _reference(request, subject)
    sample = _sample(request)
    pixels = _pixels(sample, subject.card)
    digest = pixels_digest(pixels)
    if earlier is not None and earlier["verified"][0].get("pixels_sha256") != digest:
        raise InputError(
            f"{request.subject}: its receipt was measured on other images; repeat it with "
            f"{_command_of(earlier)}"
        )
    proof = prove(
        subject,
        reference,
        pixels,
        tolerances=request.tolerances,
        backend=request.backend,
        reference_backend=reference_backend,
        device=request.device,
        seed=request.seed,
        progress=progress,
    )
    accuracy = None if request.annotations is None else _accuracy(request, subject, progress)
    if request.output is not None and sample:
        _save_pictures(request, subject, sample)
    sections = _sections(proof, digest, accuracy)
    changes = None if earlier is None else differences(_common(earlier, sections), sections)
    kept = False
    if request.keep and not request.again and isinstance(subject, Engine):
        add_evidence(subject, sections, request.command, build)
        kept = True
    return Verification(proof, accuracy, changes, kept)


def _sections(proof: Proof, digest: str | None, accuracy: dict[str, Any] | None) -> dict[str, Any]:
    from boxwright.evaluate.drop import without_curves

    sections = proof.sections()
    sections["verified"][0]["pixels_sha256"] = digest
    if accuracy is not None:
        sections["accuracy"] = without_curves(accuracy["engine"])
        sections["accuracy_drop"] = accuracy["difference"]
    return sections


def _common(earlier: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """The earlier receipt's sections that were measured again."""
    return {name: earlier[name] for name in sections if name in earlier}


def _open(path: Path) -> Engine | Model:
    is_engine = is_engine_file(path) or path.suffix.lower() == ".bw"
    opened: Engine | Model = Engine.open(path) if is_engine else Model.load(path)
    if opened.card.task != "detect":
        raise InputError(
            f"{path} is a model to {opened.card.task}; only detectors are verified, an import "
            "with boxwright import --verify"
        )
    return opened


def _build_that_runs(request: Request, subject: Engine | Model) -> str | None:
    """Whose evidence it will be: of an engine's builds, the one that runs here."""
    if isinstance(subject, Model):
        return None
    return choose(subject, request.backend, device=request.device).build


def _earlier(subject: Engine | Model, build: str | None) -> dict[str, Any]:
    receipt = receipt_of(subject.receipt, build) if isinstance(subject, Engine) else {}
    reports = receipt.get("verified")
    if not (isinstance(reports, list) and reports and isinstance(reports[0], dict)):
        raise InputError("its receipt has nothing to verify again; run verify without --again")
    return receipt


def _command_of(receipt: Mapping[str, Any]) -> str:
    measured = receipt.get("measured")
    stamp = measured.get("verified") if isinstance(measured, dict) else None
    return str(stamp.get("command")) if isinstance(stamp, dict) else "the images of that time"


def _model_of(subject: Engine | Model) -> Model:
    return subject.model() if isinstance(subject, Engine) else subject


def _reference(request: Request, subject: Engine | Model) -> tuple[Comparable, str | None]:
    """What to compare with, and the backend it runs on where it is a model."""
    if request.against is None:
        return _model_of(subject), "reference"
    if request.against.suffix.lower() == ".weights":
        from boxwright.evaluate.opencv_oracle import OpenCvDarknet

        cfg = request.cfg or request.against.with_suffix(".cfg")
        return OpenCvDarknet(cfg, request.against), None
    return request.against, None


def _sample(request: Request) -> Sample:
    from boxwright.evaluate.sampling import readable_sample
    from boxwright.images import find_images

    if not request.images:
        return []
    folder = request.output
    ours = [folder / "worst", folder / "worst-by-labels"] if folder is not None else []
    paths = find_images(request.images, without=ours)
    return readable_sample(paths, request.limit, request.seed)[0]


def _pixels(sample: Sample, card: ModelCard) -> Pixels | None:
    from boxwright.preprocess import Preprocessor

    if not sample:
        return None
    return Preprocessor(card).prepare_batch([pixels for _, pixels in sample])[0]


def _accuracy(
    request: Request, subject: Engine | Model, progress: ProgressCallback
) -> dict[str, Any]:
    """AP of the subject and of its own model, resumable in the output folder."""
    from boxwright import datasets
    from boxwright.evaluate.drop import compare_sides, measure
    from boxwright.evaluate.report import pictures

    annotations = request.annotations
    assert annotations is not None  # noqa: S101 - the caller looked
    dataset = datasets.open(annotations, images=request.images[0] if request.images else None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = request.output / "eval" if request.output is not None else Path(temporary)
        sides = {"source": _model_of(subject), "engine": subject}
        for side, opened in sides.items():
            key = f"{side} {_identity(opened)}"
            measure(opened, dataset, folder / side, key, device=request.device, progress=progress)
        content, worst = compare_sides(
            folder, dataset, subject.card, seed=request.seed, progress=progress
        )
    if request.output is not None:
        pictures.save(pictures.within_budget(worst), request.output / "worst-by-labels")
    return content


def _identity(opened: Engine | Model) -> str:
    """What an evaluation that goes on must be of."""
    if isinstance(opened, Engine):
        return opened.content_sha256
    return hashlib.sha256(opened.to_bytes()).hexdigest()


def _save_pictures(request: Request, subject: Engine | Model, sample: Sample) -> None:
    """The images on which subject and model disagree most, side by side."""
    from boxwright.detector import Detector
    from boxwright.evaluate.report import pictures
    from boxwright.evaluate.worst import side_by_side

    found = []
    for opened in (_model_of(subject), subject):
        with Detector(opened, device=request.device) as detector:
            found.append(detector.detect_batch([pixels for _, pixels in sample]))
    assert request.output is not None  # noqa: S101 - the caller looked
    pictures.save(side_by_side(sample, found[0], found[1]), request.output / "worst")
