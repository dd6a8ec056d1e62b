"""One thing the doctor concludes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warn", "ok"]
SEVERITIES: tuple[Severity, ...] = ("error", "warn", "ok")


@dataclass(frozen=True)
class Finding:
    """A conclusion, and what to do about it.

    Attributes:
        code: A word for programs; it stays the same between versions.
        severity: ``error`` where something installed is broken or nothing works, ``warn``
            where something could work and does not, ``ok`` for what is as it should be.
        what: What is the case, in a sentence.
        why: Why that is so or why it matters; may be empty.
        advice: What to do, in words; may be empty.
        commands: What to do, to be copied; any of them may be left out by the reader.
        concerns: Backends it concerns; empty for all.
    """

    code: str
    severity: Severity
    what: str
    why: str = ""
    advice: str = ""
    commands: tuple[str, ...] = ()
    concerns: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "code": self.code,
            "severity": self.severity,
            "what": self.what,
            "why": self.why,
            "advice": self.advice,
            "commands": list(self.commands),
            "concerns": list(self.concerns),
        }


def ranked(findings: list[Finding]) -> list[Finding]:
    """Worst first, otherwise as they came."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
