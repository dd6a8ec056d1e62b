"""Starting is quick because nothing heavy is imported before it is needed."""

from __future__ import annotations

import pytest

from boxwright.cli.group import VERBS, cli
from tests.cli.conftest import Program, Run

HEAVY = ("numpy", "onnx", "onnxruntime", "cv2", "PIL", "rich", "yaml")

_LIST_HEAVY = f"""
import sys
from boxwright.cli import main
try:
    main(sys.argv[1:])
except SystemExit as leave:
    code = leave.code
heavy = [name for name in {HEAVY} if name in sys.modules]
print("HEAVY", *heavy, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["detect", "--help"]])
def test_help_imports_nothing_heavy(program: Program, arguments: list[str]) -> None:
    done = program(*arguments, python=("-c", _LIST_HEAVY))
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "HEAVY"


def test_the_help_of_the_group_imports_no_verb(program: Program) -> None:
    code = _LIST_HEAVY.replace(
        "heavy = ", "print(*[m for m in sys.modules if m.startswith('boxwright.cli.')])\nheavy = "
    )
    done = program("--help", python=("-c", code))
    loaded = done.stdout.splitlines()[-1].split()
    assert set(loaded) == {"boxwright.cli.group", "boxwright.cli.common"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_that_ends_with_an_example(run: Run, verb: str) -> None:
    done = run(verb, "--help")
    assert done.exit_code == 0
    assert done.stdout.rstrip().splitlines()[-1].startswith(f"  boxwright {verb}")
    for option in ("--json", "--verbose", "--quiet", "--device", "--seed", "--config"):
        assert option in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_the_summary_in_the_group_is_the_verbs_own_first_line(run: Run, verb: str) -> None:
    import click

    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    assert (command.help or "").strip().splitlines()[0] == VERBS[verb][1]


def test_a_mistyped_verb_is_answered_with_the_nearest(run: Run) -> None:
    done = run("detct")
    assert done.exit_code == 2
    assert "Did you mean 'detect'?" in done.stderr


def test_no_verb_at_all_shows_the_help(run: Run) -> None:
    done = run()
    assert done.exit_code == 2
    assert "Verbs:" in done.output
