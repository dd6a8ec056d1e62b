"""What is made of TensorRT's log, and of its progress."""

from __future__ import annotations

import random
from typing import Any

import pytest

from boxwright.backends.tensorrt.log import Journal, make_logger, plain
from boxwright.backends.tensorrt.monitor import STEPS, Phases, Watch, make_monitor
from tests.backends.tensorrt.modules import RTX, VERSIONS, Severity, make_library

# The log


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("plain words", "plain words"),
        # 8.6
        (
            "2: [optimizer.cpp::computeCosts::3873] Error Code 2: Internal Error (Out of memory)",
            "Error Code 2: Internal Error (Out of memory)",
        ),
        # 10 and newer
        (
            "IBuilder::build: Error Code 10: Internal Error (No kernel for {x}. "
            "In computeCosts at /_src/optimizer/optimizer.cpp:4000)",
            "IBuilder::build: Error Code 10: Internal Error (No kernel for {x}. )",
        ),
        (
            "Error Code 9: API Usage Error (Target GPU SM 61 is not supported) "
            "(In validate at a/b.cpp:12)",
            "Error Code 9: API Usage Error (Target GPU SM 61 is not supported)",
        ),
        # The reason is in the brackets that tell of the source file: it stays.
        (
            "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError "
            "at /_src/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient))",
            "Error Code 1: Cuda Runtime ((cudaError 35: CUDA driver version is insufficient))",
        ),
        ("two\nlines\tand\x1b[31m colour", "two lines and[31m colour"),
    ],
)
def test_messages_become_one_plain_line(message: str, expected: str) -> None:
    assert plain(message) == expected


def test_a_message_has_an_end() -> None:
    assert len(plain("x" * 100_000)) == 2000


def test_warnings_are_kept_once_and_counted() -> None:
    journal = Journal()
    for number in range(1000):
        journal.add("WARNING", f"[a.cpp::f::{number}] the same")
        journal.add("WARNING", f"another {number}")
    assert journal.warnings["the same"] == 1000
    assert len(journal.warnings) == 200
    assert list(journal.warnings)[:2] == ["the same", "another 0"]


def test_of_very_many_errors_the_newest_are_kept() -> None:
    journal = Journal()
    for number in range(1000):
        journal.add("INTERNAL_ERROR" if number % 2 else "ERROR", f"error {number}")
    assert len(journal.errors) == 200
    assert journal.errors[-1] == "error 999"


def test_other_lines_are_not_kept() -> None:
    journal = Journal()
    for severity in ("INFO", "VERBOSE"):
        journal.add(severity, "After tactic: 12 layers")
    assert (journal.errors, journal.warnings, journal.layers) == ([], {}, None)


@pytest.mark.parametrize("start", ["Layers:\nName: x", "Engine Layer Information:\nLayer: x"])
def test_the_description_of_the_engine_is_kept(start: str) -> None:
    journal = Journal()
    journal.add("VERBOSE", start)
    journal.add("VERBOSE", "and so on")
    assert journal.layers == start


def test_progress_is_read_off_the_lines_of_8_6() -> None:
    seen: list[tuple[int, int]] = []
    journal = Journal(lambda done, total: seen.append((done, total)))
    lines = [
        "Original: 80 layers",
        "After dead-layer removal: 70 layers",
        "After vertical fusions: 9 layers",
        "After final dead-layer removal: 4 layers",
        "=============== Computing reformatting costs",
        "=============== Computing costs for {a}",
        "--------------- Timing Runner: {a} (CaskConvolution)",
        "=============== Computing costs for {b}",
        "=============== Computing costs for {c}",
        "=============== Computing costs for {d}",
        "=============== Computing costs for {e}",
    ]
    for line in lines:
        journal.add("VERBOSE", line)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4), (4, 4)]


