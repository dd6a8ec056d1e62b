"""Benchmarks of contenders that take as long as the test says, on a clock it turns itself."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import boxwright
from boxwright.card import ModelCard
from boxwright.errors import InputError
from boxwright.evaluate import benchmark as module
from boxwright.evaluate.benchmark import (
    BenchmarkResult,
    Plan,
    benchmark,
    chunk_of,
    run_contenders,
    speed_for_receipt,
)
from boxwright.evaluate.contenders import RunnerContender, Synchronising
from boxwright.evaluate.stages import STAGES, synthetic_jpeg
from boxwright.images import load_image
from tests.evaluate.fakes import FakeRunner, make_card, make_outputs
from tests.models import make_model

JPEG = synthetic_jpeg(0, (60, 80))


class FakeClock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def advance(self, milliseconds: float) -> None:
        self.now += round(milliseconds * 1e6)


class FakeContender:
    """Takes `base` ms, and `per_image` more for each image, times the machine's mood."""

    kind = "engine"
    backend = "fake 1.0"
    precision = "fp32"
    threads: int | None = 2

    def __init__(
        self,
        name: str,
        clock: FakeClock,
        base: float = 2.0,
        per_image: float = 8.0,
        *,
        log: list[str] | None = None,
        moods: dict[int, float] | None = None,
        fixed_batch: int | None = None,
        seed: int = 0,
    ) -> None:
        self.name, self._clock, self._time = name, clock, (base, per_image)
        self.card: ModelCard = make_card()
        self.fixed_batch = fixed_batch
        self._log = [] if log is None else log
        self._moods = moods or {}
        self._outputs = make_outputs(seed)
        self.closed = False

    def network(self, batch: NDArray[np.uint8]) -> Any:
        base, per_image = self._time
        self._log.append(self.name)
        mood = self._moods.get(self._clock.now // 10**9, 1.0)
        self._clock.advance((base + per_image * len(batch)) * mood)
        return len(batch)

    def tensors(self, raw: Any) -> Any:
        return {name: np.repeat(v, raw, axis=0) for name, v in self._outputs.items()}

    def close(self) -> None:
        self.closed = True


def _run(*contenders: FakeContender, clock: FakeClock, **plan: Any) -> BenchmarkResult:
    settings = {"batches": (1, 4), "rounds": 4, "seconds": 0.4, **plan}
    return run_contenders(contenders, [JPEG], plan=Plan(**settings), clock=clock)


def test_known_durations_come_back() -> None:
    clock = FakeClock()
    result = _run(FakeContender("a", clock), FakeContender("b", clock, 4, 16), clock=clock)
    assert result.batches == (1, 4)
    for name, batch, expected in (("a", 1, 10), ("a", 4, 34), ("b", 1, 20), ("b", 4, 68)):
        found = result.of(name, batch)
        assert found is not None
        assert found.network.p50 == found.network.min == found.network.p99 == expected
        assert list(found.network_rounds) == [expected] * 4
        assert found.images_per_second == pytest.approx(1000 * batch / expected)
        # Nothing but the network moves this clock.
        assert {name: s.p50 for name, s in found.stages.items()} == {
            "decode": 0, "resize": 0, "network": expected, "postprocess": 0
        }  # fmt: skip
        assert found.end_to_end.p50 == expected
        assert found.joules_per_image == {}
    for ratio in result.ratios:
        assert ratio.peer == "b"
        assert (ratio.network.median, ratio.network.low, ratio.network.high) == (2, 2, 2)
        assert ratio.end_to_end.median == 2
    # 0.4 s in 4 rounds, half of each for the network: 50 ms a turn, 10 ms a run.
    first = result.of("a", 1)
    assert first is not None
    assert first.network.count == 4 * 5
    assert result.of("a", 2) is None


def test_turns_alternate_and_a_mood_of_the_machine_cancels() -> None:
    clock = FakeClock()
    log: list[str] = []
    moods = {second: 1.0 + 0.5 * (second % 3) for second in range(100)}
    a = FakeContender("a", clock, 10, 0, log=log, moods=moods)
    b = FakeContender("b", clock, 12, 0, log=log, moods=moods)
    result = _run(a, b, clock=clock, batches=(1,), rounds=12, seconds=2.4)
    # Whoever was last in one round is first in the next: two turns that look like one.
    turns = [name for name, _ in itertools.groupby(log)]
    assert len(turns) < 2 * 12
    spread = result.of("a", 1)
    assert spread is not None
    assert max(spread.network_rounds) > 1.3 * min(spread.network_rounds)
    assert result.ratios[0].network.median == pytest.approx(1.2, abs=0.05)
    assert result.noise.noisy
    assert "round medians of" in result.noise.reasons[0]


def test_the_next_images_come_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def spy(files: Any, number: int, batch: int) -> list[bytes]:
        asked.append(number)
        return chunk_of(files, number, batch)

    monkeypatch.setattr(module, "chunk_of", spy)
    clock = FakeClock()
    _run(FakeContender("a", clock), FakeContender("b", clock), clock=clock, batches=(1,))
    # One comparison and one warm-up each, then one chunk a round for both.
    assert asked == [0, 0, 0, 0, 0, 1, 2, 3]


def test_everyone_gets_the_same_images_in_a_round() -> None:
    files = [bytes([n]) for n in range(5)]
    assert chunk_of(files, 0, 2) == files[:2]
    assert chunk_of(files, 1, 2) == files[2:4]
    assert chunk_of(files, 2, 2) == [files[4], files[0]]
    assert len(chunk_of(files, 3, 16)) == 16


def test_a_quicker_answer_that_is_another_one_is_flagged() -> None:
    clock = FakeClock()
    same, other = FakeContender("same", clock), FakeContender("other", clock, 1, 1, seed=9)
    result = _run(FakeContender("a", clock), same, other, clock=clock)
    agreements = [item.agreement for item in result.participants]
    assert agreements[0] is None
    assert agreements[1] is not None
    assert agreements[1].agrees
    assert agreements[1].matched == agreements[1].subject > 0
    assert agreements[2] is not None
    assert not agreements[2].agrees
    assert "have no partner" in agreements[2].reason
    assert [note for note in result.notes if "other gives another answer" in note]


def test_other_classes_are_another_answer() -> None:
    clock = FakeClock()
    other = FakeContender("b", clock)
    other.card = ModelCard("toy", ("x", "y", "z"), other.card.input_size)
    (agreement,) = [
        p.agreement
        for p in _run(FakeContender("a", clock), other, clock=clock).participants
        if p.agreement
    ]
    assert (agreement.agrees, agreement.reason) == (False, "it knows other classes")


def test_a_result_is_json_and_so_is_its_part_of_a_receipt() -> None:
    clock = FakeClock()
    result = _run(FakeContender("a", clock), FakeContender("b", clock, seed=9), clock=clock)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["subject"] == "a"
    assert document["settings"]["rounds"] == 4
    assert {"cpu", "before", "after"} <= set(document["environment"])
    kept = json.loads(json.dumps(speed_for_receipt(result), allow_nan=False))
    assert [item["batch"] for item in kept["batches"]] == [1, 4]
    assert kept["batches"][0]["network_ms"]["p50"] == 10
    assert set(kept["batches"][0]["stages_ms"]) == set(STAGES)
    assert "network_rounds_ms" not in json.dumps(kept)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"min_fps": 117.0}, []),  # batch 4: 34 ms
        ({"min_fps": 118.0}, ["117.6 images/s end to end, at least 118 wanted"]),
        ({"max_latency_ms": 10.0}, []),  # batch 1
        ({"max_latency_ms": 9.5}, ["10.00 ms latency end to end (p90), at most 9.5 wanted"]),
        ({}, []),
    ],
)
def test_budgets(budget: dict[str, float], words: list[str]) -> None:
    clock = FakeClock()
    slow = FakeContender("slow", clock, 900, 0)
    assert _run(FakeContender("a", clock), slow, clock=clock).missed(**budget) == words


