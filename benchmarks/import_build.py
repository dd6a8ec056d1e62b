"""Time and peak memory of importing Darknet weights and building an engine for the CPU.

python benchmarks/import_build.py yolov4-tiny.weights [--cfg FILE] [-n 5]

Each step runs in a process of its own, so that one's memory is not another's.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _environment import heading


def _nothing(weights: str, cfg: str | None, folder: Path) -> None:
    """What the libraries alone take."""
    import numpy
    import onnx
    import onnxruntime

    assert all((numpy, onnx, onnxruntime))


def _import(weights: str, cfg: str | None, folder: Path) -> None:
    import boxwright

    boxwright.import_model(weights, cfg=cfg).save(folder / "model.onnx")


def _build(weights: str, cfg: str | None, folder: Path) -> None:
    import boxwright

    boxwright.build(boxwright.Model.load(folder / "model.onnx"), output=folder / "model.bw")


STEPS = {"libraries only": _nothing, "import": _import, "build": _build}


def step(name: str, weights: str, cfg: str | None, folder: Path) -> None:
    """Run one step and print what it took; called in a new process."""
    started = time.perf_counter()
    STEPS[name](weights, cfg, folder)
    seconds = time.perf_counter() - started
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"seconds": seconds, "peak": peak}))


def measure(name: str, weights: str, cfg: str | None, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, weights, "--step", name, "--folder", str(folder)]
    if cfg:
        command += ["--cfg", cfg]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    outcome: dict[str, Any] = json.loads(done.stdout)
    return {**outcome, "process": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("--cfg")
    parser.add_argument("-n", type=int, default=5, help="how often")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        step(given.step, given.weights, given.cfg, given.folder)
        return
    print(heading())
    size = Path(given.weights).stat().st_size
    print(f"# weights: {Path(given.weights).name}, {size / 2**20:.1f} MiB; median of {given.n}\n")
    print(
        "| step | s | s with start of Python | peak MiB | peak / weights |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for name in STEPS:
            runs = [measure(name, given.weights, given.cfg, Path(scratch)) for _ in range(given.n)]
            seconds, process, peak = (
                statistics.median(run[key] for run in runs)
                for key in ("seconds", "process", "peak")
            )
            print(
                f"| {name} | {seconds:.2f} | {process:.2f} | {peak / 2**20:.0f} "
                f"| {peak / size:.1f} |"
            )


if __name__ == "__main__":
    main()
