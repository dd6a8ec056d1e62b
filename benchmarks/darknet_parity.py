"""Every Darknet cfg in some folders: imported or refused, and how far from its judge.

The judge of a network is, in this order: Darknet's own recorded outputs (an ``.npz`` of the
same name, see `boxwright.evaluate.dump`), else a plain numpy Darknet that is itself held to
those recordings (`tests/oracle/numpy_darknet.py`). OpenCV's Darknet importer is judged in the
same run by the same judge.

    python benchmarks/darknet_parity.py --oracle ../shared/oracle ../shared/oracle/cfg
    python benchmarks/darknet_parity.py ... --json result.json --write

Weights are those beside a cfg (trained); else they are made from a seed by
``seeded_weights.py`` in the oracle folder.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fnmatch
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src"), str(ROOT / "benchmarks")]

from _environment import heading  # noqa: E402
from tests.oracle.numpy_darknet import (  # noqa: E402
    HEADS,
    NumpyDarknet,
    UnsupportedNetworkError,
    parse_cfg,
)

from boxwright.errors import BoxwrightError, WeightsError  # noqa: E402
from boxwright.evaluate.dump import read_dump  # noqa: E402
from boxwright.evaluate.opencv_oracle import OpenCvDarknet  # noqa: E402
from boxwright.evaluate.parity import ParityReport, Tolerances, compare  # noqa: E402
from boxwright.evaluate.reference import Reference, SampledTensor  # noqa: E402
from boxwright.evaluate.subject import read_images  # noqa: E402
from boxwright.importers import import_model  # noqa: E402
from boxwright.model import BOXES, SCORES, Model  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "darknet-parity.md"
START, END = "<!-- begin: benchmarks/darknet_parity.py -->", "<!-- end -->"


@dataclass
class Row:
    """What became of one cfg."""

    cfg: str
    weights: str = ""
    size: str = ""
    judge: str = ""
    result: str = ""
    reason: str = ""
    heads: tuple[float, ...] = ()
    candidates: str = ""
    box_error: float = math.nan
    score_error: float = math.nan
    detections: str = ""
    opencv: str = ""
    seconds: float = 0.0


def main() -> int:
    arguments = read_arguments()
    rows = []
    for cfg in find_cfgs(arguments.folders, arguments.only):
        start = time.perf_counter()
        row = examine(cfg, arguments)
        row.seconds = round(time.perf_counter() - start, 1)
        heads = " ".join(f"{value:.1e}" for value in row.heads)
        print(f"{row.cfg}: {row.result} {row.reason} {heads} ({row.seconds} s)", file=sys.stderr)
        rows.append(row)
    text = f"{table(rows)}\n\n```text\n{heading()}\n```\n"
    print(text)
    if arguments.json:
        content = {"environment": heading(), "rows": [dataclasses.asdict(row) for row in rows]}
        Path(arguments.json).write_text(json.dumps(content, indent=1))
    if arguments.write:
        write_page(text)
    return 1 if any(row.result in ("differs", "crashed") for row in rows) else 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders of cfg files, or cfg files")
    parser.add_argument("--oracle", type=Path, required=True, help="recorded outputs of Darknet")
    parser.add_argument("--seed", type=int, default=1, help="of made-up weights")
    parser.add_argument("--max-side", type=int, default=320, help="scale larger inputs down to it")
    parser.add_argument("--only", default="*", help="a pattern of names, such as 'yolov4*'")
    parser.add_argument("--json", help="write the rows to this file, too")
    parser.add_argument("--write", action="store_true", help=f"write the table to {PAGE.name}")
    return parser.parse_args()


def find_cfgs(folders: list[Path], pattern: str) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        found += [folder] if folder.is_file() else sorted(folder.rglob("*.cfg"))
    return [cfg for cfg in found if fnmatch.fnmatch(cfg.name, pattern)]


def examine(cfg: Path, arguments: argparse.Namespace) -> Row:
    row = Row(cfg.name)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(StopIteration):
        try:
            fill(row, cfg, Path(folder), arguments)
        except BoxwrightError as error:
            row.result, row.reason = "refused", str(error).replace(folder, "").lstrip("/")
        except UnsupportedNetworkError as error:
            row.result, row.reason = "not judged", str(error)
        except Exception as error:  # a table of all cfgs must survive any one of them
            row.result, row.reason = "crashed", f"{type(error).__name__}: {error}"
    return row


def fill(row: Row, cfg: Path, folder: Path, arguments: argparse.Namespace) -> None:
    sections = sections_of(cfg)
    trained = cfg.with_suffix(".weights")
    recorded = recorded_reference(cfg, trained.is_file(), arguments)
    # What Darknet recorded holds for the cfg as it is.
    capped = cfg if recorded else cap_size(cfg, folder, arguments.max_side)
    row.weights = "trained" if trained.is_file() else f"seed {arguments.seed}"
    weights = trained if trained.is_file() else folder / f"{cfg.stem}.weights"
    unmade = "" if trained.is_file() else make_weights(arguments, capped, weights)
    if unmade:
        # Without weights only a refusal can be seen: it comes before they are read.
        weights.write_bytes(np.array([0, 2, 5, 0, 0], np.int32).tobytes())
    class_count = next((int(s["classes"]) for s in sections if s[""] in HEADS), 1)
    names = [f"class {i}" for i in range(class_count)]
    try:
        model = import_model(weights, cfg=capped, names=names)
    except WeightsError:
        if unmade:
            row.result, row.reason = "not judged", f"no weights could be made: {unmade}"
            return
        raise
    height, width = model.card.input_size
    row.size = f"{width}x{height}"
    image = picture(arguments.oracle, height, width)
    reference = numpy_reference(capped, weights, model, image) if recorded is None else recorded
    row.judge = "numpy" if recorded is None else "Darknet"
    tolerances = Tolerances() if trained.is_file() else Tolerances.random_weights()
    tell(row, compare(model, reference, image, tolerances))
    row.opencv = judge_opencv(capped, weights, reference, image)


def sections_of(cfg: Path) -> list[dict[str, str]]:
    return parse_cfg(cfg.read_text(errors="replace"))


def cap_size(cfg: Path, folder: Path, side: int) -> Path:
    """A copy of the cfg whose input is at most `side`, divisible as its own size is."""
    text = cfg.read_text(errors="replace")
    head, bracket, rest = text.partition("\n[")
    values = {
        key: int(float(found[1]))
        for key in ("width", "height")
        if (found := re.search(rf"^\s*{key}\s*=\s*([\d.]+)", head, re.M))
    }
    longest = max(values.values(), default=0)
    # Networks of seven levels need multiples of 128, most of 32.
    step = min(128, math.gcd(*values.values(), 128)) if values else 32
    # A [connected] layer ties the weights to the input size, so YOLOv1 stays as it is.
    if longest > side and "[connected]" not in text:
        for key, value in values.items():
            capped = max(step, int(value * side / longest / step) * step)
            head = re.sub(rf"^(\s*{key}\s*=\s*)[\d.]+", rf"\g<1>{capped}", head, flags=re.M)
    copy = folder / cfg.name
    copy.write_text(head + bracket + rest)
    return copy


def make_weights(arguments: argparse.Namespace, cfg: Path, output: Path) -> str:
    """Why weights could not be made, else nothing."""
    script = arguments.oracle / "seeded_weights.py"
    command = [sys.executable, script, cfg, output, "--seed", str(arguments.seed)]
    made = subprocess.run(command, capture_output=True, text=True)
    return made.stderr.strip().splitlines()[-1] if made.returncode else ""


def recorded_reference(cfg: Path, trained: bool, arguments: argparse.Namespace) -> Reference | None:
    """Darknet's own outputs, if they were recorded from this very cfg and these weights."""
    path = arguments.oracle / f"{'real_' if trained else ''}{cfg.stem}.npz"
    if not path.is_file() or (not trained and arguments.seed != 1):
        return None
    original = arguments.oracle / "cfg" / cfg.name
    if not trained and not (original.is_file() and sections_of(original) == sections_of(cfg)):
        return None
    return read_dump(path)


