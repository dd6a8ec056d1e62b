"""A stream over fake CUDA: what is asked for, and how failures are told."""

from __future__ import annotations

import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.cuda.stream import DeviceArray, Stream, _is_dense
from boxwright.errors import BackendUnavailableError, InputError
from tests.cuda.fake_driver import GIB, FakeCore, FakeDriver, install


class Setup:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpus = [("First", (9, 0), GIB), ("Second", (8, 6), GIB)]
        self.driver = FakeDriver(*gpus)
        self.core: FakeCore = install(monkeypatch, self.driver)
        self.found = SimpleNamespace(
            is_device_accessible=True,
            device_id=1,
            shape=(2, 3),
            strides=None,
            dtype=np.float32,
            ptr=4096,
        )
        utils = ModuleType("cuda.core.utils")
        setattr(utils, "StridedMemoryView", SimpleNamespace(from_any_interface=self._view))  # noqa: B010
        monkeypatch.setitem(sys.modules, "cuda.core.utils", utils)
        self.stream = Stream("cuda:1")

    def _view(self, value: Any, stream_ptr: int) -> Any:
        # The producer's work is waited for by our stream.
        assert stream_ptr == self.stream.handle
        if isinstance(value, Exception):
            raise value
        return self.found


@pytest.fixture
def it(monkeypatch: pytest.MonkeyPatch) -> Setup:
    return Setup(monkeypatch)


def test_it_is_of_one_gpu(it: Setup) -> None:
    assert (it.stream.gpu.name, it.stream.handle) == ("Second", 77)
    assert it.core.log == ["current 1"]


def test_a_gpu_is_made_current_once_in_each_thread(it: Setup) -> None:
    for _ in range(3):
        it.stream.use()

    def work() -> None:
        for _ in range(3):
            it.stream.use()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert it.core.log == ["current 1"] * 2


def test_too_much_memory_is_told_in_numbers(it: Setup) -> None:
    assert it.stream.allocate(0).address == 4096
    with pytest.raises(
        BackendUnavailableError, match="Second cannot give 4096 MiB: CUDA_ERROR_OUT"
    ):
        it.stream.allocate(4 * GIB)


def test_a_failed_step_is_told(it: Setup) -> None:
    it.stream.synchronize()
    it.driver.status["cuStreamSynchronize"] = 100
    with pytest.raises(BackendUnavailableError, match="the GPU reports an error: CUDA_ERROR_NO"):
        it.stream.synchronize()


def test_closing_is_done_once_and_also_after_a_failure(it: Setup) -> None:
    it.driver.status["cuStreamSynchronize"] = 100
    it.stream.close()
    it.stream.close()
    assert it.core.log.count("close") == 1
    assert it.driver.calls.count("cuStreamSynchronize") == 1


def test_work_is_recorded_and_launched(it: Setup) -> None:
    graph = it.stream.capture(lambda: it.core.log.append("work"))
    graph.launch()
    graph.launch()
    assert it.core.log[-5:] == ["begin", "work", "end", "launch", "launch"]


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (RuntimeError("no"), BackendUnavailableError, "a CUDA graph cannot be recorded: no"),
        (BackendUnavailableError("as it is"), BackendUnavailableError, "^as it is$"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_recording_ends_whatever_happens(
    it: Setup, error: BaseException, expected: type[BaseException], words: str
) -> None:
    def work() -> None:
        raise error

    with pytest.raises(expected, match=words):
        it.stream.capture(work)
    assert it.core.log[-2:] == ["begin", "end"]


def test_a_recording_that_breaks_is_told(it: Setup) -> None:
    it.core.capture_breaks = True
    with pytest.raises(BackendUnavailableError, match="cannot be recorded: the capture is broken"):
        it.stream.capture(lambda: None)


def test_an_array_of_another_library_is_seen(it: Setup) -> None:
    owner = object()
    found = it.stream.view(owner)
    assert (found.address, found.shape, found.dtype) == (4096, (2, 3), np.dtype(np.float32))
    assert found.nbytes == 24
    assert found.owner[0] is owner
    assert it.stream.view(found) is found
    assert DeviceArray(1, np.dtype(np.uint8), (), None).nbytes == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_device_accessible": False}, "an array on GPU 1, got one on the host"),
        ({"device_id": 0}, "an array on GPU 1, got one on GPU 0"),
        ({"strides": (6, 2)}, "got one with gaps"),
        ({"strides": (1, 2)}, "got one with gaps"),
        ({"strides": (-3, 1)}, "got one with gaps"),
    ],
)
def test_what_it_cannot_read_is_refused(it: Setup, change: dict[str, Any], words: str) -> None:
    vars(it.found).update(change)
    with pytest.raises(InputError, match=words):
        it.stream.view(object())


def test_what_is_no_array_is_refused(it: Setup) -> None:
    message = r"\(with __dlpack__ or __cuda_array_interface__\), got RuntimeError: no"
    with pytest.raises(InputError, match=message):
        it.stream.view(RuntimeError("no"))


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((2, 3), (3, 1)),
        ((), ()),
        ((5,), (1,)),
        # The stride of a single row means nothing; older PyTorch makes it 1.
        ((1, 4, 6, 3), (1, 18, 3, 1)),
        ((1, 4, 6, 3), (999, 18, 3, 1)),
        ((4, 1, 3), (3, 0, 1)),
        ((1, 1), (0, 0)),
        # Nothing in it, so no gaps either.
        ((0, 3), (7, 7)),
    ],
)
def test_dense_is_what_numpy_calls_so(
    it: Setup, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    it.found.shape, it.found.strides = shape, strides
    assert it.stream.view(object()).shape == shape


@given(
    st.lists(st.integers(0, 3), max_size=4),
    st.data(),
)
def test_numpy_agrees_on_what_is_dense(shape: list[int], data: st.DataObject) -> None:
    strides = data.draw(st.tuples(*[st.integers(0, 10)] * len(shape)))
    array = np.lib.stride_tricks.as_strided(np.zeros(200, np.uint8), shape, strides)
    assert _is_dense(tuple(shape), strides) == array.flags.c_contiguous


def test_the_real_packages_refuse_a_host_array() -> None:
    """``cuda-core`` itself, as far as it works without a driver."""
    utils = pytest.importorskip("cuda.core.utils", reason="cuda-core is not installed")
    stream: Any = SimpleNamespace(handle=77, gpu=SimpleNamespace(index=0))
    assert utils.StridedMemoryView
    for value in (np.zeros((1, 2)), [1, 2], "text", None):
        with pytest.raises(InputError, match="expected an array in GPU memory"):
            Stream.view(stream, value)
