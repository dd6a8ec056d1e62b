"""What the command line does with every kind of outcome: exit code, stdout, stderr."""

from __future__ import annotations

import json

import click
import pytest

from boxwright.cli import group as group_module
from boxwright.cli.common import Settings, Verb, show
from boxwright.errors import BudgetMissedError, InputError
from tests.cli.conftest import Program, Run


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """A verb `probe` that raises what the test puts in the list, or succeeds."""
    box: list[BaseException | None] = [None]

    @click.command("probe", cls=Verb, examples="boxwright probe")
    @click.pass_obj
    def command(settings: Settings) -> None:
        """Probe."""
        if box[0] is not None:
            raise box[0]
        show(settings, {"settings": vars(settings)}, lambda: click.echo("fine"))

    monkeypatch.setattr(
        group_module.LazyGroup,
        "get_command",
        lambda self, ctx, name: command if name == "probe" else None,
    )
    monkeypatch.setitem(group_module.VERBS, "probe", ("nowhere", "Probe."))
    return box


Outcome = list[BaseException | None]


def test_success_is_0_and_prints_the_text(run: Run, outcome: Outcome) -> None:
    done = run("probe")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "fine\n", "")


def test_the_common_options_reach_the_verb(run: Run, outcome: Outcome) -> None:
    done = run("probe", "--json", "-vv", "--device", "cuda:1", "--seed", "7")
    assert json.loads(done.stdout)["settings"] == {
        "json": True,
        "verbosity": 2,
        "device": "cuda:1",
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        # The user's input: the message and nothing else.
        (InputError("a.cfg is odd"), 1, "error: a.cfg is odd"),
        # A message of several lines becomes one.
        (InputError("first\n  second"), 1, "error: first second"),
        # Done, but a budget was missed.
        (BudgetMissedError("too far"), 3, "error: too far"),
        # What the system refuses is not a bug of ours.
        (PermissionError(13, "Permission denied", "x.onnx"), 1, "error: x.onnx: Permission denied"),
        # A bug says so and how to see more.
        (
            RuntimeError("boom"),
            1,
            "error: RuntimeError: boom (this is a bug; run with -vv for the traceback)",
        ),
    ],
    ids=["input", "lines", "budget", "system", "bug"],
)
def test_an_error_is_one_line_on_stderr(
    run: Run, outcome: Outcome, error: Exception, code: int, line: str
) -> None:
    outcome[0] = error
    done = run("probe")
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", line + "\n")


def test_an_error_is_json_when_asked_for(run: Run, outcome: Outcome) -> None:
    outcome[0] = InputError("a.cfg is odd")
    done = run("probe", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {
        "error": {"type": "InputError", "message": "a.cfg is odd", "exit_code": 1}
    }
    assert done.stderr == ""


def test_wrong_usage_is_2_and_json_when_asked_for(run: Run, outcome: Outcome) -> None:
    assert run("probe", "--nonsense").exit_code == 2
    done = run("probe", "--nonsense", "--json")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["type"] == "UsageError"


def test_the_traceback_comes_with_vv_only(run: Run, outcome: Outcome) -> None:
    outcome[0] = RuntimeError("boom")
    assert "Traceback" not in run("probe", "-v").stderr
    assert "Traceback" in run("probe", "-vv").stderr


def test_an_interrupt_is_130_and_quiet(run: Run, outcome: Outcome) -> None:
    outcome[0] = KeyboardInterrupt()
    done = run("probe")
    assert (done.exit_code, done.stdout, done.stderr.strip()) == (130, "", "")


def test_a_broken_pipe_is_quiet(program: Program) -> None:
    code = (
        "import os, sys\n"
        "read, write = os.pipe()\n"
        "os.close(read)\n"
        "os.dup2(write, 1)\n"
        "from boxwright.cli import main\n"
        "main(['--help'])\n"
    )
    done = program(python=("-c", code))
    assert (done.returncode, done.stderr) == (141, "")
