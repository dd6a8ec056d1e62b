"""Kept plans: how many, which go first, and one build for two processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import boxwright
from boxwright import backends, locks
from boxwright.backends import cache
from boxwright.engine import Engine
from boxwright.locks import FileLock
from tests.backends.fakes import compiled, register
from tests.models import make_model

MODEL = "a" * 64


def plans(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.plan")}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 10 << 30),
        ("0", 0),
        ("1000", 1000),
        ("4GiB", 4 << 30),
        ("4 GB", 4 << 30),
        ("500M", 500 << 20),
        ("1.5k", 1536),
        ("2tib", 2 << 40),
    ],
)
def test_the_limit_is_read(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("BOXWRIGHT_CACHE_LIMIT", text)
    assert cache.limit() == size


@pytest.mark.parametrize("text", ["much", "-1", "4 XB", "1e9", "nan", "4GiB more", "٤GiB"])
def test_a_limit_that_is_none_is_said_and_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    monkeypatch.setenv("BOXWRIGHT_CACHE_LIMIT", text)
    assert cache.limit() == 10 << 30
    assert "must be a size such as 4GiB" in caplog.text


def test_the_plan_used_least_recently_goes_first(
    monkeypatch: pytest.MonkeyPatch, isolated_cache: Path
) -> None:
    monkeypatch.setenv("BOXWRIGHT_CACHE_LIMIT", str(3 * 1032))
    for number, name in enumerate(("a", "b", "c")):
        cache.store(MODEL, name, bytes(1000))
        os.utime(isolated_cache / "plans" / MODEL / f"{name}.plan", (number, number))
    assert cache.read(MODEL, "a") == bytes(1000)  # now b is the oldest
    cache.store("b" * 64, "d", bytes(1000))
    assert plans(isolated_cache) == {"a", "c", "d"}
    # This one takes the place of two.
    cache.store("b" * 64, "e", bytes(2000))
    assert plans(isolated_cache) == {"d", "e"}
    assert not (isolated_cache / "plans" / MODEL).exists()


def test_a_plan_above_the_limit_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, isolated_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.store(MODEL, "a", bytes(10))
    monkeypatch.setenv("BOXWRIGHT_CACHE_LIMIT", "100")
    cache.store(MODEL, "b", bytes(100))
    assert plans(isolated_cache) == {"a"}
    assert "not kept for the next time: it takes 100 B" in caplog.text


def test_what_a_killed_process_left_goes_after_a_day(isolated_cache: Path) -> None:
    folder = isolated_cache / "plans" / MODEL
    folder.mkdir(parents=True)
    for name, age in (("old", 48 * 3600), ("new", 60)):
        (folder / f".boxwright-{name}.part").write_bytes(b"x")
        then = time.time() - age
        os.utime(folder / f".boxwright-{name}.part", (then, then))
    cache.store(MODEL, "a", b"")
    assert [path.name for path in folder.glob("*.part")] == [".boxwright-new.part"]


def test_a_pipe_in_the_cache_is_not_waited_for(isolated_cache: Path) -> None:
    folder = isolated_cache / "plans" / MODEL
    folder.mkdir(parents=True)
    os.mkfifo(folder / "a.plan")
    assert cache.read(MODEL, "a") is None


def test_two_threads_build_one_after_the_other() -> None:
    order: list[str] = []
    started = threading.Event()

    def first() -> None:
        with cache.building(MODEL, "a", lambda *_: None) as waited:
            order.append(f"first {waited}")
            started.set()
            time.sleep(0.3)
            order.append("first done")

    stages: list[tuple[str, int]] = []
    thread = threading.Thread(target=first)
    thread.start()
    started.wait()
    with cache.building(MODEL, "a", lambda s, done, _: stages.append((s, done))) as waited:
        order.append(f"second {waited}")
    thread.join()
    assert order == ["first False", "first done", "second True"]
    assert stages[0] == ("wait for another process that builds this plan", 0)
    # Other plans are not waited for, and nothing is left.
    with (
        cache.building(MODEL, "a", lambda *_: None) as one,
        cache.building(MODEL, "b", lambda *_: None) as two,
    ):
        assert not one
        assert not two
    assert not list(cache.cache_folder().rglob("*.lock"))


def test_who_hangs_is_waited_for_only_so_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache, "_PATIENCE_SECONDS", 0.2)
    with (
        cache.building(MODEL, "a", lambda *_: None),
        cache.building(MODEL, "a", lambda *_: None) as waited,
    ):
        assert waited
    assert "it is built here" in caplog.text


def test_without_a_place_for_the_lock_both_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "file"))
    with cache.building(MODEL, "a", lambda *_: None) as waited:
        assert not waited


LOAD = """
import sys
from tests.backends.fakes import register
import pytest
register(pytest.MonkeyPatch())
from boxwright import backends
stages = []
backends.load(sys.argv[1], progress=lambda stage, *_: stages.append(stage)).close()
print("waited" if any(s.startswith("wait for") for s in stages) else "built")
"""


def start(engine: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    source = Path(boxwright.__file__).parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{source}{os.pathsep}{root}",
        "FAKE_GPU": "sm87",
        "FAKE_LOG": str(log),
        "FAKE_SECONDS": str(seconds),
    }
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, str(engine)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    """An engine of another machine than the processes are on."""
    register(monkeypatch)
    return backends.build(make_model(), backend="fake", output=tmp_path / "x.bw")


def wait_for(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_processes_compile_once(foreign: Engine, tmp_path: Path, isolated_cache: Path) -> None:
    log = tmp_path / "log"
    first = start(foreign.path, log, 6)
    wait_for(lambda: compiled(log) == 1)
    second = start(foreign.path, log, 6)
    results = [process.communicate(timeout=120) for process in (first, second)]
    assert [out.strip() for out, _ in results] == ["built", "waited"], results
    assert compiled(log) == 1
    assert len(plans(isolated_cache)) == 1
    assert not list(isolated_cache.rglob("*.lock"))


def test_a_killed_process_keeps_nobody_waiting(foreign: Engine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = start(foreign.path, log, 60)
    wait_for(lambda: compiled(log) == 1)
    first.kill()
    first.communicate()
    out, err = start(foreign.path, log, 0).communicate(timeout=60)
    assert out.strip() == "built", err
    assert compiled(log) == 2


def test_a_lock_whose_file_was_replaced_is_none(tmp_path: Path) -> None:
    """Else two could hold it: one the file that is gone, one the new file."""
    first, second = FileLock(tmp_path / "a.lock"), FileLock(tmp_path / "a.lock")
    assert first.acquire(1) is False
    (tmp_path / "a.lock").unlink()
    assert second.acquire(1) is False
    first.release()
    second.release()
    first.release()
    held = FileLock(tmp_path / "b.lock")
    held.acquire(1)
    with pytest.raises(TimeoutError):
        FileLock(tmp_path / "b.lock").acquire(0.1)
    held.release()


def test_who_locks_a_file_as_it_is_removed_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, one releases and another takes the lock on a new file."""
    first, late, second = (FileLock(tmp_path / "a.lock") for _ in range(3))
    first.acquire(1)
    lock = locks._lock

    def overtaken(descriptor: int) -> bool:
        monkeypatch.setattr(locks, "_lock", lock)
        first.release()
        assert second.acquire(0) is False
        return lock(descriptor)

    monkeypatch.setattr(locks, "_lock", overtaken)
    with pytest.raises(TimeoutError):
        late.acquire(0.1)
    second.release()
    assert late.acquire(1) is False
    late.release()
