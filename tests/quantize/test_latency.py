"""Which precision is handed out, by numbers that are made up; and real ones of a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from boxwright import backends
from boxwright.backends.base import Runner
from boxwright.errors import (
    BackendUnavailableError,
    BudgetMissedError,
    EngineError,
    InputError,
)
from boxwright.evaluate.timing import Summary
from boxwright.model import Model
from boxwright.progress import silent
from boxwright.quantize.comparison import _is_settled
from boxwright.quantize.latency import Latency, Timed, choose_precision, measure_latency
from tests.models import make_images, make_model


def timed(precision: str, rounds: list[float]) -> Timed:
    return Timed(precision, Summary.of(rounds), tuple(rounds))


def latency(**rounds: list[float]) -> Latency:
    return Latency("some", 1, {name: timed(name, values) for name, values in rounds.items()})


_FP32 = [10.0, 10.1, 9.9, 10.0, 10.2]
_FP16 = [5.0, 5.1, 4.9, 5.0, 5.2]
_INT8 = [3.0, 3.1, 2.9, 3.0, 3.2]
_SLOW = [6.0, 6.1, 5.9, 6.0, 6.2]
# A little faster in most rounds, slower in others.
_SAME = [4.9, 5.0, 5.1, 4.9, 5.4]

_CASES: list[tuple[dict[str, list[float]], Mapping[str, float | None], float | None, str, str]] = [
    # INT8 is faster than everything and within the budget.
    (
        {"fp32": _FP32, "fp16": _FP16, "int8": _INT8},
        {"fp16": 0.0, "int8": 0.4},
        0.5,
        "int8",
        "INT8 is the fastest: 3.00 ms against 5.00 ms in FP16",
    ),
    # Slower than FP16, though faster than FP32: never handed out.
    (
        {"fp32": _FP32, "fp16": _FP16, "int8": _SLOW},
        {"fp16": 0.0, "int8": 0.4},
        0.5,
        "fp16",
        "INT8 is not faster: 6.00 ms against 5.00 ms in FP16",
    ),
    # No difference was shown: the higher precision.
    (
        {"fp32": _FP32, "fp16": _FP16, "int8": _SAME},
        {"fp16": 0.0, "int8": 0.4},
        0.5,
        "fp16",
        "INT8 is not faster",
    ),
    # FP16 loses too much, INT8 does not, and only FP32 is left to beat.
    (
        {"fp32": _FP32, "fp16": _FP16, "int8": _SLOW},
        {"fp16": 1.0, "int8": 0.4},
        0.5,
        "int8",
        "6.00 ms against 10.00 ms in FP32",
    ),
    # Over the budget.
    (
        {"fp32": _FP32, "int8": _INT8},
        {"int8": 0.6},
        0.5,
        "fp32",
        "INT8 loses 0.60 points on some, 0.5 are allowed",
    ),
    # What float64 makes of a half is a half.
    ({"fp32": _FP32, "int8": _INT8}, {"int8": 0.5 + 1e-14}, 0.5, "int8", "INT8 is the fastest"),
    # Not measured is not within a budget.
    (
        {"fp32": _FP32, "int8": _INT8},
        {"int8": None},
        0.5,
        "fp32",
        "what INT8 loses on some could not be measured",
    ),
    ({"fp32": _FP32, "fp16": _FP16}, {"fp16": None}, 0.5, "fp32", "FP32 is the fastest"),
    # Without a budget speed alone decides.
    ({"fp32": _FP32, "int8": _INT8}, {}, None, "int8", "INT8 is the fastest"),
]


@pytest.mark.parametrize(("rounds", "drops", "budget", "chosen", "reason"), _CASES)
def test_the_fastest_within_the_budget(
    rounds: dict[str, list[float]],
    drops: Mapping[str, float | None],
    budget: float | None,
    chosen: str,
    reason: str,
) -> None:
    choice = choose_precision(latency(**rounds), drops, budget)
    assert choice.precision == chosen
    assert reason in choice.reason


def test_int8_that_does_not_run_is_told_with_its_reason() -> None:
    found = Latency("some", 1, {"fp32": timed("fp32", _FP32)}, {"int8": "no kernels"})
    choice = choose_precision(found, {}, 0.5)
    assert choice.precision == "fp32"
    assert choice.reason == "INT8 does not run on some here: no kernels"
    assert {row["precision"]: row.get("failed") for row in choice.tried} == {
        "fp32": None,
        "int8": "no kernels",
    }


def test_what_does_not_run_is_never_handed_out() -> None:
    """Float32 neither, though it loses nothing."""
    failed = {"fp32": "no memory"}
    rest = Latency("some", 1, {"fp16": timed("fp16", _FP16)}, failed)
    assert choose_precision(rest, {"fp16": 0.1}, 0.5).precision == "fp16"
    assert choose_precision(rest, {}, None).precision == "fp16"
    with pytest.raises(BudgetMissedError, match=r"fp32 does not run on some here \(fp32: no mem"):
        choose_precision(rest, {"fp16": 2.0}, 0.5)
    with pytest.raises(BudgetMissedError, match="not measured"):
        choose_precision(rest, {}, 0.5)
    both = Latency("some", 1, {"int8": timed("int8", _INT8)}, failed)
    assert choose_precision(both, {"int8": 0.1}, 0.5).reason == "only INT8 runs on some here"
    nothing = Latency("some", 1, {}, {**failed, "int8": "no kernels"})
    with pytest.raises(BackendUnavailableError, match="in no precision: fp32: no memory; int8: n"):
        choose_precision(nothing, {"fp32": 0.0, "int8": 0.1}, 0.5)


def test_what_fails_between_its_turns_is_told_and_the_others_are_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a GPU whose memory another process took meanwhile."""
    model = make_model()
    examined: list[str] = []

    def load(given: Model, backend: str, precision: str, *_: object) -> Runner:
        runner = backends.load(given, backend=backend)
        infer = runner.infer
        left = iter(range(60))

        def fail(feed: Any) -> Any:
            if precision == "fp16" and next(left, None) is None:
                raise EngineError("out of memory")
            return infer(feed)

        monkeypatch.setattr(runner, "infer", fail)
        return runner

    monkeypatch.setattr("boxwright.quantize.latency.load_precision", load)
    found = measure_latency(
        {"fp32": model, "fp16": model},
        "onnxruntime",
        pixels=make_images(model, 1),
        rounds=10,
        seconds=1.0,
        examine=lambda name, _: examined.append(name),
    )
    assert set(found.timed) == {"fp32"}
    assert len(found.timed["fp32"].rounds) == 10
    assert found.failed == {"fp16": "it failed while it was timed: out of memory"}
    assert examined == ["fp32"]


