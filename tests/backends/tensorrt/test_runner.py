"""Running an engine: batches in pieces, recorded calls, memory, errors. The GPU is the host."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.backends.tensorrt import execution as execution_module
from boxwright.backends.tensorrt import runner as runner_module
from boxwright.backends.tensorrt.allocator import GrowingOutput, make_allocator
from boxwright.backends.tensorrt.loaded import LoadedEngine, Profile, split_batch
from boxwright.backends.tensorrt.runner import TensorRtRunner
from boxwright.cuda.stream import DeviceArray
from boxwright.errors import EngineError, InputError
from tests.backends.tensorrt.host_gpu import (
    IMAGE,
    HostEngine,
    HostStream,
    compute,
    host_library,
    load_host_engine,
    make_pixels,
    places,
)
from tests.backends.tensorrt.modules import VERSIONS, make_library


class Setup:
    """A runner with its engine and stream at hand."""

    def __init__(self, *profiles: tuple[int, int, int], graphs: bool = True, **facts: Any) -> None:
        self.loaded = load_host_engine(*profiles, **facts)
        self.engine: HostEngine = self.loaded.engine
        self.stream = HostStream()
        given: Any = self.stream
        self.runner = TensorRtRunner(self.loaded, given, graphs)

    def check(self, count: int, seed: int = 0) -> None:
        images = make_pixels(count, seed)
        check(self.runner.infer({"images": images}), images)


def check(got: Any, images: Any) -> None:
    wanted = compute(images)
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.fixture
def it() -> Iterator[Setup]:
    made = Setup()
    yield made
    made.runner.close()


# Batches in pieces


@given(
    count=st.integers(1, 300),
    sizes=st.lists(
        st.lists(st.integers(1, 64), min_size=3, max_size=3).map(sorted), min_size=1, max_size=6
    ),
)
def test_every_row_is_run_once_within_a_profile(count: int, sizes: list[list[int]]) -> None:
    profiles = tuple(Profile(index, *batch) for index, batch in enumerate(sizes))
    pieces = split_batch(count, profiles)
    rows = [row for piece in pieces for row in range(piece.start, piece.start + piece.count)]
    assert rows == list(range(count))
    for piece in pieces:
        assert piece.profile in profiles
        assert piece.profile.least <= piece.padded <= piece.profile.most
        assert piece.padded >= piece.count
        # Padded only where nothing takes so few, and then as little as can be.
        if piece.padded > piece.count:
            assert not any(p.least <= piece.count <= p.most for p in profiles)
            assert piece.padded == min(p.least for p in profiles if p.most >= piece.count)
    # In as few pieces as the largest batch allows.
    assert len(pieces) == -(-count // max(profile.most for profile in profiles))


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(1, [0]), (2, [0]), (3, [1]), (4, [1]), (8, [1]), (9, [1, 0]), (13, [1, 1])],
)
def test_the_profile_made_for_the_nearest_batch_serves(count: int, chosen: list[int]) -> None:
    profiles = (Profile(0, 1, 1, 2), Profile(1, 1, 4, 8))
    assert [piece.profile.index for piece in split_batch(count, profiles)] == chosen


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize(
    "profiles", [[(1, 2, 4)], [(3, 4, 4)], [(1, 1, 1), (2, 3, 5)], [(2, 2, 2), (6, 6, 6)]]
)
def test_any_batch_runs(profiles: list[tuple[int, int, int]], graphs: bool) -> None:
    it = Setup(*profiles, graphs=graphs)
    for repeat in range(4):
        for count in (1, 5, 2, 13, 4, 3, 1, 9):
            it.check(count, seed=repeat * 100 + count)
    assert {index for index, _ in it.engine.ran} <= set(range(len(profiles)))
    for index, count in it.engine.ran:
        assert profiles[index][0] <= count <= profiles[index][2]


def test_an_engine_of_one_batch_runs_that(it: Setup) -> None:
    fixed = Setup((3, 3, 3), fixed=3)
    assert fixed.runner.inputs[0].shape == (3, *IMAGE)
    fixed.check(3)
    with pytest.raises(InputError, match=r"of shape \[3, 4, 6, 3\]"):
        fixed.runner.infer({"images": make_pixels(2)})


def test_what_goes_in_and_out_is_what_the_engine_says(it: Setup) -> None:
    (images,) = it.runner.inputs
    assert (images.name, images.dtype) == ("images", np.dtype(np.uint8))
    assert images.shape == (None, *IMAGE)
    found = {spec.name: (spec.dtype, spec.shape) for spec in it.runner.outputs}
    floats = np.dtype(np.float32)
    assert found == {"boxes": (floats, (None, 2, 4)), "scores": (floats, (None, 2, 3))}
    assert it.runner.stream == it.stream.handle


# Graphs


def test_a_call_is_recorded_the_second_time_and_replayed_after(it: Setup) -> None:
    counts = []
    for seed in range(5):
        it.check(2, seed)
        counts.append((it.engine.executions, it.stream.captures, it.stream.launches))
    assert counts == [(1, 0, 0), (2, 1, 1), (2, 1, 2), (2, 1, 3), (2, 1, 4)]


def test_without_graphs_none_is_recorded() -> None:
    it = Setup(graphs=False)
    for seed in range(4):
        it.check(2, seed)
    assert (it.engine.executions, it.stream.captures) == (4, 0)


def test_graphs_are_forgotten_beyond_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_module, "_MAX_GRAPHS", 3)
    it = Setup((1, 4, 8))
    for count in (1, 2, 3):
        it.check(count)
        it.check(count)
    assert it.stream.captures == 3
    it.check(1, seed=9)  # used last, so it stays
    for _ in range(2):
        it.check(4)
    (execution,) = it.runner._executions.values()
    assert len(execution._graphs) == 3
    it.check(1, seed=5)
    assert it.stream.captures == 4
    for seed in range(2):  # 2 went, and comes again
        it.check(2, seed)
    assert it.stream.captures == 5


def test_one_that_cannot_be_recorded_runs_without() -> None:
    it = Setup()
    it.stream.capture_fails = "a loop"
    for seed in range(4):
        it.check(2, seed)
        it.check(3, seed)
    assert it.stream.captures == 1
    assert it.stream.launches == 0


def test_an_execution_that_fails_while_recorded_is_run_plainly() -> None:
    it = Setup()
    it.check(2)
    it.engine.failing = {2}
    it.check(2, seed=1)
    it.check(2, seed=2)
    assert it.stream.launches == 0


# Results and memory


def test_results_stay_as_they_are_later_and_after_closing() -> None:
    it = Setup()
    images = [make_pixels(count, seed) for seed, count in enumerate((2, 4, 1, 9, 2, 2, 2))]
    results = [it.runner.infer({"images": batch}) for batch in images]
    it.runner.close()
    gc.collect()
    for got, batch in zip(results, images, strict=True):
        check(got, batch)


def test_page_locked_memory_is_used_again() -> None:
    it = Setup()
    for seed in range(20):
        it.check(4, seed)
    # One for the input, one for each output; the last ones serve the next call.
    assert len(it.stream.resource.buffers) <= 3


def test_a_page_locked_input_is_not_copied(it: Setup) -> None:
    mine = it.runner.empty_input(4)
    assert (mine.shape, mine.dtype) == ((4, *IMAGE), np.dtype(np.uint8))
    mine[:] = make_pixels(4)
    uploaded: list[int] = []
    upload = it.stream.upload

    def spy(target: int, source: Any) -> None:
        uploaded.append(source.ctypes.data)
        upload(target, source)

    it.stream.upload = spy  # type: ignore[method-assign]
    check(it.runner.infer({"images": mine}), mine)
    check(it.runner.infer({"images": mine[1:3]}), mine[1:3])
    assert uploaded == [mine.ctypes.data, mine[1:].ctypes.data]
    ordinary = mine.copy()
    it.runner.infer({"images": ordinary})
    assert uploaded[-1] != ordinary.ctypes.data


def test_padding_repeats_an_image_and_is_cut_off() -> None:
    it = Setup((4, 4, 4))
    mine = it.runner.empty_input(2)
    mine[:] = make_pixels(2)
    got = it.runner.infer({"images": mine})
    assert got["boxes"].shape == (2, 2, 4)
    check(got, mine)
    assert it.engine.ran == [(0, 4)]


def test_closing_gives_everything_back_once() -> None:
    it = Setup()
    it.check(3)
    assert it.stream.memory
    it.runner.close()
    it.runner.close()
    assert it.stream.closed
    buffers: Any = [memory.buffer for memory in it.stream.memory]
    assert [buffer.closed for buffer in buffers] == [1] * len(buffers)
    for use in (
        lambda: it.runner.infer({"images": make_pixels(1)}),
        lambda: it.runner.bind({}),
        lambda: it.runner.infer_device({}),
        it.runner.synchronize,
    ):
        with pytest.raises(InputError, match="this runner is closed"):
            use()


def test_siblings_share_the_engine_and_nothing_else(it: Setup) -> None:
    images = make_pixels(3)
    sibling = it.runner.sibling()
    assert sibling._engine is it.runner._engine
    assert sibling.stream != it.runner.stream
    for _ in range(3):
        check(sibling.infer({"images": images}), images)
        it.check(2)
    assert it.engine.contexts == 2
    sibling.close()
    it.check(4)


# Errors


def test_a_failure_says_what_tensorrt_said(it: Setup) -> None:
    it.engine.failing = {1}
    with pytest.raises(EngineError, match="TensorRT failed: execution 1 failed"):
        it.runner.infer({"images": make_pixels(1)})
    it.check(1)


def test_a_failure_on_the_gpu_is_an_engine_error(it: Setup) -> None:
    it.check(1)
    it.stream.broken = "CUDA_ERROR_ILLEGAL_ADDRESS"
    with pytest.raises(EngineError, match="TensorRT failed: CUDA_ERROR_ILLEGAL_ADDRESS"):
        it.runner.infer({"images": make_pixels(1)})
    it.stream.broken = ""


def test_refused_memory_and_contexts_are_told(it: Setup) -> None:
    it.engine.refused = {"scores"}
    with pytest.raises(EngineError, match="refuses the memory of 'scores'"):
        it.runner.infer({"images": make_pixels(1)})
    it.engine.refused = {"context"}
    with pytest.raises(EngineError, match="cannot make an execution context: no memory for"):
        it.runner.sibling().infer({"images": make_pixels(1)})


@pytest.mark.parametrize("plan", [b"", b"nonsense"])
def test_a_refused_plan_is_told(plan: bytes) -> None:
    words = "does not say why" if not plan else "magicTag mismatch"
    with pytest.raises(EngineError, match=f"tensorrt 8.6.1 refuses the plan: .*{words}"):
        LoadedEngine(host_library(), plan)


def test_a_runtime_that_does_not_start_is_told() -> None:
    library = host_library()

    class Runtime:
        def __init__(self, logger: Any) -> None:
            logger.log(library.trt.ILogger.Severity.ERROR, "CUDA initialization failure")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    library.trt.Runtime = Runtime
    with pytest.raises(EngineError, match="does not start: CUDA initialization failure"):
        LoadedEngine(library, b"{}")


def test_weights_cannot_be_put_back_by_8_6() -> None:
    plan = b'{"profiles": [[1, 1, 1]]}'
    with pytest.raises(EngineError, match="holds no weights, and this TensorRT cannot"):
        LoadedEngine(host_library(), plan, weights=b"model")


@pytest.mark.parametrize(("parsed", "refitted"), [(True, True), (False, True), (True, False)])
def test_weights_are_put_back_where_that_can_be(parsed: bool, refitted: bool) -> None:
    library, seen = host_library(), list[Any]()

    class ParserRefitter:
        def __init__(self, refitter: Any, logger: Any) -> None: ...

        def refit_from_bytes(self, weights: bytes) -> bool:
            seen.append(weights)
            return parsed

    library.trt.OnnxParserRefitter = ParserRefitter
    library.trt.Refitter = lambda engine, logger: SimpleNamespace(
        refit_cuda_engine=lambda: refitted
    )
    plan = b'{"profiles": [[1, 1, 1]]}'
    if parsed and refitted:
        LoadedEngine(library, plan, weights=b"model")
    else:
        with pytest.raises(EngineError, match="cannot put the weights into the plan"):
            LoadedEngine(library, plan, weights=b"model")
    assert seen == [b"model"]


# Outputs whose size only running tells


def test_outputs_grow_and_shrink() -> None:
    it = Setup((1, 2, 4), grows=True)
    for seed, count in enumerate((1, 4, 2, 1, 4, 3)):
        images = make_pixels(count, seed)
        got = it.runner.infer({"images": images})
        np.testing.assert_array_equal(got["places"], places(images))
        check(got, images)
    black = np.zeros((2, *IMAGE), np.uint8)
    assert it.runner.infer({"images": black})["places"].shape == (2, 0)
    # Memory that may move is in no graph.
    assert it.stream.captures == 0
    assert len({memory.address for memory in it.stream.memory}) > 4
    it.runner.close()
    buffers: Any = [memory.buffer for memory in it.stream.memory]
    assert [buffer.closed for buffer in buffers] == [1] * len(buffers)


def test_a_growing_output_cannot_be_bound() -> None:
    it = Setup((1, 2, 4), grows=True)
    with pytest.raises(InputError, match="outputs have no fixed size: use infer"):
        it.runner.bind({"images": it.stream.put(make_pixels(1))})


def test_an_allocator_serves_the_old_call_and_the_new() -> None:
    stream: Any = HostStream()
    for version in VERSIONS:
        output = GrowingOutput(stream)
        allocator = make_allocator(make_library(version), output)
        first = allocator.reallocate_output("x", 0, 100, 256)
        assert first == output.address != 0
        assert allocator.reallocate_output_async("x", first, 50, 256, 0) == first
        second = allocator.reallocate_output_async("x", first, 200, 256, 0)
        assert second not in (0, first)
        # Too much: TensorRT is told so by 0, and may be asked for less again.
        assert allocator.reallocate_output("x", second, 2**30, 256) == 0
        assert allocator.reallocate_output("x", 0, 10, 256) != 0
        allocator.notify_shape("x", [2, 3])
        assert output.shape == (2, 3)
        output.close()
        assert output.address == 0


# Arrays on the GPU


@pytest.fixture(autouse=True)
def lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lend memory as our own kind of array: cuda-core's needs a driver."""
    monkeypatch.setattr(
        runner_module,
        "_lend",
        lambda owner, address, shape, dtype: DeviceArray(address, dtype, shape, owner),
    )


