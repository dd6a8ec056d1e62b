"""Progress goes to stderr: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from boxwright.cli.common import Settings
from boxwright.cli.progress import PLAIN_SECONDS, PlainProgress, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    report = PlainProgress(clock=lambda: now[0])
    for done in range(1, 12):
        now[0] = done * PLAIN_SECONDS / 5
        report("detecting", done, 20)
    now[0] *= 2
    report("downloading", 7, None)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "detecting: 5/20 (25 %), eta 15 s\ndetecting: 10/20 (50 %), eta 10 s\ndownloading: 7\n"
    )


def test_a_stage_that_runs_again_is_timed_anew(capsys: pytest.CaptureFixture[str]) -> None:
    """Each precision of a search chooses its own kernels."""
    now = [0.0]
    report = PlainProgress(clock=lambda: now[0])
    for start in (0.0, 1000.0):
        for done in (1, 2, 4, 3, 5):  # threads end in any order
            now[0] = start + done * PLAIN_SECONDS
            report("building", done, 10)
    assert capsys.readouterr().err.split("\n")[4:-1] == [
        "building: 1/10 (10 %)",
        *(f"building: {n}/10 ({n}0 %), eta {PLAIN_SECONDS * (10 - n):.0f} s" for n in (2, 4, 5)),
    ]


def test_quick_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(Settings()) as report:
        for done in range(100):
            report("building", done, 100)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, output = Terminal(), io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", output)
    with progress(Settings()) as report:
        report("detecting", 1, 4)
        report("detecting", 4, 4)
        # A result printed meanwhile belongs to stdout, which is no terminal here.
        print("dog.jpg: 1 dog")
    assert "detecting" in screen.getvalue()
    assert "4/4" in screen.getvalue()
    assert "eta" in screen.getvalue()
    assert output.getvalue() == "dog.jpg: 1 dog\n"
    assert "dog" not in screen.getvalue()


def test_quiet_shows_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress(Settings(verbosity=-1)) as report:
        report("detecting", 1, 4)
    assert screen.getvalue() == ""
