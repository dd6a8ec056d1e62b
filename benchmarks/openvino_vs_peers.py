"""Boxwright on OpenVINO beside OpenVINO alone and ONNX Runtime, on the same pixels.

python benchmarks/openvino_vs_peers.py A.weights [B.weights ...] --images FOLDER
    [--batch 1,8] [--usual 1] [--rounds 12] [--seconds 6] [--threads N]
    [--precision f32|bf16] [--output FILE]

The cfg and ``coco.names`` of each are looked for beside its weights. ``--usual`` is the
batch size the engine is built for.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from _environment import heading
from onnxruntime_vs_peers import CUT, page

import boxwright
from boxwright.evaluate.benchmark import Plan, benchmark
from boxwright.images import find_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--images", required=True)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--usual", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", default="f32", choices=("f32", "bf16"))
    parser.add_argument("--output", type=Path, help="a file for the output as well")
    given = parser.parse_args()
    plan = Plan(tuple(map(int, given.batch.split(","))), given.rounds, given.seconds)
    lines = [heading(), f"# built for batch {given.usual}, computing in {given.precision}"]
    for weights in given.weights:
        names = weights.with_name("coco.names")
        with tempfile.TemporaryDirectory() as scratch:
            model = boxwright.import_model(weights, names=names if names.is_file() else None)
            engine = boxwright.build(
                model,
                backend="openvino",
                batch=(1, given.usual, max(16, given.usual)),
                options={"inference_precision": given.precision},
                output=Path(scratch) / f"{weights.stem}.bw",
            )
            result = benchmark(
                engine,
                ["bare", "onnxruntime"],
                images=find_images(given.images)[:CUT],
                plan=plan,
                threads=given.threads,
            )
        if len(lines) == 2:
            lines.append(f"# measured: {result.created}")
            lines.append(f"# load average before: {result.environment['before']['load_average']}")
        lines += page(result, weights)
    text = "\n".join(lines) + "\n"
    print(text)
    if given.output is not None:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
