"""Boxwright on ONNX Runtime beside ONNX Runtime alone and OpenCV DNN, on the same pixels.

python benchmarks/onnxruntime_vs_peers.py A.weights [B.weights ...] --images FOLDER
    [--batch 1,8] [--rounds 12] [--seconds 6] [--threads N] [--output FILE]

The cfg and ``coco.names`` of each are looked for beside its weights.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from _environment import heading

import boxwright
from boxwright.evaluate.benchmark import BenchmarkResult, Plan, benchmark
from boxwright.evaluate.stages import STAGES
from boxwright.images import find_images

CUT = 32


def page(result: BenchmarkResult, weights: Path) -> Iterator[str]:
    """One network's part of the output, in Markdown."""
    threads = result.settings["threads"]
    yield f"\n## {weights.name}, {threads} threads, {result.images['count']} images\n"
    yield "| batch | contender | network ms: min | p50 | p90 | p99 | images/s | end to end: p50 |"
    yield "|---|---|---|---|---|---|---|---|"
    for item in result.measurements:
        times = (item.network.min, item.network.p50, item.network.p90, item.network.p99)
        yield (
            f"| {item.batch} | {item.contender} | "
            + " | ".join(f"{value:.2f}" for value in times)
            + f" | {item.images_per_second:.1f} | {item.end_to_end.p50:.2f} |"
        )
    yield "\nWhere the time goes, median ms an image:\n"
    yield f"| batch | contender | {' | '.join(STAGES)} |"
    yield "|---|---|" + "---|" * len(STAGES)
    for item in result.measurements:
        cells = (f"{item.stages[name].p50 / item.batch:.2f}" for name in STAGES)
        yield f"| {item.batch} | {item.contender} | {' | '.join(cells)} |"
    yield "\nTimes as fast as the peer (median of rounds, 95 % bootstrap interval):\n"
    yield "| batch | peer | network | end to end | same answer |"
    yield "|---|---|---|---|---|"
    answers = {item.name: item.agreement for item in result.participants}
    for ratio in result.ratios:
        agreement = answers[ratio.peer]
        assert agreement is not None
        answer = "yes" if agreement.agrees else f"no: {agreement.reason}"
        cells = (
            f"{part.median:.3f} ({part.low:.3f} to {part.high:.3f})"
            for part in (ratio.network, ratio.end_to_end)
        )
        yield f"| {ratio.batch} | {ratio.peer} | {' | '.join(cells)} | {answer} |"
    quiet = "; ".join(result.noise.reasons) or "nothing seen that would spoil the numbers"
    yield f"\nThe machine: {quiet}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--images", required=True)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, help="a file for the output as well")
    given = parser.parse_args()
    plan = Plan(tuple(map(int, given.batch.split(","))), given.rounds, given.seconds)
    lines = [heading()]
    for weights in given.weights:
        names = weights.with_name("coco.names")
        with tempfile.TemporaryDirectory() as scratch:
            model = boxwright.import_model(weights, names=names if names.is_file() else None)
            engine = boxwright.build(model, output=Path(scratch) / f"{weights.stem}.bw")
            result = benchmark(
                engine,
                ["bare", weights],
                images=find_images(given.images)[:CUT],
                plan=plan,
                threads=given.threads,
            )
        if len(lines) == 1:
            lines.append(f"# measured: {result.created}")
            lines.append(f"# load average before: {result.environment['before']['load_average']}")
        lines += page(result, weights)
    text = "\n".join(lines) + "\n"
    print(text)
    if given.output is not None:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
