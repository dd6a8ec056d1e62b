"""What all verbs share: their common options, where results go, and small types."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

LOGGER = "boxwright"


@dataclass
class Settings:
    """The common options of one call, as the verb sees them.

    Attributes:
        json: Print one JSON document instead of text.
        verbosity: 0 usually; -1 with ``-q``; 1 with ``-v``; 2 with ``-vv``.
        device: Where to compute; ``auto`` leaves it to the backend.
        seed: Seed of everything random.
    """

    json: bool = False
    verbosity: int = 0
    device: str = "auto"
    seed: int = 0


class Verb(click.Command):
    """A command with the common options and, at the end of its help, examples."""

    def __init__(self, *args: Any, examples: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples.strip("\n")
        self.params.extend(_common_options())

    def invoke(self, ctx: click.Context) -> Any:
        """Take the common options out of the verb's parameters, then call the verb."""
        settings = ctx.ensure_object(Settings)
        settings.json = ctx.params.pop("json")
        settings.verbosity = ctx.params.pop("verbose") - ctx.params.pop("quiet")
        settings.device = ctx.params.pop("device")
        settings.seed = ctx.params.pop("seed")
        _set_up_logging(settings.verbosity)
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, each line as written."""
        with formatter.section("Example" if "\n" not in self.examples else "Examples"):
            for line in self.examples.splitlines():
                formatter.write(f"  {line.strip()}\n")


def _common_options() -> list[click.Parameter]:
    return [
        click.Option(["--json"], is_flag=True, help="Print one JSON document on stdout."),
        click.Option(["-v", "--verbose"], count=True, help="Say more; -vv for tracebacks too."),
        click.Option(["-q", "--quiet"], is_flag=True, help="No progress, no warnings."),
        click.Option(
            ["--device"], default="auto", show_default=True, help="auto, cpu, cuda:0, and so on."
        ),
        click.Option(
            ["--seed"],
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="Seed of everything random.",
        ),
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            is_eager=True,
            expose_value=False,
            callback=_apply_config,
            help="TOML or YAML file with values for any of these options.",
        ),
    ]


def _apply_config(ctx: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Values of the file become defaults, so the command line stays above them.

    The option is eager, which is why the file is read before any other option.
    """
    if path is not None and not ctx.resilient_parsing:
        from boxwright.cli.config import defaults_for

        name = ctx.info_name or ctx.command.name or ""
        ctx.default_map = defaults_for(path, name, ctx.command)


def _set_up_logging(verbosity: int) -> None:
    logger = logging.getLogger(LOGGER)
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    logger.setLevel(level)
    # One handler per call, on the stderr of this call.
    for handler in list(logger.handlers):
        if getattr(handler, "of_cli", False):
            logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.of_cli = True  # type: ignore[attr-defined]
    handler.setFormatter(_Formatter("%(message)s"))
    logger.addHandler(handler)


class _Formatter(logging.Formatter):
    """``warning: ...``, as errors are ``error: ...``."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def print_json(content: object) -> None:
    """One JSON document on stdout; refuses what JSON has no word for, such as NaN."""
    # Where stdout cannot take every character, JSON has escapes of its own for them.
    ascii_only = (getattr(sys.stdout, "encoding", None) or "").lower() not in ("utf-8", "utf8")
    click.echo(json.dumps(content, indent=2, ensure_ascii=ascii_only, allow_nan=False))


def note(settings: Settings, text: str) -> None:
    """A remark for people, on stderr; nothing with ``-q``."""
    if settings.verbosity >= 0:
        click.echo(text, err=True)


class Number(click.FloatRange):
    """A number within bounds. Not NaN, which click's own type lets through every bound."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read a finite number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value!r}", param, ctx)
        return number


class Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``416`` or ``320x416`` (height x width)."""

    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read one or two positive integers."""
        if isinstance(value, tuple):
            return value
        if isinstance(value, list):
            value = "x".join(map(str, value))
        match = re.fullmatch(r"([1-9]\d{0,5})(?:x([1-9]\d{0,5}))?", str(value).strip().lower())
        if match is None:
            self.fail(f"expected a size such as 416 or 320x416 (height x width), got {value!r}")
        height = int(match[1])
        return height, int(match[2] or height)


class BatchRange(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``8``, ``1:16`` or ``1:8:16`` (smallest, usual, largest)."""

    name = "MIN:OPT:MAX"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int, int]:
        """Read one to three positive integers that do not fall."""
        if isinstance(value, tuple):
            return value
        if isinstance(value, list):
            value = ":".join(map(str, value))
        parts = str(value).split(":")
        if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"[1-9]\d{0,5}", p) for p in parts):
            self.fail(f"expected batch sizes such as 1:8:16 (min:opt:max), got {value!r}")
        numbers = [int(part) for part in parts]
        low, usual, high = numbers if len(numbers) == 3 else (numbers[0], numbers[-1], numbers[-1])
        if not low <= usual <= high:
            self.fail(f"expected min <= opt <= max, got {value!r}")
        return low, usual, high


class CommaList(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """Words from a fixed set, separated by commas."""

    name = "LIST"

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.choices = choices

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split and check; the order and repetitions do not matter."""
        words = value if isinstance(value, (list, tuple)) else str(value).split(",")
        chosen = {str(word).strip() for word in words} - {""}
        unknown = sorted(chosen - set(self.choices))
        if unknown:
            self.fail(f"unknown {unknown[0]!r}; choose from {', '.join(self.choices)}")
        return tuple(choice for choice in self.choices if choice in chosen)


class NameValue(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``NAME=VALUE``; the value is read as a whole number, a number, a truth value or text."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | float | bool | str]:
        """Split at the first ``=``; the name is one that Python could have."""
        if isinstance(value, tuple):
            return value
        name, _, text = (part.strip() for part in str(value).partition("="))
        if not name.isidentifier() or not text:
            self.fail(f"expected a setting such as num_streams=2, got {value!r}", param, ctx)
        return name, _plain_value(text)


def _plain_value(text: str) -> int | float | bool | str:
    """What was meant by `text`; only finite numbers are numbers, for JSON has no others."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def show(settings: Settings, content: object, render: Callable[[], None]) -> None:
    """The result on stdout: as JSON when asked for, otherwise as `render` prints it."""
    if settings.json:
        print_json(content)
    else:
        render()
