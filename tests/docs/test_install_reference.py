"""docs/reference/install.md says what `boxwright doctor` says, and so does the how-to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from boxwright.doctor.report import examine
from tests.doctor.machines import BASE, gpu, workstation

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_install_reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_finding_in_the_how_to_is_a_real_one() -> None:
    name, version = "tensorrt-cu13", "10.14.1.48"
    packages = dict.fromkeys((name, f"{name}-libs", f"{name}-bindings"), version)
    machine = workstation(
        "525.60.13", 12000, gpu("NVIDIA A10G", "8.6"), packages={**BASE, **packages}
    )
    (found,) = [f for f in examine(machine).findings if f.code == "tensorrt-driver"]
    text = (ROOT / "docs" / "how-to" / "check-a-machine.md").read_text(encoding="utf-8")
    shown = [
        f"error {found.what}",
        *(f"      {line}" for line in (found.why, found.advice)),
        *(f"  $ {line}" for line in found.commands),
    ]
    assert "\n".join(shown) in text
