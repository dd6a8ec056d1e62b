"""The ``boxwright`` command: its verbs, and what every one of them does on failure.

Exit codes: 0 done; 1 the user's input is at fault; 2 the command was used wrongly; 3 done,
but a stated budget was missed; 130 interrupted; 141 whoever read the output went away.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from boxwright._version import __version__
from boxwright.cli.common import Settings, print_json
from boxwright.errors import BoxwrightError, BudgetMissedError

EXIT_INPUT = 1
EXIT_USAGE = 2
EXIT_BUDGET = 3
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

# Set by the shell's completion script, as click names it.
_COMPLETION = "_BOXWRIGHT_COMPLETE"

# Verb -> its module and one line of help, here so that `--help` imports no verb.
VERBS = {
    "ship": ("boxwright.cli.ship", "Go from weights to a proven engine in one go."),
    "import": ("boxwright.cli.import_", "Turn trained weights into one ONNX model."),
    "inspect": (
        "boxwright.cli.inspect",
        "Show what a model or an engine holds, or what a runtime would refuse in it.",
    ),
    "quantize": ("boxwright.cli.quantize", "Quantise a model to INT8, within a budget."),
    "build": ("boxwright.cli.build", "Build an engine from a model."),
    "plans": (
        "boxwright.cli.plans",
        "List an engine's plans; add those of another engine, or drop some.",
    ),
    "export": ("boxwright.cli.export", "Give an engine out in another program's format."),
    "detect": ("boxwright.cli.detect", "Detect objects in images."),
    "verify": ("boxwright.cli.verify", "Measure how far a model or engine is from a reference."),
    "eval": ("boxwright.cli.eval", "Measure accuracy on labelled images."),
    "bench": ("boxwright.cli.bench", "Measure how fast a detector is, and where its time goes."),
    "report": ("boxwright.cli.report", "Write an engine's receipt as one HTML file."),
    "doctor": (
        "boxwright.cli.doctor",
        "Say what works on this machine, why not more, and the commands that help.",
    ),
    "demo": ("boxwright.cli.demo", "Fetch a small detector and see it work."),
}


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of a detector's way through them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command; imports its module."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(VERBS[cmd_name][0]).command
        assert isinstance(command, click.Command)  # noqa: S101 - a slip of ours, not of the user
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; a mistyped one is answered with the nearest."""
        name = args[0]
        if name not in VERBS and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, VERBS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" The verbs are: {', '.join(VERBS)}."
            ctx.fail(f"No such verb {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table, importing none of them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, summary) for name, (_, summary) in VERBS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """An example, as every verb has one."""
        with formatter.section("Example"):
            formatter.write(
                "  boxwright import yolov4-tiny.weights --cfg yolov4-tiny.cfg -o tiny.onnx\n"
                "  boxwright build tiny.onnx -o tiny.bw\n"
                "  boxwright detect tiny.bw street.jpg\n"
            )

    def main(  # type: ignore[override]  # always leaves the process, as standalone mode does
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,
    ) -> None:
        """Run, and leave the process with the exit code the outcome asks for."""
        _prepare_streams()
        arguments = list(sys.argv[1:] if args is None else args)
        extra.pop("standalone_mode", None)
        settings = extra.setdefault("obj", None) or Settings()
        extra["obj"] = settings
        # A usage error comes before options are read, so --json is looked for by hand.
        settings.json = "--json" in arguments

        if _COMPLETION in os.environ:
            super().main(arguments, prog_name=prog_name, **extra)

        def work() -> int:
            # Click's own `main` would answer a broken pipe itself, as if it were an error.
            try:
                with self.make_context(prog_name or "boxwright", arguments, **extra) as context:
                    self.invoke(context)
            except click.exceptions.Exit as leave:
                return leave.exit_code
            finally:
                sys.stdout.flush()
            return 0

        sys.exit(_guard(work, settings))


def _guard(work: Callable[[], int], settings: Settings) -> int:
    """Run `work`; turn whatever it raises into one message and an exit code."""
    try:
        return work()
    except click.UsageError as error:
        if settings.json:
            return _fail(settings, "UsageError", error.format_message(), EXIT_USAGE)
        with contextlib.suppress(OSError):  # stderr may be full
            error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        return _fail(settings, type(error).__name__, error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BudgetMissedError as error:
        return _fail(settings, type(error).__name__, str(error), EXIT_BUDGET)
    except BoxwrightError as error:
        return _fail(settings, type(error).__name__, str(error), EXIT_INPUT)
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if _stdout_is_lost():
            settings.json = False  # what is left to say has stderr alone
            message = f"cannot write to standard output: {error.strerror or error}"
            return _fail(settings, "OSError", message, EXIT_INPUT)
        where = f"{error.filename}: " if error.filename else ""
        return _fail(settings, "OSError", f"{where}{error.strerror or error}", EXIT_INPUT)
    except Exception as error:
        return _bug(settings, error)


def _fail(settings: Settings, kind: str, message: str, code: int) -> int:
    line = f"error: {' '.join(message.split())}"
    try:
        if settings.json:
            print_json({"error": {"type": kind, "message": message, "exit_code": code}})
        else:
            click.echo(line, err=True)
        if settings.verbosity >= 2:
            _print_traceback()
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except OSError:
        # Unbuffered, a lost stdout shows in the write alone.
        if _stdout_is_lost() or settings.json:
            with contextlib.suppress(OSError):
                click.echo(line, err=True)
    return code


def _bug(settings: Settings, error: Exception) -> int:
    message = f"{type(error).__name__}: {error}"
    advice = "" if settings.verbosity >= 2 else "; run with -vv for the traceback"
    return _fail(settings, "Bug", f"{message} (this is a bug{advice})", EXIT_INPUT)


def _print_traceback() -> None:
    import traceback

    click.echo(traceback.format_exc(), err=True, nl=False)


def _prepare_streams() -> None:
    """Give closed streams a place to go, and let no character stop what is written."""
    if sys.stdout is None or sys.stderr is None:
        # The lowest free number is given out: a file opened later must not become stdout.
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives on
            setattr(sys, name, nowhere)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _stdout_is_lost() -> bool:
    """Whether stdout takes nothing more, as on a full disk; it is silenced then."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _silence_stdout()
        return True
    return False


def _silence_stdout() -> None:
    """Python flushes stdout once more at exit; give that flush a place to go."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="boxwright", message="%(prog)s %(version)s")
def cli() -> None:
    """Turn a trained object detector into a proven engine."""