def picture(oracle: Path, height: int, width: int) -> NDArray[np.uint8]:
    """The recorded input at this size, or one made of another."""
    path = oracle / f"dog_{width}x{height}.png"
    if path.is_file():
        return read_images([path])
    import cv2

    largest = read_images([oracle / "dog_416x416.png"])[0]
    return np.asarray(cv2.resize(largest, (width, height)), np.uint8)[None]


def numpy_reference(cfg: Path, weights: Path, model: Model, image: NDArray[np.uint8]) -> Reference:
    results = NumpyDarknet(cfg, weights).run(image[0])
    tensors: dict[str, SampledTensor] = {}
    for result in results:
        raw = result.raw[None].astype(np.float32)
        tensors[f"head{result.index}"] = SampledTensor.full(raw)
    names = tuple(tensors)
    boxes = np.concatenate([result.boxes for result in results]).astype(np.float32)
    scores = np.concatenate([result.scores for result in results]).astype(np.float32)
    if len(boxes):
        tensors |= {
            BOXES: SampledTensor.full(boxes[None]),
            SCORES: SampledTensor.full(scores[None]),
        }
    return Reference("numpy Darknet", model.card.input_size, image, tensors, names)


def tell(row: Row, report: ParityReport) -> None:
    row.result = "agrees" if report.ok else "differs"
    heads = [tensor for tensor in report.tensors if tensor.kind == "head"]
    row.heads = tuple(tensor.nrmse for tensor in heads)
    for boxes in report.boxes:
        text = f"{boxes.matched}/{boxes.reference_count}"
        if boxes.stage == "candidates":
            row.candidates = text + (" (cut)" if boxes.truncated else "")
            row.box_error, row.score_error = boxes.box_error, boxes.score_error
        else:
            row.detections = text + (f", {boxes.tied} tied" if boxes.tied else "")
    if not report.ok:
        failed = [entry for entry in report.rows() if entry["verdict"] != "ok"]
        row.reason = "; ".join(f"{entry['check']}: {entry['measured']}" for entry in failed)


