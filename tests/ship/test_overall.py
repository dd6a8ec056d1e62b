"""Progress of the whole: in per cent, never backwards, by what stages took before."""

from __future__ import annotations

from boxwright.ship.overall import OVERALL, Overall


def test_the_whole_follows_its_stages() -> None:
    told: list[tuple[str, int, int | None]] = []
    overall = Overall(lambda *step: told.append(step))
    overall.plan(["build", "bench"], {"build": 30.0, "bench": 10.0})
    overall.start("build")
    overall("optimise", 1, 2)
    overall("compare", 1, 4)  # a second count starts again; the whole does not
    overall("unknown", 1, None)
    overall.start("bench")
    overall("measuring", 1, 2)
    overall.finish()
    whole = [done for stage, done, _ in told if stage == OVERALL]
    assert whole == [0, 37, 75, 87, 100]
    assert ("build: optimise", 1, 2) in told
    assert ("bench: measuring", 1, 2) in told


def test_a_stage_that_was_done_counts_at_once() -> None:
    whole: list[int] = []
    overall = Overall(lambda stage, done, total: whole.append(done))
    overall.plan(["a", "b"], {"a": 9.0, "b": 1.0})
    overall.start("b")
    assert whole == [90]
