"""What benchmarks of INT8 are given."""

from __future__ import annotations

import argparse
from pathlib import Path


def int8_parser(description: str | None) -> argparse.ArgumentParser:
    """Models, images to calibrate on, labelled ones to measure on, and a file for the page."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--calibration", type=Path, nargs="+", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--output", type=Path, help="a file for the output as well")
    return parser
