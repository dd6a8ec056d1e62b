"""The command line: one file per verb, loaded when its verb is called.

Nothing here decides anything about detectors; a verb reads its arguments, calls the
library and shows what came back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    from boxwright.cli.group import cli

    cli.main(args=args, prog_name="boxwright")
    raise AssertionError("unreachable")
