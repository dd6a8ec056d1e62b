"""Ways to give OpenVINO a batch: one model of a free batch, of this batch, or cut it.

python benchmarks/openvino_batches.py A.weights [B.weights ...] [--batch 1,4,8]
    [--rounds 15] [--threads N]

In every round each way runs once, in changing order; the table has the medians, and how
many times as fast as the free batch each way is (median over rounds).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _environment import heading

import boxwright
from boxwright.backends.openvino.runtime import core
from boxwright.evaluate.machine import default_threads
from boxwright.model import IMAGES, Model

Run = Callable[[], Any]


def compile_for(model: Model, extent: int, threads: int, **more: Any) -> Any:
    """A compiled model for batches of `extent`, or -1 for any."""
    network = core().read_model(model.proto.SerializeToString())
    network.reshape({0: [extent, *model.card.input_size, 3]})
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        **more,
    }
    return core().compile_model(network, "CPU", settings)


def one_request(compiled: Any, images: Any, step: int) -> Run:
    """Runs a batch in pieces of `step`, one after the other."""
    request = compiled.create_infer_request()

    def run() -> None:
        for first in range(0, len(images), step):
            piece = images[first : first + step]
            request.infer({IMAGES: piece}, share_inputs=True, share_outputs=True)

    return run


def ways(model: Model, free: Any, single: Any, batch: int, threads: int) -> dict[str, Run]:
    """Each way of running this batch, warmed up."""
    shape = (batch, *model.card.input_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    fixed = single if batch == 1 else compile_for(model, batch, threads)
    found = {
        "free batch": one_request(free, images, batch),
        "fixed batch": one_request(fixed, images, batch),
        "cut into ones": one_request(single, images, 1),
    }
    for run in found.values():
        run()
        run()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--batch", default="1,4,8")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=default_threads())
    given = parser.parse_args()
    print(heading())
    print(f"# threads: {given.threads}, rounds: {given.rounds}")
    dice = random.Random(0)
    for weights in given.weights:
        model = boxwright.import_model(weights)
        free = compile_for(model, -1, given.threads)
        single = compile_for(model, 1, given.threads)
        print(f"\n## {weights.name}\n")
        print("| batch | way | ms a batch: min | p50 | times as fast as a free batch |")
        print("|---|---|---|---|---|")
        for batch in map(int, given.batch.split(",")):
            runs = ways(model, free, single, batch, given.threads)
            times: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(given.rounds):
                for name in dice.sample(list(runs), len(runs)):
                    started = time.perf_counter()
                    runs[name]()
                    times[name].append(1e3 * (time.perf_counter() - started))
            base = np.array(times["free batch"])
            for name, taken in times.items():
                ratio = np.median(base / np.array(taken))
                cells = f"{min(taken):.2f} | {np.median(taken):.2f} | {ratio:.2f}"
                print(f"| {batch} | {name} | {cells} |")


if __name__ == "__main__":
    main()
