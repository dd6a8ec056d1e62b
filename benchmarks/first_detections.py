"""How long a newcomer waits: from `git clone` to boxes on pictures.

    python benchmarks/first_detections.py

Clones this repository into an empty folder, runs `make demo` there as the README says, and
times both. Nothing is cached by us; pip may have a cache of its own, which is said.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _environment import heading

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Command line; the demo's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--no-pip-cache", action="store_true", help="download every package anew")
    arguments = parser.parse_args()
    print(heading())
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "boxwright"
        started = time.monotonic()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        cloned = time.monotonic()
        command = ["make", "demo"]
        if arguments.no_pip_cache:
            command = ["env", "PIP_NO_CACHE_DIR=1", *command]
        demo = subprocess.run(command, cwd=clone, check=False, capture_output=True, text=True)
        done = time.monotonic()
        drawn = sorted(clone.glob("demo/**/*.jpg"))
    print(f"| git clone | {cloned - started:.1f} s |\n|---|---|")
    print(f"| make demo: environment, packages, weights, engine, boxes | {done - cloned:.1f} s |")
    print(f"| together | {done - started:.1f} s |")
    if demo.returncode or not drawn:
        print(demo.stdout[-2000:], demo.stderr[-2000:], file=sys.stderr)
    return demo.returncode


if __name__ == "__main__":
    sys.exit(main())