def test_an_engine_of_a_fixed_batch_decides_the_batch() -> None:
    clock = FakeClock()
    fixed = FakeContender("fixed", clock, fixed_batch=4)
    assert _run(FakeContender("a", clock), fixed, clock=clock, batches=None).batches == (4,)
    with pytest.raises(InputError, match="fixed was built for batches of 4 only, got"):
        _run(fixed, clock=clock)
    other = FakeContender("other", clock, fixed_batch=2)
    with pytest.raises(InputError, match="no common batch size: other 2, fixed 4"):
        _run(fixed, other, clock=clock, batches=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batches": ()}, "batch sizes must be"),
        ({"batches": (0,)}, "batch sizes must be"),
        ({"batches": (1.5,)}, "batch sizes must be"),
        ({"rounds": 1}, "rounds must be a whole number of 2 or more, got 1"),
        ({"warmup": 0}, "warmup must be"),
        ({"seconds": -1.0}, "seconds must be from 0"),
        ({"seconds": float("nan")}, "seconds must be from 0"),
    ],
)
def test_plans_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan(**settings)


class LaterRunner(FakeRunner):
    """Returns at once, and is done when it was waited for."""

    waited = 0

    def synchronize(self) -> None:
        self.waited += 1


def test_a_runner_that_computes_on_is_waited_for() -> None:
    runner = LaterRunner(make_outputs())
    assert isinstance(runner, Synchronising)
    assert not isinstance(FakeRunner(make_outputs()), Synchronising)
    contender = RunnerContender(runner, make_card(), name="later")
    contender.network(np.zeros((1, 40, 60, 3), np.uint8))
    assert runner.waited == 1


