"""Damage files at random, and see that none crashes, hangs or leaves half a file behind.

    python tools/fuzz.py --count 25000

Each attempt runs in a worker process with a time limit, so that a crash or a hang of native
code is caught as well. What fails is kept, and can be had again by its seed and number.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LIMIT_SECONDS = 5.0


def work(name: str, folder: Path, count: int, seed: int, skip: int, pipe: Connection) -> None:
    """Attempt the cases from number `skip` on, telling the parent before and after each."""
    from tests.hostile.attempts import TARGETS, cases, leftovers

    logging.disable(logging.CRITICAL)
    target = TARGETS[name]
    for number, (what, path) in enumerate(cases(target, folder, count, seed)):
        if number < skip:
            continue
        pipe.send(("start", number, what))
        try:
            outcome = target.attempt(path)
        except Exception as error:
            outcome = f"crashed: {error!r}"
        if left := leftovers(folder):
            outcome = f"left behind: {left[0].name}"
        pipe.send(("end", number, outcome))
    pipe.send(("done", count, ""))


def fuzz(name: str, count: int, seed: int, keep: Path) -> Counter[str]:
    """All cases of one target; a worker that dies or hangs is replaced."""
    outcomes: Counter[str] = Counter()
    skip, started = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        while skip < count:
            skip = _run_worker(name, Path(temporary), count, seed, skip, keep, outcomes, started)
    print(f"{name}: {count} files, " + ", ".join(f"{n} {o}" for o, n in outcomes.most_common(12)))
    return outcomes


def _run_worker(
    name: str,
    folder: Path,
    count: int,
    seed: int,
    skip: int,
    keep: Path,
    outcomes: Counter[str],
    started: float,
) -> int:
    """Follow one worker to its end; returns the number to go on from."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    arguments = (name, folder, count, seed, skip, theirs)
    worker = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    worker.start()
    theirs.close()
    number, what, waiting_since = skip, "start", time.monotonic()
    try:
        while True:
            # The first message waits for imports and for the cases skipped.
            limit = LIMIT_SECONDS if what != "start" else 600.0
            if not ours.poll(max(limit - (time.monotonic() - waiting_since), 0.001)):
                _finding(name, what, "hung", folder, keep, outcomes)
                return number + 1
            kind, number, text = ours.recv()
            waiting_since = time.monotonic()
            if kind == "done":
                return count
            if kind == "start":
                what = text
                continue
            if text in ("used", "refused"):
                outcomes[text] += 1
            else:
                _finding(name, what, text, folder, keep, outcomes)
            if number % 500 == 0 and number:
                done = (number + 1) / count
                left = (time.monotonic() - started) * (1 - done) / done
                print(f"{name}: {number}/{count}, about {left:.0f} s left", file=sys.stderr)
    except EOFError:
        _finding(name, what, "killed its process", folder, keep, outcomes)
        return number + 1
    finally:
        worker.kill()
        worker.join()


def _finding(
    name: str, what: str, outcome: str, folder: Path, keep: Path, outcomes: Counter[str]
) -> None:
    outcomes[outcome] += 1
    keep.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("damaged.*"):
        shutil.copy(path, keep / f"{name}-{sum(outcomes.values())}{path.suffix}")
    print(f"{name}: {what}: {outcome}", file=sys.stderr)


def main() -> int:
    """Command line; 1 when anything was found."""
    targets = (
        "cfg",
        "weights",
        "model",
        "graph",
        "export",
        "caffe",
        "mxnet",
        "checkpoint",
        "tensorflow",
        "saved_model",
        "engine",
        "calibration",
        "legacy_cache",
    )
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=25_000, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=targets, nargs="*", default=targets)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    arguments = parser.parse_args()
    found = 0
    for name in arguments.target:
        outcomes = fuzz(name, arguments.count, arguments.seed, arguments.keep)
        found += sum(n for outcome, n in outcomes.items() if outcome not in ("used", "refused"))
    print("nothing found" if not found else f"{found} findings in {arguments.keep}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
