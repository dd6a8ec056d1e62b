"""How tests call the command line: in this process through click, or as a program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from boxwright.cli.group import cli

Run = Callable[..., Result]
Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call a verb in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Result:
        return CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="boxwright")

    return call


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Call the command line as a program of its own, in an empty folder."""
    source = Path(__file__).parents[2] / "src"

    def call(
        *arguments: str | Path, python: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *(python or ("-m", "boxwright")), *map(str, arguments)]
        # Buffered, as users have it: only then is something left to flush at exit.
        environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONUNBUFFERED": ""}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return call
