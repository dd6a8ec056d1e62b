"""docs/reference/mxnet-operators.md lists what the importer registers, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from boxwright.importers.mxnet.importer import OPERATOR_MODULES
from boxwright.importers.mxnet.writer import OPERATORS

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_mxnet_reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_operator_is_on_the_page() -> None:
    text = (ROOT / "docs" / "reference" / "mxnet-operators.md").read_text(encoding="utf-8")
    assert OPERATOR_MODULES
    assert [name for name in OPERATORS if f"`{name}`" not in text] == []
