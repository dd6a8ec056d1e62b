"""A slice of what ``tools/fuzz.py`` does for as long as it is let."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.hostile.attempts import TARGETS, cases, leftovers

COUNTS = {
    "cfg": 800,
    "weights": 500,
    "model": 300,
    "graph": 600,
    "export": 200,
    "caffe": 400,
    "checkpoint": 600,
    "tensorflow": 400,
    "saved_model": 200,
    "calibration": 400,
    "legacy_cache": 400,
}
SLOWEST_SECONDS = 5.0


@pytest.mark.parametrize("name", COUNTS)
def test_damaged_files_are_refused_or_used(name: str, tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    for what, path in cases(TARGETS[name], tmp_path, COUNTS[name], seed=1):
        started = time.perf_counter()
        try:
            outcomes[TARGETS[name].attempt(path)] += 1
        except Exception as error:
            raise AssertionError(f"{name}: {what}: {error!r}") from error
        assert time.perf_counter() - started < SLOWEST_SECONDS, what
    assert outcomes["refused"] > COUNTS[name] // 20
    assert not leftovers(tmp_path)