def test_a_binding_runs_on_what_its_arrays_hold(it: Setup) -> None:
    given = it.stream.put(make_pixels(2))
    wanted = compute(make_pixels(2))
    out = {name: it.stream.put(np.zeros_like(array)) for name, array in wanted.items()}
    binding = it.runner.bind({"images": given}, out)
    assert binding.count == 2
    before = it.engine.executions
    for seed in range(4):
        images = make_pixels(2, seed)
        it.stream.upload(given.address, images)
        binding.run()
        it.runner.synchronize()
        check({name: it.stream.get(array) for name, array in out.items()}, images)
    # Everything was recorded when it was made.
    assert it.engine.executions == before


def test_outputs_may_be_the_runners_own_or_some_of_them(it: Setup) -> None:
    images = make_pixels(3)
    mine = it.stream.put(np.zeros((3, 2, 3), np.float32))
    got = it.runner.infer_device({"images": it.stream.put(images)}, {"scores": mine})
    assert got["scores"] is mine
    check({name: it.stream.get(array) for name, array in got.items()}, images)


def test_arrays_that_come_once_are_run_once(it: Setup) -> None:
    for seed in range(5):
        images = make_pixels(2, seed)
        got = it.runner.infer_device({"images": it.stream.put(images)})
        check({name: it.stream.get(array) for name, array in got.items()}, images)
    assert (it.engine.executions, it.stream.captures) == (5, 0)
    # The same again are recorded.
    again = it.stream.put(make_pixels(2))
    for _ in range(4):
        it.runner.infer_device({"images": again})
    assert (it.engine.executions, it.stream.captures, it.stream.launches) == (7, 1, 3)


