"""Budgets: every stated one is judged, and what was not measured is not met."""

from __future__ import annotations

from typing import Any

import pytest

from boxwright.ship.settings import Budgets
from boxwright.ship.summary import drop_points, judge_budgets, summarise


def _summary(**changes: Any) -> dict[str, Any]:
    nothing = summarise(model_bytes=2, engine_bytes=3, source_bytes=1, evidence={})
    return {**nothing, **changes}


@pytest.mark.parametrize(
    ("budgets", "summary", "ok"),
    [
        (Budgets(max_drop=0.5), {"ap_drop_points": 0.5}, True),
        (Budgets(max_drop=0.5), {"ap_drop_points": 0.51}, False),
        (Budgets(max_drop=0), {"ap_drop_points": -1.0}, True),
        (Budgets(max_drop=100), {"ap_drop_points": None}, False),
        (Budgets(min_fps=10), {"images_per_second": 10.0}, True),
        (Budgets(min_fps=10), {"images_per_second": 9.9}, False),
        (Budgets(min_fps=0), {"images_per_second": None}, False),
        (Budgets(max_latency=40), {"latency_p90_ms": 40.0, "latency_p50_ms": 99.0}, True),
        (Budgets(max_latency=40), {"latency_p90_ms": 40.1, "latency_p50_ms": 1.0}, False),
        (Budgets(max_latency=40), {"latency_p90_ms": None}, False),
    ],
)
def test_a_budget(budgets: Budgets, summary: dict[str, Any], ok: bool) -> None:
    (check,) = judge_budgets(budgets, _summary(**summary))
    assert check.ok is ok
    assert "wanted" in check.detail


def test_only_stated_budgets_are_judged() -> None:
    assert judge_budgets(Budgets(), _summary()) == []
    assert Budgets(min_fps=0).to_dict() == {"min_fps": 0}


def test_a_drop_is_in_points_of_a_hundred() -> None:
    assert drop_points({"ap_source": 0.3, "ap_engine": 0.295}) == pytest.approx(0.5)
    assert drop_points({"ap_source": None, "ap_engine": 0.1}) is None


def test_the_numbers_are_the_subjects_not_a_peers() -> None:
    def batch(who: str, size: int, milliseconds: float, rate: float) -> dict[str, Any]:
        times = {"p50": milliseconds, "p90": 2 * milliseconds}
        return {
            "contender": who,
            "batch": size,
            "network_ms": times,
            "end_to_end_ms": times,
            "end_to_end_images_per_second": rate,
        }

    measurements = [batch("own", 4, 40, 90), batch("own", 1, 12, 80), batch("peer", 1, 1, 999)]
    bench = {"subject": "own", "measurements": measurements}
    summary = summarise(model_bytes=2, engine_bytes=3, source_bytes=1, evidence={"bench": bench})
    assert (summary["latency_p50_ms"], summary["latency_p90_ms"]) == (12, 24)
    assert summary["images_per_second"] == 90
