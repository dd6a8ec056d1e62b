"""Checking names and settings that users give, with a hint where one was misspelt."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, get_args

from boxwright.backends.base import BuildSpec, Precision
from boxwright.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from boxwright.model import Model

DEFAULT_BACKEND = "onnxruntime"
DEFAULT_BATCH = (1, 1, 16)

RUNS_CODE = frozenset({"plugins"})
"""Options that name files to run code from: a user gives them, an engine file never."""


def explain_unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A message for a name that does not exist: which do, and which was probably meant."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}; there are: {', '.join(names) or 'none'}{hint}"


def make_spec(
    precision: str, batch: tuple[int, int, int], device: str, options: Mapping[str, Any] | None
) -> BuildSpec:
    """A checked :class:`~boxwright.backends.base.BuildSpec`.

    Raises:
        InputError: A value is out of range; the message says what it must be.
    """
    for known in get_args(Precision):
        if precision == known:
            break
    else:
        raise InputError(explain_unknown("precision", str(precision), get_args(Precision)))
    sizes = tuple(batch)
    if (
        len(sizes) != 3
        or not all(type(size) is int for size in sizes)
        or not 1 <= sizes[0] <= sizes[1] <= sizes[2]
    ):
        raise InputError(
            f"batch must be three whole numbers, 1 <= smallest <= usual <= largest, got {batch!r}"
        )
    if not isinstance(device, str) or not device:
        raise InputError(f"device must be a name such as 'auto' or 'cpu', got {device!r}")
    return BuildSpec(known, (sizes[0], sizes[1], sizes[2]), device, dict(options or {}))


def precision_for(model: Model, asked: str | None) -> str:
    """The precision to build a model in: what is asked for, where the model is made for it.

    Raises:
        InputError: INT8 is asked of a model in float, or anything else of one in INT8.
    """
    if asked is None:
        return "int8" if model.quantized else "fp32"
    if asked == "int8" and not model.quantized:
        raise InputError(
            f"{model.card.name} is not quantised, so it cannot be built in int8; quantise it "
            "first: boxwright quantize"
        )
    if asked != "int8" and model.quantized and asked in get_args(Precision):
        raise InputError(
            f"{model.card.name} is quantised: its precision is int8, got {asked}; for {asked} "
            "build the model that it was made from"
        )
    return asked


def check_options(backend: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse settings a backend does not have.

    Raises:
        InputError: A name is not among `known`.
    """
    names = tuple(known)
    for name in options:
        if name not in names:
            raise InputError(explain_unknown(f"option of backend {backend}", str(name), names))
