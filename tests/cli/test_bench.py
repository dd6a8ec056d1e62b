"""`bench`: what it prints, its budgets, and what it refuses. Never how long anything took."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import boxwright
from tests.cli.conftest import Run
from tests.cli.material import write_darknet, write_image

QUICK = ("--rounds", "2", "--seconds", "0", "--warmup", "1")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    boxwright.build(boxwright.import_model(write_darknet(folder)), output=folder / "tiny.bw")
    return folder / "tiny.bw"


def _bench(run: Run, *arguments: str | Path, code: int = 0) -> Any:
    done = run("bench", *arguments, *QUICK, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_the_json_document_says_everything(run: Run, engine: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "photos" / f"{number}.png", seed=number)
    found = _bench(
        run, engine, "--against", "bare", "--against", "opencv-dnn", "--images", "photos",
        "--batch", "1,2", "--threads", "1", "--limit", "2", "--seed", "3",
    )  # fmt: skip
    assert [p["kind"] for p in found["participants"]] == ["engine", "bare", "opencv-dnn"]
    assert {p["threads"] for p in found["participants"]} == {1}
    assert [m["batch"] for m in found["measurements"]] == [1, 1, 1, 2, 2, 2]
    assert found["images"]["count"] == 2
    assert found["images"]["source"] == "files"
    assert found["settings"] | {"seed": 3, "rounds": 2, "threads": 1} == found["settings"]
    assert found["budget"] == {"min_fps": None, "max_latency_ms": None, "missed": []}
    assert found["charts"] == []
    assert len(found["ratios"]) == 4


def test_tables_for_people(run: Run, engine: Path) -> None:
    done = run("bench", engine, "--against", "bare", "--batch", "1", *QUICK)
    assert done.exit_code == 0
    for words in (
        "tiny.bw: onnxruntime, fp32",
        "bare ONNX Runtime",
        "same answer",
        "images/s",
        "p99",
        "Where the time goes",
        "postprocess",
        "How many times as fast tiny.bw is",
        "How quiet was the machine?",
        "note: no images were given",
    ):
        assert words in done.stdout


@pytest.mark.parametrize("budget", [("--min-fps", "1e12"), ("--max-latency", "0.000001")])
def test_a_missed_budget_is_3(run: Run, engine: Path, budget: tuple[str, str]) -> None:
    found = _bench(run, engine, "--batch", "1", *budget, code=3)
    assert len(found["budget"]["missed"]) == 1
    assert len(found["measurements"]) == 1
    done = run("bench", engine, "--batch", "1", *budget, *QUICK)
    assert done.exit_code == 3
    assert "budget missed: " in done.stderr
    assert "Where the time goes" in done.stdout


def test_budgets_that_are_met_are_0(run: Run, engine: Path) -> None:
    found = _bench(run, engine, "--batch", "1", "--min-fps", "0", "--max-latency", "1e9")
    assert found["budget"] == {"min_fps": 0.0, "max_latency_ms": 1e9, "missed": []}


def test_charts_are_written(run: Run, engine: Path) -> None:
    found = _bench(run, engine, "--against", "bare", "--batch", "1", "--charts", "out/charts")
    names = {"throughput.svg", "stages.svg", "latency.svg", "acceleration.svg"}
    assert {path.name for path in Path("out/charts").iterdir()} == names
    assert {Path(path).name for path in found["charts"]} == names


def test_missing_matplotlib_is_told_before_anything_is_measured(
    run: Run, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxwright.evaluate import benchmark

    def measured(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured")

    monkeypatch.setattr(benchmark, "benchmark", measured)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("bench", engine, "--charts", "out")
    assert done.exit_code == 1
    assert "pip install 'boxwright[report]'" in done.stderr


@pytest.mark.parametrize("sizes", ["0", "1,,2", "1,x", "-1", "1.5", "99999", ""])
def test_batch_sizes_that_are_none_are_2(run: Run, engine: Path, sizes: str) -> None:
    done = run("bench", engine, "--batch", sizes)
    assert done.exit_code == 2
    assert "expected batch sizes such as 1,2,4,8" in done.stderr


def test_options_may_come_from_a_file(run: Run, engine: Path) -> None:
    Path("b.toml").write_text('[bench]\nbatch = [2, 1]\nagainst = ["bare"]\n')
    found = _bench(run, engine, "--config", "b.toml")
    assert [m["batch"] for m in found["measurements"]] == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--against", "onnxruntme"), "neither a file nor a contender"),
        (("--images", "absent"), "no such file or folder: absent"),
        (("--backend", "absent"), "unknown backend 'absent'"),
    ],
)
def test_bad_input_is_1(run: Run, engine: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run("bench", engine, *arguments, *QUICK)
    assert done.exit_code == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_damaged_images_and_engines_are_1(run: Run, engine: Path) -> None:
    Path("bad.jpg").write_bytes(b"\xff\xd8 not a picture")
    assert "bad.jpg" in _bench(run, engine, "--images", "bad.jpg", code=1)["error"]["message"]
    Path("bad.bw").write_bytes(engine.read_bytes()[:500])
    assert "bad.bw" in _bench(run, "bad.bw", code=1)["error"]["message"]
