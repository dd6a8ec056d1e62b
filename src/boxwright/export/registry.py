"""Which formats there are to give a model out in. None is imported before it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from boxwright.backends.options import explain_unknown
from boxwright.errors import InputError

if TYPE_CHECKING:
    from boxwright.engine import Engine
    from boxwright.model import Model
    from boxwright.progress import ProgressCallback

# Format -> module:class of its target.
_TARGETS = {
    "plan": "boxwright.export.plan:PlanTarget",
    "onnx": "boxwright.export.onnx:OnnxTarget",
    "openvino": "boxwright.export.openvino:OpenVinoTarget",
}


@dataclass(frozen=True)
class Request:
    """What to write.

    Attributes:
        source: The engine or model.
        output: The file to write; a target of several files puts the others beside it.
        plan: Fingerprint of the plan that was asked for.
        device: What a plan is to run on.
        seed: Of random images.
        progress: Told how far it is.
    """

    source: Engine | Model
    output: Path
    plan: str | None
    device: str
    seed: int
    progress: ProgressCallback


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        to: The format.
        files: What was written, the main file first.
        facts: What else there is to say, such as how it was checked; JSON values.
    """

    to: str
    files: tuple[Path, ...]
    facts: dict[str, Any] = field(default_factory=dict)


class Target(Protocol):
    """A format."""

    @property
    def suffix(self) -> str:
        """Of the main file, with the dot."""
        ...

    def paths(self, output: Path) -> tuple[Path, ...]:
        """Every file that is written for this main file, the main file first."""
        ...

    def write(self, request: Request) -> Exported:
        """Write all files or none; raises as :func:`boxwright.export.export`."""
        ...


def names() -> tuple[str, ...]:
    """Names of all formats."""
    return tuple(_TARGETS)


def get(name: str) -> Target:
    """The target for a format.

    Raises:
        InputError: There is none of that name.
    """
    if name not in _TARGETS:
        raise InputError(explain_unknown("format to export to", str(name), _TARGETS))
    module, _, attribute = _TARGETS[name].partition(":")
    target: Target = getattr(importlib.import_module(module), attribute)()
    return target


def refuse_plan(request: Request, name: str) -> None:
    """Refuse the choice of a plan for a format that holds the model.

    Raises:
        InputError: A plan was asked for.
    """
    if request.plan is not None:
        raise InputError(
            f"format {name} holds the portable model, not a plan; leave --plan out, or "
            "export --to plan"
        )
