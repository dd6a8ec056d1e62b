"""Decoding and resizing one photo with OpenCV and with Pillow, one thread each.

python benchmarks/image_libraries.py dog.jpg
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from _environment import heading
from PIL import Image

SIDE, RUNS = 416, 40


def median_ms(work: Callable[[], object]) -> float:
    """Median duration of `RUNS` calls."""
    durations = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return 1e3 * statistics.median(durations)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photo", type=Path, help="a JPEG")
    data = parser.parse_args().photo.read_bytes()
    cv2.setNumThreads(1)
    content = np.frombuffer(data, np.uint8)
    pixels = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        print("error: not an image that OpenCV reads", file=sys.stderr)
        return 1
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    print(heading())
    print(f"# photo: {picture.width} x {picture.height}, to {SIDE} x {SIDE}, medians of {RUNS}\n")
    print("| ms | OpenCV | Pillow |\n|---|---|---|")
    decoded = (
        median_ms(lambda: cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)),
        median_ms(lambda: np.asarray(Image.open(io.BytesIO(data)))),
    )
    resized = (
        median_ms(lambda: cv2.resize(pixels, (SIDE, SIDE))),
        median_ms(lambda: np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))),
    )
    for name, (ours, theirs) in (("decode", decoded), ("resize", resized)):
        print(f"| {name} | {ours:.1f} | {theirs:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
