"""Groups of options that more than one verb has, written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from boxwright.cli.common import NameValue, Number, Size

_FILE = click.Path(path_type=Path)


def collect_settings(
    ctx: click.Context, option: click.Parameter, pairs: tuple[tuple[str, Any], ...]
) -> dict[str, Any]:
    """What a repeatable ``NAME=VALUE`` option gave, as a dictionary; a callback for click."""
    collected: dict[str, Any] = {}
    for name, value in pairs:
        if name in collected:
            raise click.BadParameter(f"{name!r} is given twice", ctx, option)
        collected[name] = value
    return collected


def backend_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--option NAME=VALUE``, for settings that one backend only has.

    The verb gets a dictionary named ``options``; which names there are, and which values
    they take, is the backend's to check.
    """
    return click.option(
        "--option",
        "options",
        type=NameValue(),
        multiple=True,
        callback=collect_settings,
        help="Setting of this backend only, such as num_streams=2; repeatable.",
    )(function)


def import_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what may be said of trained weights that their files do not say.

    The verb gets a parameter for each argument of :func:`boxwright.import_model` but the
    weights and the progress, with ``format_`` for its ``format``.
    """
    for option in reversed(
        (
            click.option("--format", "format_", help="Format of WEIGHTS.  [default: told from it]"),
            click.option(
                "--cfg",
                type=_FILE,
                help="Darknet cfg or Caffe prototxt.  [default: beside WEIGHTS, same name]",
            ),
            click.option("--names", type=_FILE, help="Class names, one per line."),
            click.option("--data", type=_FILE, help="Darknet .data file, for its class names."),
            click.option(
                "--size",
                type=Size(),
                metavar="HxW",
                help="Input size, height x width.  [default: the network's]",
            ),
            click.option(
                "--resize",
                type=click.Choice(["letterbox", "stretch"]),
                help="How images are brought to that size.  [default: as the source did]",
            ),
            click.option(
                "--interpolation",
                type=click.Choice(["darknet", "opencv"]),
                help="How pixels are interpolated.  [default: as the source did]",
            ),
            click.option("--licence", help="Licence of the weights, kept on the card."),
            click.option(
                "--head", help="Family of the head, such as yolox, where no file says it."
            ),
            click.option(
                "--option",
                "options",
                type=NameValue(),
                multiple=True,
                callback=collect_settings,
                help="Setting of this format only, such as channels=bgr; repeatable.",
            ),
        )
    ):
        function = option(function)
    return function


def speed_budgets(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--min-fps`` and ``--max-latency``, both of whole images: file to boxes."""
    for option in reversed(
        (
            click.option("--min-fps", type=Number(0), help="Budget: images/s, file to boxes."),
            click.option("--max-latency", type=Number(0), help="Budget: ms (p90), file to boxes."),
        )
    ):
        function = option(function)
    return function
