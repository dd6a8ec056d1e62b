"""Write docs/reference/mxnet-operators.md from the operators that the importer registers.

python tools/make_mxnet_reference.py           write it
python tools/make_mxnet_reference.py --check   exit 1 when it is stale
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from _page import write_or_check

from boxwright.importers.mxnet import arithmetic, boxes, layers, pooling, shaping
from boxwright.importers.mxnet.writer import OPERATORS

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "mxnet-operators.md"

HEADER = """# MXNet's operators

<!-- Written by tools/make_mxnet_reference.py from the docstrings in
     src/boxwright/importers/mxnet; change them there, then `make docs`. -->

What `boxwright import` reads of a `symbol.json`. Names that mean the same, or that older
releases of MXNet wrote, stand together. Of every row at least one operator was held against
MXNet 1.9.1 on random weights and pixels (`tests/importers/mxnet/test_operators.py`): the
largest difference is within 1e-5 of the largest value. What is not here is refused with the
node that asks for it.
"""

FOOTER = """
## Only as a detector's last operators

`_contrib_MultiBoxDetection` (MXNet's SSD) and `_contrib_box_nms` (GluonCV's SSD and YOLOv3)
suppress; Boxwright does that itself, after the graph, by the thresholds they state. They are
taken apart: `boxes` and `scores` are what they were given.

## Restrictions

Convolutions and pooling are two-dimensional, planes first (`NCHW`). Weights must be in the
parameters. The images of a batch stay independent: nothing may mix or cut them. Control flow
(`_foreach`, `_cond`), custom operators and sparse arrays are refused.
"""

SECTIONS: dict[str, ModuleType] = {
    "Layers with weights": layers,
    "Pooling": pooling,
    "Elements, sums, softmax": arithmetic,
    "Shapes": shaping,
    "Anchors and boxes": boxes,
}


def page() -> str:
    """The whole page."""
    return HEADER + "".join(_section(*item) for item in SECTIONS.items()) + FOOTER


def _section(title: str, module: ModuleType) -> str:
    names: dict[str, list[str]] = {}
    for name, function in OPERATORS.items():
        if function.__module__ == module.__name__:
            text = " ".join((function.__doc__ or "").split("\n\n")[0].split())
            names.setdefault(text.replace("``", "`"), []).append(f"`{name}`")
    rows = "".join(f"| {', '.join(listed)} | {text} |\n" for text, listed in names.items())
    return f"\n## {title}\n\n| operators | what becomes of them |\n|---|---|\n{rows}"


if __name__ == "__main__":
    sys.exit(write_or_check(TARGET, page, __doc__))
