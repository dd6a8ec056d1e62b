"""What every tool does with the page it generated: write it, or say whether it is stale."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(target: Path, make: Callable[[], str], description: str | None) -> int:
    """The whole of a tool's command line; the exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="only say whether it is stale")
    text = make()
    if parser.parse_args().check:
        fresh = target.is_file() and target.read_text(encoding="utf-8") == text
        if not fresh:
            print(f"{target} is stale; run: make docs", file=sys.stderr)
        return 0 if fresh else 1
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return 0
