"""Write docs/reference/cli.md from the `--help` of every verb.

python tools/make_cli_reference.py           write it
python tools/make_cli_reference.py --check   exit 1 when it is stale
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from _page import write_or_check

from boxwright.cli.group import VERBS, cli

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"

HEADER = """# The command line

<!-- Written by tools/make_cli_reference.py from --help; change the help, then `make docs`. -->

Inputs are positional and files to write take `-o`. Results go to stdout, progress and
remarks to stderr. `--json` prints one JSON document instead, `{"error": ...}` when
something went wrong.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the input is at fault: one line says what and where |
| 2 | the command was used wrongly |
| 3 | done, but a stated budget was missed (`verify`: outside tolerance) |
| 130, 141 | interrupted; the reader of the output went away |
"""


def reference() -> str:
    """The whole page."""
    root = cli.make_context("boxwright", [], resilient_parsing=True, terminal_width=90)
    parts = [HEADER, _block("boxwright", cli.get_help(root))]
    for name in VERBS:
        command = cli.get_command(root, name)
        assert command is not None
        context = click.Context(command, parent=root, info_name=name, terminal_width=90)
        parts.append(_block(f"boxwright {name}", command.get_help(context)))
    return "\n".join(parts)


def _block(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    sys.exit(write_or_check(TARGET, reference, __doc__))