def judge_opencv(cfg: Path, weights: Path, reference: Reference, image: NDArray[np.uint8]) -> str:
    """The largest nrmse of OpenCV's raw heads, or why there is none."""
    try:
        report = compare(OpenCvDarknet(cfg, weights), reference, image, Tolerances.opencv())
    except BoxwrightError as error:
        text = str(error).partition("network: ")[2] or str(error)
        return f"no: {text[:60]}"
    heads = [tensor for tensor in report.tensors if tensor.kind == "head"]
    if len(heads) != len(reference.heads):
        return "no: other heads"
    worst = max((math.inf if tensor.note else tensor.nrmse) for tensor in heads)
    return "other shape" if math.isinf(worst) else f"{worst:.0e}"


def table(rows: list[Row]) -> str:
    lines = [
        "| cfg | weights | input | judge | result | raw heads (nrmse) | candidates | box error "
        "| score error | detections | OpenCV (nrmse) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells: list[Any] = [
            row.cfg.removesuffix(".cfg"),
            row.weights,
            row.size,
            row.judge,
            f"{row.result}: {row.reason}" if row.reason else row.result,
            ", ".join(f"{value:.0e}" for value in row.heads),
            row.candidates,
            "" if math.isnan(row.box_error) else f"{row.box_error:.0e}",
            "" if math.isnan(row.score_error) else f"{row.score_error:.0e}",
            row.detections,
            row.opencv,
        ]
        escaped = [str(cell).replace("|", "\\|") for cell in cells]
        lines.append(f"| {' | '.join(escaped)} |")
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.result] = counts.get(row.result, 0) + 1
    total = ", ".join(f"{count} {result}" for result, count in sorted(counts.items()))
    return "\n".join([*lines, "", f"{len(rows)} cfgs: {total}."])


def write_page(text: str) -> None:
    """Replace what lies between the markers; what stands around them is written by hand."""
    page = PAGE.read_text() if PAGE.is_file() else f"# Darknet parity\n\n{START}\n{END}\n"
    before, _, rest = page.partition(START)
    after = rest.partition(END)[2]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(f"{before}{START}\n{text}{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