def test_waiting_is_a_choice(it: Setup) -> None:
    given = it.stream.put(make_pixels(2))
    it.runner.infer_device({"images": given})
    before = it.stream.synchronized
    it.runner.infer_device({"images": given}, wait=False)
    assert it.stream.synchronized == before
    it.runner.synchronize()
    assert it.stream.synchronized == before + 1


def test_a_binding_ends_with_its_runner() -> None:
    it = Setup()
    for graphs in (True, False):
        it = Setup(graphs=graphs)
        binding = it.runner.bind({"images": it.stream.put(make_pixels(2))})
        binding.run()
        it.runner.close()
        with pytest.raises(InputError, match="this runner is closed"):
            binding.run()


def test_wrong_arrays_are_refused_and_the_runner_goes_on(it: Setup) -> None:
    put, images = it.stream.put, make_pixels(2)
    good = put(images)
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {}, r"inputs must be \['images'\], got \[\]"),
        ({"image": good}, {}, r"inputs must be \['images'\], got \['image'\]"),
        ({"images": good}, {"x": good}, r"outputs must be \['boxes', 'scores'\], got \['x'\]"),
        ({"images": put(images.astype(np.float32))}, {}, "'images' must be uint8 of shape"),
        ({"images": put(images[:, :2])}, {}, r"got uint8 of shape \[2, 2, 6, 3\]"),
        ({"images": put(images[0])}, {}, "'images' must be uint8 of shape"),
        ({"images": put(np.zeros((0, *IMAGE), np.uint8))}, {}, "batch must be 1 to 4, got 0"),
        ({"images": put(np.array(1, np.uint8))}, {}, "'images' must be uint8 of shape"),
        ({"images": put(make_pixels(5))}, {}, "the batch must be 1 to 4, got 5"),
        ({"images": images}, {}, "expected an array in GPU memory, got ndarray"),
        ({"images": good}, {"boxes": good}, r"'boxes' must be float32 of shape \[2, 2, 4\]"),
    ]
    for feed, outputs, message in cases:
        with pytest.raises(InputError, match=message):
            it.runner.infer_device(feed, outputs)
    it.check(2)


def test_a_bound_batch_must_fit_without_padding() -> None:
    it = Setup((2, 2, 2), (4, 6, 8))
    for count in (1, 3, 9):
        with pytest.raises(InputError, match=f"batch must be 2 to 2, 4 to 8, got {count}"):
            it.runner.bind({"images": it.stream.put(make_pixels(count))})
    it.runner.bind({"images": it.stream.put(make_pixels(2))})
    it.runner.bind({"images": it.stream.put(make_pixels(5))})
