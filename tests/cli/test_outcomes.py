"""What the command line does with every kind of outcome: exit code, stdout, stderr."""

from __future__ import annotations

import json
from pathlib import Path

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


REDIRECTED = """
import os, sys
os.close({closed})
os.execv(sys.executable, [sys.executable, "-m", "boxwright", "--help"])
"""


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_stream_is_no_bug(program: Program, closed: int) -> None:
    done = program(python=("-c", REDIRECTED.format(closed=closed)))
    assert (done.returncode, done.stderr) == (0, "")
    assert ("Verbs" in done.stdout) == (closed == 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--help",), "error: cannot write to standard output: No space left on device\n"),
        # The error itself is what cannot be written.
        (("inspect", "nowhere.onnx", "--json"), "error: cannot read nowhere.onnx: "),
    ],
)
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_full_stdout_is_one_line(
    program: Program, arguments: tuple[str, ...], line: str, unbuffered: bool
) -> None:
    code = (
        "import os\n"
        "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
        "from boxwright.cli import main\n"
        f"main({list(arguments)!r})\n"
    )
    done = program(python=(*(("-u",) if unbuffered else ()), "-c", code))
    assert done.returncode == 1
    if unbuffered and arguments == ("--help",):
        line = "error: No space left on device"  # where, nobody can tell
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_a_terminal_of_few_characters_gets_escapes(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    done = program("inspect", "\u4e2d.onnx", "--json")
    assert done.returncode == 1
    assert "\u4e2d.onnx" in json.loads(done.stdout)["error"]["message"]
    code = "import click; from boxwright.cli.group import _prepare_streams\n"
    code += "_prepare_streams(); click.echo('\\u4e2d')"
    assert program(python=("-c", code)).stdout == "\\u4e2d\n"
