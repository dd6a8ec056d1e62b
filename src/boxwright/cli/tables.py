"""Tables and headings on stdout. Imports rich, so verbs import this when they print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A pipe has no width; do not fold tables that another program may read.
_PIPE_WIDTH = 240


def console() -> Console:
    """A console on the present stdout, plain text where that is not a terminal."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False)


def heading(text: str) -> None:
    """A line in bold, after an empty one."""
    console().print(Text(f"\n{text}", style="bold"))


def facts(rows: Iterable[tuple[str, object]]) -> None:
    """Two columns: what, and its value; rows whose value is ``None`` are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            grid.add_row(Text(name), Text(str(value)))
    console().print(grid)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
) -> None:
    """A table; the columns named in `right` hold numbers and are aligned right."""
    sheet = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        sheet.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        sheet.add_row(*(Text(str(cell)) for cell in row))
    console().print(sheet)