def test_a_logger_lets_nothing_through_into_native_code() -> None:
    def fail(done: int, total: int) -> None:
        raise ZeroDivisionError

    journal = Journal(fail)
    for version in VERSIONS:
        logger = make_logger(make_library(version), journal)
        logger.log(Severity.VERBOSE, "=============== Computing costs for {a}")
        logger.log(None, "a severity without a name")
        logger.log(Severity.ERROR, "kept")
    assert journal.errors == ["kept"] * len(VERSIONS)


# Progress


class Followed:
    """Phases, and what they reported."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.phases = Phases(lambda phase, done: self.seen.append((phase, done)))

    @property
    def done(self) -> list[int]:
        return [done for _, done in self.seen]


def test_a_phase_fills_a_step_of_the_phase_it_is_in() -> None:
    it = Followed()
    it.phases.start("build", None, 4)
    it.phases.step("build", 0)
    it.phases.start("tactics", "build", 10)
    for step in range(10):
        it.phases.step("tactics", step)
    it.phases.finish("tactics")
    it.phases.step("build", 1)
    it.phases.step("build", 3)
    it.phases.finish("build")
    assert it.done == [0, 250, 250, *range(275, 501, 25), 500, 1000]
    assert it.seen[3] == ("tactics", 275)


def test_phases_side_by_side_never_go_back() -> None:
    it = Followed()
    it.phases.start("build", None, 2)
    for name in ("left", "right"):
        it.phases.start(name, "build", 3)
    for name, step in (("left", 0), ("left", 2), ("right", 0), ("right", 1), ("right", 2)):
        it.phases.step(name, step)
    assert it.done == sorted(it.done)
    assert it.done[-1] == 500


def test_disorder_and_nonsense_do_no_harm() -> None:
    dice = random.Random(0)
    it = Followed()
    names = ["a", "b", "c", "", "a"]
    for _ in range(5000):
        name = dice.choice(names)
        act = dice.randrange(4)
        if act == 0:
            # A parent may be unknown, the phase itself, or below it.
            it.phases.start(name, dice.choice([None, *names, "gone"]), dice.randrange(-2, 5))
        elif act == 3:
            it.phases.finish(name)
        else:
            it.phases.step(name, dice.randrange(-1, 9))
    assert it.done == sorted(it.done)
    assert all(0 <= done <= STEPS for done in it.done)


def test_finished_phases_are_forgotten() -> None:
    it = Followed()
    for number in range(100):
        it.phases.start(str(number), None, 1)
        it.phases.finish(str(number))
    assert not it.phases._steps
    assert not it.phases._parent


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_a_build_stops_at_its_next_step(version: str) -> None:
    it, stop = Followed(), list[int]()
    monitor = make_monitor(make_library(version), it.phases, lambda: bool(stop))
    monitor.phase_start("build", None, 3)
    assert monitor.step_complete("build", 0) is True
    stop.append(1)
    assert monitor.step_complete("build", 1) is False
    monitor.phase_finish("build")
    assert it.done == [0, 333, 666]


def test_a_watch_counts_in_thousandths_and_never_back() -> None:
    seen: list[Any] = []
    watch = Watch(lambda *now: seen.append(now), lambda: False)
    for done, total in ((1, 4), (1, 100), (4, 4), (9, 4), (0, 0)):
        watch.count(done, total)
    assert [done for _, done, _ in seen] == [250, 250, 1000, 1000, 1000]
    assert {total for *_, total in seen} == {STEPS}
    assert {stage for stage, *_ in seen} == {"choose kernels"}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_what_a_callback_raises_is_kept_and_stops_the_build(kind: type[BaseException]) -> None:
    calls: list[int] = []

    def fail(*now: Any) -> None:
        calls.append(1)
        raise kind

    watch = Watch(fail, lambda: False)
    assert not watch.stopped()
    watch.tell("x", 1)
    assert watch.stopped()
    assert isinstance(watch.failure, kind)
    watch.tell("x", 2)
    assert len(calls) == 1
    assert Watch(fail, lambda: True).stopped()
    assert make_library(RTX).has_progress_monitor
