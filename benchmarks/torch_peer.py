"""The PyTorch peer of `boxwright bench`: float16 on a GPU against float32 on the CPU.

    python benchmarks/torch_peer.py yolov4-tiny.onnx

Needs PyTorch and onnx, not ONNX Runtime.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from boxwright.evaluate.torch_peer import TorchPeer
from boxwright.model import Model

RUNS, WARM_UP, THREADS = 50, 10, 8


def main() -> int:
    """Command line; 1 where there is no GPU to compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    model = Model.load(parser.parse_args().model)
    height, width = model.card.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (32, height, width, 3), np.uint8)
    cpu, gpu = TorchPeer(model, "cpu", THREADS), TorchPeer(model, "auto", THREADS)
    print(f"# {gpu.backend}, {gpu.precision}, on {gpu.device_name}; numpy {np.__version__}")
    if gpu.precision != "fp16":
        print("error: PyTorch sees no GPU here", file=sys.stderr)
        return 1
    expected = cpu.tensors(cpu.network(pixels[:8]))
    got = gpu.tensors(gpu.network(pixels[:8]))
    for name, values in expected.items():
        difference = got[name] - values
        error = np.linalg.norm(difference) / np.linalg.norm(values)
        print(f"{name}: nrmse {error:.1e}, largest difference {np.abs(difference).max():.2g}")
    for batch in (1, 8, 32):
        durations = []
        for run in range(WARM_UP + RUNS):
            started = time.perf_counter()
            gpu.network(pixels[:batch])
            if run >= WARM_UP:
                durations.append(time.perf_counter() - started)
        median = 1e3 * statistics.median(durations)
        print(f"batch {batch}: {median:.2f} ms with transfers, median of {RUNS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
