"""What is wrong with a dataset: each finding told once, counted, with what was done."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_log = logging.getLogger(__name__)

# Kept in full; beyond that a kind of problem is only counted.
_EXAMPLES = 1000

# Kind -> (in words, what is done about it).
PROBLEMS = {
    "missing_image": ("image file missing", "skipped with its labels"),
    "damaged_image": ("image cannot be read", "skipped with its labels"),
    "duplicate_image": ("image listed twice", "the later entry is skipped"),
    "missing_labels": ("no label file", "kept as an image without objects"),
    "damaged_labels": ("label file cannot be read", "image skipped"),
    "bad_line": ("label not understood", "label skipped"),
    "unknown_class": ("class unknown", "label skipped"),
    "unknown_image": ("label of an image that is not listed", "label skipped"),
    "not_finite": ("box is not a number", "label skipped"),
    "no_size": ("box without width or height", "label skipped"),
    "outside": ("box lies outside its image", "label skipped"),
    "clipped": ("box reaches over the edge of its image", "clipped"),
    "duplicate_box": ("box labelled twice", "kept, as the usual metrics do"),
    "size_differs": ("image is not of the size its labels say", "the labels are believed"),
}


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        kind: A key of :data:`PROBLEMS`.
        where: File and place in it.
        detail: What was received.
    """

    kind: str
    where: str
    detail: str = ""


@dataclass
class DatasetReport:
    """The findings about one dataset.

    Attributes:
        problems: The first thousand of each kind.
        counts: How many there are of each kind.
    """

    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, where: object, detail: str = "") -> None:
        """Count a finding."""
        assert kind in PROBLEMS, kind  # noqa: S101 - a slip of ours
        self.counts[kind] += 1
        if self.counts[kind] <= _EXAMPLES:
            self.problems.append(Problem(kind, str(where), detail))

    @property
    def ok(self) -> bool:
        """Nothing was found."""
        return not self.counts

    def lines(self) -> list[str]:
        """One line a kind: how many, what was done, and the first of them."""
        first: dict[str, Problem] = {}
        for problem in self.problems:
            first.setdefault(problem.kind, problem)
        lines = []
        for kind, count in self.counts.items():
            words, action = PROBLEMS[kind]
            example = first[kind]
            detail = f": {example.detail}" if example.detail else ""
            lines.append(f"{count} x {words} ({action}), first {example.where}{detail}")
        return lines

    def log(self, name: str) -> None:
        """Say each kind once, as a warning."""
        for line in self.lines():
            _log.warning("%s: %s", name, line)

    def to_dict(self) -> dict[str, Any]:
        """Counts with what was done, as JSON values."""
        return {
            kind: {"count": count, "meaning": PROBLEMS[kind][0], "action": PROBLEMS[kind][1]}
            for kind, count in self.counts.items()
        }
