"""The runtimes that a graph can be judged for, version by version.

What is known of each comes from its makers' documents, and where the runtime could be run,
from running it; every :class:`Target` names its sources.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from boxwright.errors import InputError
from boxwright.graph import operators

Column = Literal["8.6", "10.0", "10.15", "11", "rtx", "onnxruntime", "ov2024", "ov2025", "ov2026"]
COLUMNS: tuple[Column, ...] = get_args(Column)
"""The columns of the table in :mod:`boxwright.graph.rules`; a target is judged by one."""


@dataclass(frozen=True)
class Target:
    """One version of one runtime.

    Attributes:
        family: ``tensorrt``, ``tensorrt-rtx``, ``onnxruntime`` or ``openvino``.
        version: The version that is judged by; its text follows an ``@``.
        column: Which column of the rules holds for it.
        opsets: The oldest and newest opset of the standard operators that it documents.
        opset_is_enforced: Whether a newer opset is refused by its number alone.
        ir_version: The newest IR version it reads, or ``None`` where it does not look.
        sources: Where this comes from, for people.
        remark: Said once with the verdict, such as that a newer version was asked for.
    """

    family: str
    version: tuple[int, int]
    column: Column
    opsets: tuple[int, int]
    opset_is_enforced: bool
    ir_version: int | None
    sources: tuple[str, ...]
    remark: str | None = None

    @property
    def name(self) -> str:
        """As users write it: ``tensorrt@8.6``."""
        return f"{self.family}@{self.version[0]}.{self.version[1]}"

    @property
    def is_tensorrt(self) -> bool:
        """Whether its parser is one of NVIDIA's."""
        return self.family in ("tensorrt", "tensorrt-rtx")

    @property
    def known_operators(self) -> frozenset[str] | None:
        """All that NVIDIA's parser of this version converts; ``None`` for other families."""
        if self.family == "tensorrt-rtx":
            return operators.TENSORRT_RTX_1
        return operators.tensorrt(self.version) if self.is_tensorrt else None

    def refuses(self, operator: str) -> bool:
        """Whether an operator of the ONNX standard has no conversion here."""
        if (known := self.known_operators) is not None:
            return operator not in known
        if self.family == "openvino":
            missing = operators.OPENVINO_MISSING
            if self.column != "ov2026":
                missing |= operators.OPENVINO_IN_PATTERNS
            return operator in missing
        return False

    def is_uncertain(self, operator: str) -> bool:
        """Whether the sources do not say if this version converts an operator."""
        return self.column == "10.0" and operator in operators.UNCERTAIN_IN_10


def known_targets() -> tuple[Target, ...]:
    """Every target there is a judgement for, oldest version first in each family."""
    return _TARGETS


def find_target(text: str) -> Target:
    """The target called `text`: ``tensorrt@8.6``, or ``openvino`` for its newest version.

    A version without a minor number is that major's first. One between two known ones is
    judged by the older, one beyond the newest by the newest; the target's remark says so.

    Raises:
        InputError: No runtime is called that, or its version is older than any known.
    """
    match = re.fullmatch(
        r"([a-z][a-z-]*)(?:@(\d{1,4})(?:\.(\d{1,3}))?(?:\.\d{1,5}){0,2})?", text.strip()
    )
    families = list(dict.fromkeys(target.family for target in _TARGETS))
    if match is None or match[1] not in families:
        near = difflib.get_close_matches(text.partition("@")[0], families, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"unknown target {text!r}; expected one of {', '.join(families)}, each with a "
            f"version if you like, such as tensorrt@8.6{hint}"
        )
    same = [target for target in _TARGETS if target.family == match[1]]
    if match[2] is None:
        return same[-1]
    asked = (int(match[2]), int(match[3] or 0))
    older = [target for target in same if target.version <= asked]
    if not older:
        raise InputError(
            f"nothing is known of {text}; the oldest {match[1]} to be judged for is {same[0].name}"
        )
    if older[-1].version == asked:
        return older[-1]
    label = f"{match[1]}@{asked[0]}.{asked[1]}"
    remark = f"nothing is known of {label} itself: it is judged as {older[-1].name}"
    return replace(older[-1], remark=remark)


_SOURCE = operators.SOURCES


def _tensorrt(
    version: tuple[int, int], column: Column, opsets: tuple[int, int], *sources: str
) -> Target:
    return Target(
        "tensorrt", version, column, opsets, False, None, tuple(_SOURCE[s] for s in sources)
    )


def _all() -> Iterable[Target]:
    changelog = "onnx-tensorrt changelog"
    # No opset is refused by its number; below 9 nothing is promised.
    yield _tensorrt((8, 6), "8.6", (9, 17), "tensorrt 8.6 run", "onnx-tensorrt 8.5", changelog)
    for minor in (0, 1, 4, 5):
        yield _tensorrt((10, minor), "10.0", (9, 19), "onnx-tensorrt 9.2", changelog)
    yield _tensorrt((10, 15), "10.15", (9, 24), "onnx-tensorrt 10.15")
    # RTX has 11's interface and can be run; 11's own documents were not to be had.
    yield _tensorrt((11, 0), "11", (9, 24), "onnx-tensorrt 10.15", "rtx parser")
    rtx = tuple(_SOURCE[name] for name in ("rtx parser",))
    yield Target("tensorrt-rtx", (1, 0), "rtx", (7, 26), False, None, rtx,
                 "only TensorRT-RTX 1.7 was run")  # fmt: skip
    yield Target("tensorrt-rtx", (1, 7), "rtx", (7, 26), False, None, rtx)
    run = (_SOURCE["onnxruntime run"],)
    # (opset, IR version) up to which that release was seen to load a graph; 7 is documented.
    newest = {18: (21, 10), 20: (21, 10), 22: (22, 10), 24: (25, 13), 26: (26, 13),
              28: (26, 13), 31: (26, 13)}  # fmt: skip
    for minor, (opset, ir) in newest.items():
        yield Target("onnxruntime", (1, minor), "onnxruntime", (7, opset), True, ir, run)
    openvino = (_SOURCE["openvino run"],)
    for year, minor, column in _OPENVINO:
        yield Target("openvino", (year, minor), column, (6, 26), False, None, openvino)


_OPENVINO: tuple[tuple[int, int, Column], ...] = (
    (2024, 0, "ov2024"), (2024, 6, "ov2024"), (2025, 0, "ov2025"), (2025, 4, "ov2025"),
    (2026, 0, "ov2026"), (2026, 4, "ov2026"),
)  # fmt: skip

_TARGETS: tuple[Target, ...] = tuple(_all())
