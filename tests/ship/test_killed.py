"""``kill -9`` at any moment leaves nothing half-written, and the next run ends the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from boxwright.engine import Engine
from boxwright.files import sha256_file
from tests.ship.material import write_material

_RUN = """
import sys
from pathlib import Path
from boxwright.ship.pipeline import ship
from tests.ship.material import make_settings
material = {k: Path(sys.argv[1]) / v for k, v in (
    ("weights", "tiny.weights"), ("images", "images"), ("labels", "labels.json"))}
result = ship(make_settings(material, Path(sys.argv[2])))
print(result.ok)
"""
_ROOT = Path(__file__).parents[2]
_LONGEST = 120.0


def start(material: Path, output: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{_ROOT / 'src'}{os.pathsep}{_ROOT}"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _RUN, material, output],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(material: Path, output: Path) -> float:
    """Run to the end; the seconds it took."""
    began = time.monotonic()
    with start(material, output) as process:
        out, err = process.communicate(timeout=_LONGEST)
        assert process.returncode == 0, err
        assert out == "True\n"
    return time.monotonic() - began


def kill_after(seconds: float, material: Path, output: Path) -> bool:
    """Start a run and kill it; whether it was still running."""
    with start(material, output) as process:
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return True
        process.communicate()
        return False


def assert_nothing_is_half_written(output: Path) -> None:
    """Whatever is there under its own name is whole."""
    for path in output.rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".bw":
            Engine.open(path).verify()
        elif path.suffix == ".html":
            assert path.read_text().endswith("</html>\n")
        elif path.suffix == ".jpg":
            assert path.read_bytes().endswith(b"\xff\xd9")


def outcome(output: Path) -> dict[str, Any]:
    """All that does not depend on time."""
    accuracy = json.loads((output / "evidence" / "accuracy.json").read_bytes())
    for side in ("source", "engine"):
        del accuracy[side]["timing"]
    engine = Engine.open(output / "tiny.bw")
    files = ("tiny.onnx", "evidence/verify.json", "eval/engine/detections.jsonl")
    pictures = sorted((output / "evidence").glob("*/*"))
    return {
        **{name: sha256_file(output / name) for name in files},
        **{str(p.relative_to(output)): sha256_file(p) for p in pictures},
        # Not the plan's bytes: ONNX Runtime orders equal graphs differently now and then.
        "engine": (engine.model_sha256, engine.plans, engine.card),
        "accuracy": accuracy,
        "files": sorted(str(path.relative_to(output)) for path in output.rglob("*")),
        "receipt": sorted(engine.receipt),
        "stages": sorted(json.loads((output / "ship.json").read_bytes())["stages"]),
    }


def _kill_and_compare(kills: int, seed: int, folder: Path) -> None:
    material = folder / "material"
    write_material(material)
    whole, broken = folder / "whole", folder / "broken"
    seconds = finish(material, whole)
    moments = random.Random(seed)
    hit = 0
    for number in range(kills):
        # A run that is done is started anew now and then, so that every kill hits something.
        if (broken / "report.html").exists() and number % 2:
            shutil.rmtree(broken)
        hit += kill_after(moments.uniform(0.2, 1.0) * seconds, material, broken)
        assert_nothing_is_half_written(broken)
    assert hit >= kills / 3, f"only {hit} of {kills} runs were still going when killed"
    finish(material, broken)
    assert_nothing_is_half_written(broken)
    assert not list(broken.rglob("*.part"))
    assert outcome(broken) == outcome(whole)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_killed_three_times(tmp_path: Path) -> None:
    _kill_and_compare(3, seed=3, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_killed_twenty_times(tmp_path: Path) -> None:
    _kill_and_compare(20, seed=20, folder=tmp_path)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_a_second_run_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    material, output = tmp_path / "material", tmp_path / "out"
    write_material(material)
    with start(material, output) as first:
        lock = output / ".ship.lock"
        patience = time.monotonic() + _LONGEST
        while not lock.exists() and time.monotonic() < patience:
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        try:
            with start(material, output) as second:
                _, err = second.communicate(timeout=_LONGEST)
            assert second.returncode != 0
            assert "in use by another run" in err
        finally:
            first.send_signal(signal.SIGCONT)
            first.send_signal(signal.SIGKILL)
            first.communicate()
