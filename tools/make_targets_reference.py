"""Write docs/reference/targets.md from the tables of the graph doctor.

python tools/make_targets_reference.py           write it
python tools/make_targets_reference.py --check   exit 1 when it is stale
"""

from __future__ import annotations

import sys
from pathlib import Path

from _page import write_or_check

from boxwright.graph.legalise import ORDER, PASSES
from boxwright.graph.operators import SOURCES
from boxwright.graph.rules import RULES, Verdict
from boxwright.graph.targets import COLUMNS, Column, known_targets

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "targets.md"

HEADER = """# What each runtime takes

<!-- Written by tools/make_targets_reference.py from boxwright.graph; then `make docs`. -->

The tables that `boxwright inspect --for` judges by
([how to use it](../how-to/inspect-for-a-target.md)).

## Targets

A version that is not listed is judged by the next older one, one beyond the newest by the
newest, and the verdict says so. Without a minor number, `tensorrt@10` is 10.0. Without a
version it is the newest.

| target | opsets | newest IR version | column below |
|---|---|---|---|
"""

LEGEND = """
## Findings

**E** error: refused while parsing (*p*) or while building (*b*), accepted with another
result (*r*), or the parser crashes (*c*). **W** warning: accepted with a condition, or the
sources do not say.
**N** note: accepted, worth knowing. Empty: nothing to say.
"""

_NAMES: dict[Column, str] = {
    "8.6": "TensorRT 8.6",
    "10.0": "TensorRT 10.0 to 10.14",
    "10.15": "TensorRT 10.15",
    "11": "TensorRT 11",
    "rtx": "TensorRT-RTX",
    "onnxruntime": "ONNX Runtime",
    "ov2024": "OpenVINO 2024",
    "ov2025": "OpenVINO 2025",
    "ov2026": "OpenVINO 2026",
}


def reference() -> str:
    """The whole page."""
    lines = [HEADER.rstrip("\n")]
    for target in known_targets():
        ir = "any" if target.ir_version is None else str(target.ir_version)
        column = _NAMES[target.column]
        lines.append(
            f"| {target.name} | {target.opsets[0]} to {target.opsets[1]} | {ir} | {column} |"
        )
    lines += [LEGEND, _row(["finding", "what", *(_NAMES[c] for c in COLUMNS), "cure"]),
              "|" + "---|" * (len(COLUMNS) + 3)]  # fmt: skip
    for rule in RULES.values():
        cells = [_word(rule.verdicts.get(column)) for column in COLUMNS]
        lines.append(
            _row([f"`{rule.code}`", rule.title, *cells, f"`{rule.cure}`" if rule.cure else ""])
        )
    lines += ["", "## Cures", "", "In the order in which they are tried.", "",
              "| pass | what it does | may differ by |", "|---|---|---|"]  # fmt: skip
    lines += [_pass(name) for name in ORDER]
    lines += ["", "Differences are relative to the largest value of an output; 0 is identical.",
              "", "## Sources", ""]  # fmt: skip
    lines += [f"- {text}" for text in SOURCES.values()]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _word(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    letter = verdict.severity[0].upper()
    return f"{letter}{verdict.stage[0]}" if letter == "E" else letter


def _pass(name: str) -> str:
    summary = (PASSES[name].__doc__ or "").strip().splitlines()[0]
    tolerance, reason = PASSES[name].tolerance, PASSES[name].reason
    allowed = f"{tolerance:g}: {reason}" if tolerance else "0"
    return _row([f"`{name}`", summary, allowed])


if __name__ == "__main__":
    sys.exit(write_or_check(TARGET, reference, __doc__))
