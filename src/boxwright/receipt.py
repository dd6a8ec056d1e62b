"""The receipt every engine carries: what was built, and what was found out about it.

A build writes the first part. Later checks add sections, each stamped under ``measured``
with when, on what machine and by which command, so that a number is never taken for one
of this machine when it is not. docs/reference/receipt.md names every field.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from boxwright._version import __version__
from boxwright.builds import receipt_of, with_sections
from boxwright.environment import describe_environment
from boxwright.files import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boxwright.backends.base import BuildSpec
    from boxwright.card import ModelCard
    from boxwright.engine import Engine

RECEIPT_SCHEMA = 1

SECTIONS = ("verified", "consistency", "accuracy", "accuracy_drop", "speed")
"""The sections that checks add."""

# What makes a machine another one, for numbers that were measured on it.
_MACHINE = ("system", "machine", "cpu", "usable_cores", "gpus", "python", "libraries")

# Findings that change from run to run: when, where and how fast.
_PASSING = frozenset({"created", "seconds", "timing", "measured", "speed", "environment"})
# Differences of rounding, which another build of a library may do otherwise.
_ROUNDING = frozenset({"nrmse", "max_abs", "max_rel", "value", "reference_value", "where"})


def build_receipt(
    card: ModelCard,
    spec: BuildSpec,
    *,
    backend: str,
    fingerprint: str | None,
    seconds: float,
    evidence: Mapping[str, Any],
    plan_sha256: str | None = None,
) -> dict[str, Any]:
    """The receipt of a build; `boxwright verify` adds to it.

    Args:
        card: Card of the model that was built.
        spec: What was asked for.
        backend: Name of the backend that built it.
        fingerprint: Of the plan, or ``None`` where the backend runs the graph as it is.
        seconds: Wall-clock time of the build.
        evidence: What the backend has to say, such as ``layers`` and ``parity``.
        plan_sha256: Of the plan's content.

    Returns:
        JSON values only.
    """
    return {
        "schema": RECEIPT_SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "build": {
            "backend": backend,
            "precision": spec.precision,
            "batch": list(spec.batch),
            "device": spec.device,
            "options": dict(spec.options),
            "fingerprint": fingerprint,
            **({} if plan_sha256 is None else {"plan_sha256": plan_sha256}),
            "seconds": round(seconds, 3),
        },
        "sources": [dataclasses.asdict(file) for file in card.source_files],
        **evidence,
        "environment": describe_environment(),
    }


def add_evidence(
    engine: Engine, sections: Mapping[str, Any], command: str, build: str | None = None
) -> Engine:
    """Write sections into an engine's receipt, in place of older ones of the same name.

    Args:
        engine: The engine; its file is replaced in one step.
        sections: Some of :data:`SECTIONS`, JSON values only.
        command: What a user types to measure them again.
        build: Which of the engine's builds they are about, as
            :attr:`boxwright.builds.Build.key`.

    Raises:
        ValueError: There is no such section.
        InputError: The file cannot be written.
    """
    unknown = set(sections) - set(SECTIONS)
    if unknown:
        raise ValueError(f"receipt sections are {SECTIONS}, got {sorted(unknown)}")
    stamp = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "boxwright": __version__,
        "command": printable(command),
        "machine": machine(),
    }
    old = receipt_of(engine.receipt, build).get("measured")
    measured = {**(old if isinstance(old, dict) else {}), **dict.fromkeys(sections, stamp)}
    receipt = with_sections(engine.receipt, build, {**sections, "measured": measured})
    return engine.with_receipt(receipt, engine.path)


def machine() -> dict[str, Any]:
    """What tells this machine from another, as far as results and speed go."""
    facts = describe_environment()
    return {name: facts.get(name) for name in _MACHINE}


def measured_elsewhere(receipt: Mapping[str, Any]) -> dict[str, str]:
    """Sections whose numbers come from another machine, and how that one differs."""
    here, found = machine(), {}
    stamps = receipt.get("measured")
    for section, stamp in stamps.items() if isinstance(stamps, dict) else ():
        there = stamp.get("machine") if isinstance(stamp, dict) else None
        if isinstance(there, dict):
            other = [name for name in _MACHINE if there.get(name) != here.get(name)]
            if other:
                found[str(section)] = ", ".join(other)
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What a repeated check found otherwise, one line each; nothing where both agree.

    Times and machines do not count. Numbers may differ by a millionth; errors of rounding,
    such as an nrmse, by a factor of ten, or at all below 1e-5.
    """
    return list(_differences("", old, new))


def _differences(name: str, old: Any, new: Any) -> Iterator[str]:
    key = name.rpartition(".")[2]
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for part in sorted({*old, *new} - _PASSING):
            path = f"{name}.{part}" if name else part
            if part not in old or part not in new:
                yield f"{path}: only in the {'new' if part in new else 'old'} result"
            else:
                yield from _differences(path, old[part], new[part])
    elif isinstance(old, list) and isinstance(new, list) and key not in _ROUNDING:
        if len(old) != len(new):
            yield f"{name}: {len(old)} before, {len(new)} now"
        for index, (before, after) in enumerate(zip(old, new, strict=False)):
            yield from _differences(f"{name}[{index}]", before, after)
    elif not _same(key, old, new):
        yield f"{name}: {_short(old)} before, {_short(new)} now"


def _same(key: str, old: Any, new: Any) -> bool:
    if key == "where" or old == new:
        return True
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (old, new))
    if not numbers:
        return False
    if key in _ROUNDING:
        small, large = sorted((abs(old), abs(new)))
        return large <= max(10 * small, 1e-5) or key in ("value", "reference_value")
    return math.isclose(old, new, rel_tol=1e-6, abs_tol=1e-6)


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
