"""TensorRT-RTX's own runtime: kernels compiled when loading, and kept for the next time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from boxwright.backends.tensorrt.loaded import LoadedEngine
from boxwright.backends.tensorrt.runtime import RtxContexts
from boxwright.errors import EngineError
from tests.backends.tensorrt.modules import RTX, DataType, make_library


class Cache:
    """An ``IRuntimeCache``."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, content: bytes) -> bool:
        self.content = content
        return content != b"damaged"

    def serialize(self) -> bytes:
        return self.content


class Engine:
    """An ``ICudaEngine`` whose contexts each add a kernel to the cache."""

    num_io_tensors = 1
    num_optimization_profiles = 1

    def __init__(self) -> None:
        self.cache = Cache()
        self.config: Any = SimpleNamespace(
            create_runtime_cache=lambda: self.cache, set_runtime_cache=self._take
        )
        self.taken: Any = None
        self.working = True

    def _take(self, cache: Cache) -> None:
        self.taken = cache

    def create_runtime_config(self) -> Any:
        return self.config

    def create_execution_context(self, config: Any) -> Any:
        assert config is self.config
        assert self.taken is self.cache
        self.cache.content += b"kernel "
        return object() if self.working else None

    def get_tensor_name(self, index: int) -> str:
        return "images"

    def get_tensor_mode(self, name: str) -> Any:
        return make_library(RTX).trt.TensorIOMode.INPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 2, 2, 3)

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.UINT8

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(count, 2, 2, 3) for count in (1, 2, 4)]


def contexts(engine: Engine, plan: bytes = b"plan", gpu: str = "RTX", graphs: bool = True) -> Any:
    return RtxContexts(make_library(RTX), engine, plan, gpu, graphs)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("runtime/*.cache"))


def test_kernels_are_kept_and_found_again(isolated_cache: Path) -> None:
    first = Engine()
    them = contexts(first)
    assert them.create() is not None
    assert them.create() is not None
    them.keep()
    (path,) = kept(isolated_cache)
    assert path.read_bytes() == b"kernel kernel "
    second = Engine()
    contexts(second)
    assert second.cache.content == b"kernel kernel "


def test_each_plan_on_each_gpu_has_its_own(isolated_cache: Path) -> None:
    for plan in (b"one", b"two"):
        for gpu in ("RTX 4090", "RTX 3080"):
            them = contexts(Engine(), plan, gpu)
            them.create()
            them.keep()
    assert len(kept(isolated_cache)) == 4


def test_nothing_compiled_is_nothing_kept(isolated_cache: Path) -> None:
    contexts(Engine()).keep()
    assert kept(isolated_cache) == []


def test_a_damaged_cache_costs_only_time(isolated_cache: Path) -> None:
    them = contexts(Engine())
    them.create()
    them.keep()
    (path,) = kept(isolated_cache)
    path.write_bytes(b"damaged")
    engine = Engine()
    assert contexts(engine).create() is not None


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "file"))
    them = contexts(Engine())
    assert them.create() is not None
    them.keep()
    assert "compiled kernels are not kept" in caplog.text


@pytest.mark.parametrize("graphs", [True, False])
def test_it_records_graphs_itself(graphs: bool) -> None:
    engine = Engine()
    contexts(engine, graphs=graphs)
    strategy = vars(engine.config).get("cuda_graph_strategy")
    assert (strategy is not None) == graphs
    assert strategy is None or strategy.name == "WHOLE_GRAPH_CAPTURE"


def test_a_loaded_engine_makes_its_contexts_so(isolated_cache: Path) -> None:
    library, engine = make_library(RTX), Engine()
    library.trt.TensorIOMode = type(engine.get_tensor_mode(""))
    library.trt.Runtime = lambda logger: SimpleNamespace(
        deserialize_cuda_engine=lambda plan: engine
    )
    engine.get_tensor_mode = lambda name: library.trt.TensorIOMode.INPUT  # type: ignore[method-assign]
    loaded = LoadedEngine(library, b"plan", gpu_name="RTX")
    assert loaded.create_context() is not None
    loaded.keep_kernels()
    assert len(kept(isolated_cache)) == 1
    engine.working = False
    with pytest.raises(EngineError, match="tensorrt-rtx cannot make an execution context: there"):
        loaded.create_context()
