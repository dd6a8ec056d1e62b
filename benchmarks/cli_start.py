"""How long `boxwright --help` takes, as a new process each time.

python benchmarks/cli_start.py [-n 21]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from _environment import heading

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "boxwright --help": ["-m", "boxwright", "--help"],
    "boxwright detect --help": ["-m", "boxwright", "detect", "--help"],
}


def measure(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=21, help="how often")
    rounds = parser.parse_args().n
    print(heading())
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():
        measure(arguments)  # fills the file cache and writes .pyc files
    # Interleaved, so that a drift of the machine reaches all alike.
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(measure(arguments))
    print("\n| command | median ms | lowest | highest |\n|---|---|---|---|")
    for name, values in times.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"| `{name}` | {middle * 1e3:.0f} | {low * 1e3:.0f} | {high * 1e3:.0f} |")


if __name__ == "__main__":
    main()
