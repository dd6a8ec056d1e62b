"""TensorRT's timing cache between builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwright.backends.tensorrt import timing
from boxwright.backends.tensorrt.timing import attach, keep, timing_cache_path
from tests.backends.tensorrt.modules import VERSIONS, make_library


class Cache:
    """An ``ITimingCache``: a set of words; `b"bad"` is what TensorRT does not take."""

    def __init__(self, content: bytes) -> None:
        self.words = set(content.split())

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch
        self.words |= other.words
        return True

    def serialize(self) -> bytearray:
        return bytearray(b" ".join(sorted(self.words)))


class Config:
    def __init__(self, foreign: bytes = b"foreign") -> None:
        self.cache: Cache | None = None
        self._foreign = foreign

    def create_timing_cache(self, content: bytes) -> Cache | None:
        return None if content == b"bad" else Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        # Times of another GPU must not be taken.
        assert not ignore_mismatch
        if self._foreign in cache.words:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


def test_each_tensorrt_on_each_gpu_has_its_own(isolated_cache: Path) -> None:
    paths = {
        timing_cache_path(make_library(version), gpu)
        for version in VERSIONS
        for gpu in ("NVIDIA H200", "NVIDIA A10", "../../etc/passwd", "ü" * 40)
    }
    assert len(paths) == 16
    for path in paths:
        assert path.parent == isolated_cache / "timing"
        assert path.suffix == ".cache"


def test_without_a_cache_one_is_begun(tmp_path: Path) -> None:
    config = Config()
    assert attach(config, tmp_path / "none") is False
    assert config.cache is not None
    assert config.cache.words == set()


def test_what_was_measured_is_there_next_time(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.cache"
    first = Config()
    attach(first, path)
    assert first.cache is not None
    first.cache.words = {b"one"}
    keep(first, path)
    second = Config()
    assert attach(second, path) is True
    assert second.cache is not None
    assert second.cache.words == {b"one"}


def test_two_builds_at_once_both_leave_their_times(tmp_path: Path) -> None:
    path = tmp_path / "x.cache"
    configs = [Config(), Config()]
    for config, word in zip(configs, (b"one", b"two"), strict=True):
        attach(config, path)
        assert config.cache is not None
        config.cache.words = {word}
    for config in configs:
        keep(config, path)
    assert path.read_bytes() == b"one two"


@pytest.mark.parametrize("content", [b"bad", b"foreign"])
def test_one_that_tensorrt_refuses_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.cache"
    path.write_bytes(content)
    config = Config()
    assert attach(config, path) is False
    assert config.cache is not None
    config.cache.words = {b"new"}
    keep(config, path)
    assert b"new" in path.read_bytes().split()


def test_a_cache_beyond_all_measure_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_MAX_BYTES", 100)
    path = tmp_path / "x.cache"
    path.write_bytes(b"w " * 51)
    config = Config()
    assert attach(config, path) is False
    keep(config, path)
    assert path.read_bytes() == b""


def test_a_cache_that_cannot_be_kept_costs_only_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    config = Config()
    path = tmp_path / "file" / "x.cache"
    assert attach(config, path) is False
    keep(config, path)
    assert "the timing cache is not kept" in caplog.text
    (tmp_path / "folder.cache").mkdir()
    assert attach(config, tmp_path / "folder.cache") is False
    keep(config, tmp_path / "folder.cache")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.cache"]


def test_without_a_cache_nothing_is_kept(tmp_path: Path) -> None:
    keep(Config(), tmp_path / "x.cache")
    assert list(tmp_path.iterdir()) == []
