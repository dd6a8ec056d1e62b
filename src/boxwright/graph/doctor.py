"""Curing with evidence: every pass measured, and nothing given out that computes otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.errors import ModelError
from boxwright.files import atomic_write, human_size
from boxwright.graph.compare import Comparison, compare
from boxwright.graph.diagnose import Finding, diagnose
from boxwright.graph.legalise import ChangeReport, legalise
from boxwright.model import MAX_MODEL_BYTES, parse_onnx, read_onnx_bytes

if TYPE_CHECKING:
    import onnx

    from boxwright.graph.targets import Target

# A graph of more nodes is a mistake or an attack; the largest in use have tens of thousands.
MAX_NODES = 200_000


@dataclass(frozen=True)
class Step:
    """One pass, and how far its result is from what it was given."""

    report: ChangeReport
    measured: Comparison

    def to_json(self) -> dict[str, Any]:
        """All fields, for ``--json``."""
        return self.report.to_json() | {
            "difference": self.measured.difference,
            "not_compared": self.measured.reason,
        }


@dataclass(frozen=True)
class Cured:
    """A graph that a target's findings were cured in, and what is left of them."""

    proto: onnx.ModelProto
    steps: tuple[Step, ...]
    measured: Comparison
    left: list[Finding]


def read_graph(path: str | Path) -> onnx.ModelProto:
    """Any ONNX file: it need not keep Boxwright's contract. Other files are not opened.

    Raises:
        ModelError: It is missing, damaged, or larger than any graph in use.
    """
    proto = parse_onnx(read_onnx_bytes(path), str(path))
    if len(proto.graph.node) > MAX_NODES:
        raise ModelError(
            f"{path}: at most {MAX_NODES} nodes are looked at, got {len(proto.graph.node)}"
        )
    return proto


def cure(
    proto: onnx.ModelProto,
    target: Target,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    folder: str | Path | None = None,
    tidy: bool = False,
    seed: int = 0,
) -> Cured:
    """Run the passes that `target` asks for, and measure each by running before and after.

    The parameters are those of :func:`boxwright.graph.legalise.legalise`.

    Raises:
        ModelError: A pass changed what is computed by more than it may.
    """
    steps: list[Step] = []

    def measure(before: onnx.ModelProto, after: onnx.ModelProto, report: ChangeReport) -> None:
        measured = compare(before, after, seed)
        if measured.difference is not None and measured.difference > report.tolerance:
            raise ModelError(
                f"the pass {report.name!r} changes what the graph computes: output "
                f"{measured.worst!r} differs by {measured.difference:.3g} of its largest value, "
                f"expected at most {report.tolerance:g}; nothing is written"
            )
        steps.append(Step(report, measured))

    cured, reports = legalise(
        proto, target, size=size, batch=batch, folder=folder, tidy=tidy, watch=measure
    )
    whole = compare(proto, cured, seed) if reports else Comparison(0.0)
    allowed = sum(report.tolerance for report in reports)
    if whole.difference is not None and whole.difference > allowed:
        raise ModelError(
            f"together the passes change output {whole.worst!r} by {whole.difference:.3g} of its "
            f"largest value, expected at most {allowed:g}; nothing is written"
        )
    return Cured(cured, tuple(steps), whole, diagnose(cured, target, folder))


def write_graph(proto: onnx.ModelProto, path: str | Path) -> int:
    """Write an ONNX file of any origin whole or not at all; its size in bytes.

    Raises:
        ModelError: It exceeds what one ONNX file can hold.
        InputError: The file cannot be written.
    """
    size = proto.ByteSize()
    if size > MAX_MODEL_BYTES:
        raise ModelError(f"the graph is {human_size(size)}, and an ONNX file holds at most 2 GiB")
    with atomic_write(path) as stream:
        stream.write(proto.SerializeToString(deterministic=True))
    return size
