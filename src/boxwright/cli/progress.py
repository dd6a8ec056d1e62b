"""Progress on stderr: a bar on a terminal, an occasional plain line elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from boxwright.cli.common import Settings

# A log file wants to know that work goes on, not how far each second took it.
PLAIN_SECONDS = 5.0


@contextlib.contextmanager
def progress(settings: Settings) -> Iterator[ProgressCallback]:
    """A callback for the library's long work, shown as fits where stderr goes."""
    if settings.verbosity < 0:
        yield silent
    elif sys.stderr.isatty():
        with _bar() as callback:
            yield callback
    else:
        yield PlainProgress()


class PlainProgress:
    """Prints ``stage: done/total`` at most every few seconds, so short work prints nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        # Of each stage when it began, where, and how far it came.
        self._stages: dict[str, tuple[float, int, int]] = {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Print a line if the last one is long ago."""
        now = self._clock()
        began, at, before = self._stages.get(stage, (now, done, done))
        if _is_again(done, before):
            began, at = now, done
        self._stages[stage] = began, at, done
        if now - self._last < PLAIN_SECONDS:
            return
        self._last = now
        share = f" ({100 * done // total} %)" if total else ""
        eta = ""
        if total and at < done < total:
            eta = f", eta {(now - began) * (total - done) / (done - at):.0f} s"
        click.echo(f"{stage}: {done}{f'/{total}' if total else ''}{share}{eta}", err=True)


def _is_again(done: int, before: int) -> bool:
    """Whether a stage runs once more, on something else; threads report a little out of order."""
    return done < before / 2


@contextlib.contextmanager
def _bar() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    # Rich passes what is printed meanwhile to *its* console: right where both are the same
    # terminal, wrong where stdout is a file.
    display = Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    with display:
        yield _Bar(display)


class _Bar:
    """One task of a rich progress display per stage."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._tasks: dict[str, tuple[TaskID, int]] = {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        task, before = self._tasks.get(stage, (None, 0))
        if task is None:
            task = self._display.add_task(stage, total=total)
        elif _is_again(done, before):
            self._display.reset(task, total=total)
        self._tasks[stage] = task, done
        self._display.update(task, completed=done, total=total)
