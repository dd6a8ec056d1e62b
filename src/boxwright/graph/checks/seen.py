"""What a check saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boxwright.graph.view import Place


@dataclass(frozen=True)
class Seen:
    """One thing worth judging.

    Attributes:
        code: The rule it comes under.
        what: What was seen, with its numbers.
        place: The node, or ``None`` where it is the whole graph or a tensor.
        subject: The tensor, where it is about one rather than about a node.
        curable: Whether the rule's cure applies to this very case.
    """

    code: str
    what: str
    place: Place | None = None
    subject: str = ""
    curable: bool = True
