"""How far the whole is, from how far its stages are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from boxwright.progress import ProgressCallback

OVERALL = "overall"

# Rough shares of time where none was measured before; the parity check runs a slow
# reference, evaluation runs every image.
_USUAL = {
    "import": 2,
    "precision": 30,
    "build": 3,
    "verify": 15,
    "eval source": 20,
    "eval engine": 20,
    "compare": 5,
    "bench": 15,
    "report": 1,
}


class Overall:
    """Passes progress of stages on, and tells that of the whole, in per cent.

    Args:
        callback: Who is told.
    """

    def __init__(self, callback: ProgressCallback) -> None:
        self._callback = callback
        self._names: list[str] = []
        self._weights: dict[str, float] = {}
        self._current = ""
        self._inside = 0.0
        self._told = -1

    def plan(self, names: Sequence[str], seconds: Mapping[str, float]) -> None:
        """Say which stages there will be, and how long they took before, where they did."""
        self._names = list(names)
        self._weights = {n: max(seconds.get(n, _USUAL.get(n, 5)), 0.01) for n in names}

    def start(self, name: str) -> None:
        """A stage starts; those before it are done."""
        self._current, self._inside = name, 0.0
        self._tell()

    def finish(self) -> None:
        """Everything is done."""
        self._callback(OVERALL, 100, 100)

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Progress within a stage; some count to the end several times."""
        self._callback(f"{self._current}: {stage}" if self._current else stage, done, total)
        if total:
            self._inside = max(self._inside, min(done / total, 1.0))
            self._tell()

    def _tell(self) -> None:
        before = self._names[: self._names.index(self._current)] if self._current else []
        done = sum(self._weights[name] for name in before)
        done += self._inside * self._weights.get(self._current, 0.0)
        share = int(100 * done / sum(self._weights.values()))
        # Never backwards: what was skipped at the start counts as done at once.
        if share > self._told:
            self._told = share
            self._callback(OVERALL, share, 100)