# From here on with real runtimes: what is opened, never how long it takes.

QUICK = Plan(batches=(1, 2), rounds=2, seconds=0, warmup=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    model = make_model()
    model.save(folder / "tiny.onnx")
    boxwright.build(model, output=folder / "tiny.bw")
    make_model(seed=3).save(folder / "other.onnx")
    return folder


def test_an_engine_beside_its_model_a_backend_and_the_bare_session(folder: Path) -> None:
    peers: list[str | Path] = [folder / "tiny.onnx", "reference", "bare"]
    result = benchmark(folder / "tiny.bw", peers, plan=QUICK, threads=1)
    assert [(p.name, p.kind, p.threads) for p in result.participants] == [
        ("tiny.bw", "engine", 1),
        ("tiny.onnx", "model", 1),
        ("tiny on reference", "model", None),
        ("bare ONNX Runtime", "bare", 1),
    ]
    assert all(p.agreement is None or p.agreement.agrees for p in result.participants)
    assert len(result.measurements) == 2 * 4
    assert len(result.ratios) == 2 * 3
    assert result.images["source"] == "synthetic"
    assert any("no images were given" in note for note in result.notes)
    assert any("reference cannot be told how many threads" in note for note in result.notes)


def test_another_network_is_another_answer(folder: Path) -> None:
    result = benchmark(folder / "tiny.bw", [folder / "other.onnx"], plan=QUICK)
    (agreement,) = [p.agreement for p in result.participants if p.agreement]
    assert not agreement.agrees


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        (
            "onnxruntme",
            "neither a file nor a contender; there are onnxruntime, openvino, reference, tensorrt",
        ),
        ("opencv-dnn", "tiny was not imported from one"),
        ("absent.bw", "no such file: absent.bw"),
        ("absent.weights", "no such file: absent.weights"),
        ("tiny.bw", "tiny.bw takes part already"),
    ],
)
def test_peers_that_cannot_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch, peer: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=message):
        benchmark("tiny.bw", [peer], plan=QUICK)


def test_opencv_gets_its_threads_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    seen = []
    run = module.run_contenders

    def spy(*arguments: Any, **named: Any) -> BenchmarkResult:
        seen.append(cv2.getNumThreads())
        return run(*arguments, **named)

    monkeypatch.setattr(module, "run_contenders", spy)
    before = cv2.getNumThreads()
    benchmark(folder / "tiny.bw", plan=QUICK, threads=before + 1)
    assert seen == [before + 1]
    assert cv2.getNumThreads() == before
    with pytest.raises(InputError, match="threads must be a whole number from 1"):
        benchmark(folder / "tiny.bw", plan=QUICK, threads=0)


def test_darknet_weights_run_with_opencv(fixtures_dir: Path, tmp_path: Path) -> None:
    source = fixtures_dir / "darknet" / "yolo-fastest"
    for name in ("yolo-fastest-1.1.cfg", "yolo-fastest-1.1.weights"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    weights = tmp_path / "yolo-fastest-1.1.weights"
    boxwright.import_model(weights).save(tmp_path / "fast.onnx")
    photo = [fixtures_dir / "photos" / "dog.jpg"]
    named = benchmark(tmp_path / "fast.onnx", [weights], images=photo, plan=QUICK)
    found = benchmark(tmp_path / "fast.onnx", ["opencv-dnn"], images=photo, plan=QUICK)
    for result in (named, found):
        peer = result.participants[1]
        assert (peer.name, peer.kind) == ("OpenCV DNN", "opencv-dnn")
        assert peer.agreement is not None
        assert peer.agreement.agrees, peer.agreement.reason
        assert peer.agreement.matched > 0
    # Other weights of the same name are not what the model was made from.
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(InputError, match=r"needs the yolo-fastest-1\.1\.weights that"):
        benchmark(tmp_path / "fast.onnx", ["opencv-dnn"], images=photo, plan=QUICK)


def test_the_synthetic_image_is_the_same_every_time_and_no_flat_one() -> None:
    data = synthetic_jpeg(1)
    assert data == synthetic_jpeg(1)
    assert data != synthetic_jpeg(2)
    pixels = load_image(data)
    assert pixels.shape == (720, 1280, 3)
    assert 20 < pixels.std() < 90
    # A photo of this size takes 100 to 400 kB.
    assert 100_000 < len(data) < 400_000
