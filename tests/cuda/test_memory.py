"""Page-locked memory that is used again, within bounds."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.cuda import memory
from boxwright.cuda.memory import DeviceMemory, PinnedPool
from tests.backends.tensorrt.host_gpu import HostPinned

BYTES = np.dtype(np.uint8)


@pytest.fixture
def resource() -> HostPinned:
    return HostPinned()


@pytest.fixture
def pool(resource: HostPinned) -> PinnedPool:
    return PinnedPool(resource)


def test_arrays_are_what_was_asked_for(pool: PinnedPool) -> None:
    for shape in ((2, 3, 4), (7,), (), (0, 5)):
        for dtype in (np.uint8, np.float32, np.int64, np.float16):
            array = pool.array(shape, np.dtype(dtype))
            assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
            assert array.flags.c_contiguous
            array[...] = 7
            assert (array == 7).all()


def test_memory_is_used_again_when_the_last_view_is_gone(
    pool: PinnedPool, resource: HostPinned
) -> None:
    array = pool.array((8, 4), BYTES)
    view = array[2:, ::2].T
    del array
    pool.array((8, 4), BYTES)
    assert len(resource.buffers) == 2
    del view
    # Seven rows fit where eight were.
    for _ in range(5):
        pool.array((7, 4), BYTES)
    assert len(resource.buffers) == 2
    assert pool._lent == 0


def test_two_arrays_never_share(pool: PinnedPool) -> None:
    arrays = [pool.array((100,), BYTES) for _ in range(20)]
    for number, array in enumerate(arrays):
        array[:] = number
    assert [int(array[0]) for array in arrays] == list(range(20))


def test_it_knows_its_own(pool: PinnedPool, resource: HostPinned) -> None:
    array = pool.array((4, 4), BYTES)
    assert pool.holds(array)
    assert pool.holds(array[1:, ::2])
    assert pool.holds(array.reshape(-1).view(np.int32))
    assert not pool.holds(array.copy())
    assert not pool.holds(np.zeros(4))
    assert not pool.holds(PinnedPool(resource).array((4, 4), BYTES))


def test_beyond_a_bound_arrays_are_ordinary(
    pool: PinnedPool, resource: HostPinned, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory._MOST_BYTES == 2**30
    monkeypatch.setattr(memory, "_MOST_BYTES", 4096)
    held = [pool.array((1024,), BYTES) for _ in range(4)]
    assert all(pool.holds(array) for array in held)
    more = pool.array((1024,), BYTES)
    assert not pool.holds(more)
    more[:] = 1
    assert not pool.holds(pool.array((5000,), BYTES))
    held.pop()
    assert pool.holds(pool.array((1024,), BYTES))
    assert len(resource.buffers) == 4


def test_what_is_kept_has_a_bound(
    pool: PinnedPool, resource: HostPinned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_KEEP_BYTES", 2048)
    arrays = [pool.array((1024,), BYTES) for _ in range(5)]
    del arrays
    assert pool._kept == 2048
    assert [buffer.closed for buffer in resource.buffers].count(1) == 3


def test_where_the_system_locks_no_more_arrays_are_ordinary(
    pool: PinnedPool, resource: HostPinned
) -> None:
    kept = pool.array((1024,), BYTES)
    resource.fails = True
    for _ in range(3):
        array = pool.array((4096,), BYTES)
        assert not pool.holds(array)
    assert pool._lent == 1024
    del kept
    # What there is serves on.
    assert pool.holds(pool.array((1000,), BYTES))


def test_the_garbage_collector_may_give_back_while_an_array_is_handed_out(
    pool: PinnedPool,
) -> None:
    """It runs wherever Python makes objects, also within the pool and its lock."""
    doomed = [pool.array((64,), BYTES)]

    class Free(dict[int, list[Any]]):
        def __missing__(self, size: int) -> list[Any]:
            doomed.clear()
            gc.collect()
            return self.setdefault(size, [])

    pool._free = Free()  # type: ignore[assignment]
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(pool.array((4096,), BYTES)), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the pool waits for itself"
    assert not doomed
    assert pool._lent == 4096


def test_threads_do_not_lose_memory(pool: PinnedPool, resource: HostPinned) -> None:
    def work(seed: int) -> None:
        dice = np.random.default_rng(seed)
        for _ in range(300):
            array = pool.array((int(dice.integers(1, 5000)),), BYTES)
            array[:] = seed
            assert (array == seed).all()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool._lent == 0
    assert pool._kept <= memory._KEEP_BYTES


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3000)), max_size=60))
def test_the_books_are_right_whatever_happens(steps: list[tuple[bool, int]]) -> None:
    pool, held = PinnedPool(HostPinned()), list[Any]()
    for take, size in steps:
        if take:
            held.append(pool.array((size,), BYTES))
        elif held:
            held.pop(size % len(held))
        lent = sum(1 << (max(array.nbytes, 1) - 1).bit_length() for array in held)
        assert pool._lent == lent
        assert pool._kept == sum(size * len(free) for size, free in pool._free.items())


def test_device_memory_is_given_back() -> None:
    buffer = HostPinned().allocate(4)
    held = DeviceMemory(buffer, buffer.handle, 4)
    held.close()
    assert buffer.closed == 1
