"""Whether a plan fits this machine, told from its fingerprint alone."""

from __future__ import annotations

import pytest

from boxwright import backends
from boxwright.backends.options import make_spec
from boxwright.backends.plans import fit

_HERE = backends.get("onnxruntime").fingerprint(make_spec("fp32", (1, 2, 4), "auto", None))


def test_a_plan_made_here_fits() -> None:
    assert fit(_HERE) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # Not a fingerprint at all.
        ("plan", "another form"),
        # A backend nobody installed.
        ("nobody_1_cpu_fp32_b1-1-1", "unknown backend 'nobody'"),
        # A batch that is no three numbers, or falls.
        (_HERE.replace("b1-2-4", "b1-2"), "not enough values"),
        (_HERE.replace("b1-2-4", "b4-2-1"), "1 <= smallest"),
        # Another version of the runtime.
        ("_".join(["onnxruntime", "0.0", *_HERE.split("_")[2:]]), "version 0.0 (here "),
    ],
)
def test_any_other_text_gets_a_reason(text: str, reason: str) -> None:
    assert reason in (fit(text) or "it fits")
