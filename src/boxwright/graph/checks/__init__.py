"""What to look for in a graph. Checks see; :mod:`boxwright.graph.rules` judges.

A check is a function from a :class:`~boxwright.graph.view.View` and a target to what it saw.
Most ignore the target: whether it minds is the table's business. Those that compare with a
number or a list of the target (opset, IR version, operators) ask it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from boxwright.graph.checks import container, operators, quantized, shapes, structure, types
from boxwright.graph.checks.seen import Seen
from boxwright.graph.targets import Target
from boxwright.graph.view import View

Check = Callable[[View, Target], Iterator[Seen]]

CHECKS: tuple[Check, ...] = (
    *container.CHECKS,
    *structure.CHECKS,
    *types.CHECKS,
    *operators.CHECKS,
    *shapes.CHECKS,
    *quantized.CHECKS,
)
"""In the order in which their findings are listed."""
