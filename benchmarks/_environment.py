"""What every benchmark prints first: the machine and the versions its numbers belong to."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

from boxwright.environment import describe_environment


def heading() -> str:
    """The environment in a few lines, for the top of a benchmark's output."""
    facts = describe_environment()
    lines = [f"# date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}"]
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        lines.append(f"# {key}: {value}")
    return "\n".join(lines)


def tell(lines: Iterable[str], output: Path | None) -> None:
    """Print lines as they come, and write all so far to a file, so that a stop loses nothing."""
    told: list[str] = []
    for line in lines:
        print(line, flush=True)
        told.append(line)
        if output:
            output.write_text("\n".join(told) + "\n")