def test_a_runtime_is_timed_and_what_fails_is_told() -> None:
    model = make_model()
    found = measure_latency(
        {"fp32": model, "fp16": model},
        "onnxruntime",
        pixels=make_images(model, 1),
        rounds=3,
        seconds=0.03,
    )
    assert set(found.timed) == {"fp32"}
    assert len(found.timed["fp32"].rounds) == 3
    assert 0 < found.timed["fp32"].milliseconds.p50 < 1000
    assert "fp16" in found.failed["fp16"]


def test_what_is_not_settled_takes_more_rounds_once() -> None:
    model = make_model()
    asked: list[int] = []
    told: list[tuple[int, int | None]] = []

    def settled(found: Mapping[str, Timed]) -> bool:
        asked.append(len(found["fp32"].rounds))
        return False

    def measure(settled: Any) -> Latency:
        return measure_latency(
            {"fp32": model, "again": model},
            "onnxruntime",
            pixels=make_images(model, 1),
            rounds=3,
            seconds=0.03,
            settled=settled,
            progress=lambda stage, done, total: told.append((done, total)),
        )

    assert {len(item.rounds) for item in measure(settled).timed.values()} == {15}
    assert asked == [3]
    assert told[2] == (3, 3)
    assert told[-1] == (15, 15)
    assert {len(item.rounds) for item in measure(lambda _: True).timed.values()} == {3}


@pytest.mark.parametrize(
    ("int8", "settled"), [(_INT8, True), (_SAME, False), (_FP32, True), (_FP16, False)]
)
def test_whether_int8_is_faster_is_settled_where_an_interval_leaves_out_1(
    int8: list[float], settled: bool
) -> None:
    floats = {"fp32": timed("fp32", _FP32), "fp16": timed("fp16", _FP16)}
    assert _is_settled({**floats, "int8": timed("int8", int8)}, 0) == settled
    assert _is_settled(floats, 0)
    assert _is_settled({"int8": timed("int8", int8)}, 0)


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(InputError, match="2 rounds at least"):
        measure_latency(
            {"fp32": make_model()}, "onnxruntime", pixels=make_images(make_model(), 1), rounds=1
        )


def test_what_each_precision_loses_is_measured_on_the_runtime() -> None:
    """A broken INT8 model loses what the objective says, float loses nothing."""
    from boxwright.quantize.comparison import compare_precisions
    from tests.quantize.test_budget import Judge

    class Asked(Judge):
        def measure(self, model, runner=None, progress=silent):  # type: ignore[no-untyped-def]
            ran.append(runner is not None)
            return super().measure(model, runner, progress)

    ran: list[bool] = []
    model = make_model()
    found = compare_precisions(
        *(model, None, "onnxruntime", make_images(model, 1)),
        objective=Asked(lambda _: 0.0),
        max_drop=0.5,
    )
    assert ran == [False, True], "the float model as its graph says, then on the runtime"
    assert found.choice.precision == "fp32"
    assert {row["precision"]: row["drop"] for row in found.choice.tried}["fp32"] == 0.0
    assert found.notes == ()
