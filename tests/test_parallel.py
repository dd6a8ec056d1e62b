from __future__ import annotations

import os
import threading

import pytest

from boxwright import parallel
from boxwright.parallel import map_images


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "usable_cores", lambda: 4)
    monkeypatch.setattr(parallel, "_pool", None)


def test_results_come_in_order_from_several_threads() -> None:
    barrier = threading.Barrier(4, timeout=10)

    def work(item: int) -> tuple[int, int]:
        barrier.wait()  # passes only when four are at work at once
        return item * item, threading.get_ident()

    results = map_images(work, range(4))
    assert [result for result, _ in results] == [0, 1, 4, 9]
    assert len({thread for _, thread in results}) == 4


def test_one_image_needs_no_thread() -> None:
    assert map_images(lambda _: threading.get_ident(), [1]) == [threading.get_ident()]
    assert map_images(str, []) == []


def test_one_core_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "usable_cores", lambda: 1)
    assert set(map_images(lambda _: threading.get_ident(), [1, 2])) == {threading.get_ident()}


def test_the_first_failure_in_order_is_raised() -> None:
    def work(item: int) -> int:
        if item:
            raise ValueError(item)
        return item

    with pytest.raises(ValueError, match="1"):
        map_images(work, range(4))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_makes_threads_of_its_own() -> None:
    map_images(str, range(4))
    child = os.fork()
    if child == 0:
        os._exit(0 if map_images(str, range(4)) == ["0", "1", "2", "3"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
