"""The doctor's whole answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from boxwright._version import __version__
from boxwright.doctor import rules_nvidia, rules_software
from boxwright.doctor.commands import BACKENDS, Recipe, recipe
from boxwright.doctor.facts import Facts
from boxwright.doctor.finding import Finding, ranked
from boxwright.doctor.gather import gather
from boxwright.doctor.machine import Machine
from boxwright.doctor.platforms import Platform, identify

SCHEMA = 1
"""Of the JSON; a change that breaks a reader raises it."""


@dataclass(frozen=True)
class Report:
    """What the doctor knows and concludes of one machine."""

    facts: Facts
    platform: Platform
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether a backend works and nothing that is installed is broken."""
        return all(finding.severity != "error" for finding in self.findings)

    def about(self, backend: str) -> tuple[Finding, ...]:
        """The findings that concern one backend and are not simply well."""
        return tuple(
            finding
            for finding in self.findings
            if (backend in finding.concerns and finding.severity != "ok")
            or (not finding.concerns and finding.severity == "error")
        )

    def recipe(self, backend: str) -> Recipe | None:
        """How to get a backend to work here; ``None`` for one of another package."""
        return recipe(backend, self.platform.name, self.facts) if backend in BACKENDS else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `schema` says which form."""
        facts = self.facts.to_dict()
        return {
            "schema": SCHEMA,
            "boxwright": __version__,
            "ok": self.ok,
            "platform": {"name": self.platform.name, "title": self.platform.title},
            "backends": facts.pop("backends"),
            "findings": [finding.to_dict() for finding in self.findings],
            "facts": facts,
        }


def examine(machine: Machine | None = None) -> Report:
    """Look at a machine, and conclude what works, what does not and what to do.

    Nothing is installed, written or fetched. What cannot be told is left open.

    Args:
        machine: Another machine than this one, for tests.
    """
    return conclude(gather(machine or Machine()))


def conclude(facts: Facts) -> Report:
    """The conclusions from facts alone."""
    findings = [*rules_software.check(facts), *rules_nvidia.check(facts)]
    return Report(facts, identify(facts), tuple(ranked(findings)))


def recipe_to_dict(found: Recipe) -> dict[str, Any]:
    """A recipe as JSON values."""
    return {
        "backend": found.backend,
        "platform": found.platform,
        "possible": found.impossible is None,
        "impossible": found.impossible,
        "instead": list(found.instead),
        "steps": [{"why": step.why, "commands": list(step.commands)} for step in found.steps],
    }
