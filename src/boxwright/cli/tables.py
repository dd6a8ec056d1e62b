"""Tables and headings on stdout. Imports rich, so verbs import this when they print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import click
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

# A pipe has no width; do not fold tables that another program may read.
_PIPE_WIDTH = 400


def heading(text: str) -> None:
    """A line in bold, after an empty one."""
    click.echo()
    _print(Text(text, style="bold"))


def facts(rows: Iterable[tuple[str, object]]) -> None:
    """Two columns: what, and its value; rows whose value is ``None`` are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            grid.add_row(Text(name), Text(str(value)))
    _print(grid)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()
) -> None:
    """A table; the columns named in `right` hold numbers and are aligned right."""
    sheet = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        sheet.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        sheet.add_row(*(Text(str(cell)) for cell in row))
    _print(sheet)


def _print(what: RenderableType) -> None:
    """Through click, which knows the stdout of this call; no blanks at the ends of lines."""
    terminal = sys.stdout.isatty()
    screen = Console(file=sys.stdout, width=None if terminal else _PIPE_WIDTH, highlight=False)
    with screen.capture() as captured:
        screen.print(what)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
