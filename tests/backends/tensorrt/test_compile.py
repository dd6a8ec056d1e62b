"""One build in this process, step by step, by a TensorRT that does what a test says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from boxwright.backends.tensorrt import compile as compile_module
from boxwright.backends.tensorrt.compile import Request, compile_plan
from boxwright.backends.tensorrt.library import Library
from boxwright.backends.tensorrt.settings import Settings
from boxwright.errors import BuildError
from boxwright.progress import silent
from tests.backends.tensorrt.modules import (
    VERSIONS,
    FakeBuilder,
    FakeConfig,
    FakeNetwork,
    Severity,
    make_trt,
)
from tests.models import make_model

MODEL = make_model().to_bytes()
LAYERS = {
    "Layers": [
        {
            "Name": "conv",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Datatype": "Half"}],
            "Outputs": [{"Datatype": "Float"}],
        }
    ]
}


class Config(FakeConfig):
    """With a timing cache that remembers nothing."""

    progress_monitor: Any = None

    def create_timing_cache(self, content: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: b"times", combine=lambda other, ignore: True)

    def set_timing_cache(self, cache: Any, ignore: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


class Tensorrt:
    """A version whose build is `work`, called with the logger and the configuration."""

    def __init__(
        self,
        version: str,
        work: Callable[[Any, Config], bytes | None] = lambda logger, config: b"plan",
    ) -> None:
        trt = make_trt(version)
        self.library = Library(trt, "tensorrt", version)
        self.config = Config()

        class Builder(FakeBuilder):
            def __init__(this, logger: Any) -> None:  # noqa: N805 - two selves
                super().__init__(self.config)
                this.logger = logger

            def create_network(this, flags: int) -> FakeNetwork:  # noqa: N805
                assert flags == (0 if self.library.strongly_typed_only else 1)
                return FakeNetwork()

            def build_serialized_network(this, network: Any, config: Any) -> Any:  # noqa: N805
                return work(this.logger, config)

        trt.Builder = Builder
        trt.OnnxParser = lambda network, logger: SimpleNamespace(parse=lambda model: True)
        trt.Runtime = lambda logger: Runtime(trt)


class Runtime:
    """Loads version-compatible plans as TensorRT does: where host code is allowed."""

    engine_host_code_allowed = False

    def __init__(self, trt: Any) -> None:
        self._trt = trt

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        return Engine(self._trt) if self.engine_host_code_allowed else None


class Engine:
    """Its inspector tells types only where the context knows the batch."""

    def __init__(self, trt: Any) -> None:
        modes = trt.TensorIOMode
        self._shape: Any = None
        self.num_io_tensors = 2
        self.get_tensor_name = ("images", "boxes").__getitem__
        self.get_tensor_mode = {"images": modes.INPUT, "boxes": modes.OUTPUT}.__getitem__

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 32, 64, 3) if name == "images" else (-1, 128, 4)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert (name, index) == ("images", 0)
        return [(count, 32, 64, 3) for count in (1, 2, 4)]

    def create_execution_context(self) -> Any:
        return self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = (name, shape)
        return True

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=self._describe)

    def _describe(self, form: Any) -> str:
        assert form.name == "JSON"
        assert self._shape == ("images", (2, 32, 64, 3))
        return json.dumps(LAYERS)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(
        trt: Tensorrt,
        progress: Any = silent,
        precision: str = "fp32",
        stopped: Callable[[], bool] = lambda: False,
        **settings: Any,
    ) -> Any:
        monkeypatch.setattr(compile_module, "load_library", lambda backend: trt.library)
        request = Request("tensorrt", precision, Settings(**settings), None, "none")
        return compile_plan(request, MODEL, progress, stopped)

    return run


def log(logger: Any, severity: str, *lines: str) -> None:
    for line in lines:
        logger.log(Severity[severity], line)


@pytest.mark.parametrize("version", VERSIONS[:3])
def test_it_gives_the_plan_and_what_is_known_of_it(
    build: Any, version: str, isolated_cache: Path
) -> None:
    def work(logger: Any, config: Config) -> bytes:
        log(logger, "WARNING", *(f"warning {number}" for number in range(50)))
        return b"the plan"

    built = build(Tensorrt(version, work))
    assert built.plan == b"the plan"
    assert built.evidence["layers"] == {"float16": {"CaskConvolution": 1}}
    facts = built.evidence["tensorrt"]
    assert (facts["library"], facts["version"], facts["plan_bytes"]) == ("tensorrt", version, 8)
    assert facts["warnings"][0] == "warning 0"
    assert len(facts["warnings"]) == 20
    assert built.evidence["settings"]["applied"]["timing_cache"] == "begun"
    json.dumps(built.evidence)
    (cache,) = isolated_cache.rglob("*.cache")
    assert cache.read_bytes() == b"times"
    again = build(Tensorrt(version, work))
    assert again.evidence["settings"]["applied"]["timing_cache"] == "used"


def test_a_timing_cache_is_not_kept_unasked(build: Any, isolated_cache: Path) -> None:
    trt = Tensorrt(VERSIONS[0])
    built = build(trt, timing_cache=False)
    assert "timing_cache" not in built.evidence["settings"]["applied"]
    assert list(isolated_cache.rglob("*.cache")) == []


@pytest.mark.parametrize("version", VERSIONS[:3])
def test_progress_has_one_source(build: Any, version: str) -> None:
    """8.6 has its log only; later ones have a monitor, and log the same lines as well."""

    def work(logger: Any, config: Config) -> bytes:
        log(logger, "VERBOSE", "After final dead-layer removal: 10 layers")
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Building", None, 10)
        for step in range(10):
            log(logger, "VERBOSE", "=============== Computing costs for {x}")
            if monitor is not None and step % 3 == 0:
                monitor.step_complete("Building", step // 3)
        return b"plan"

    seen: list[Any] = []
    build(Tensorrt(version, work), lambda *now: seen.append(now))
    stages = {stage for stage, *_ in seen}
    own = "choose kernels" if version == VERSIONS[0] else "building"
    assert stages == {"read the model", own, "describe the engine"}
    done = [now for _, now, _ in seen]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 1000)


def test_layers_found_late_do_not_turn_progress_back(build: Any) -> None:
    def work(logger: Any, config: Config) -> bytes:
        for total in (4, 100):
            log(logger, "VERBOSE", f"After final dead-layer removal: {total} layers")
            log(logger, "VERBOSE", *["=============== Computing costs for {x}"] * 2)
        return b"plan"

    seen: list[int] = []
    build(Tensorrt(VERSIONS[0], work), lambda stage, done, total: seen.append(done))
    assert seen == [0, 250, 500, 500, 500, 1000]


def _nothing(logger: Any, config: Config) -> None:
    log(logger, "ERROR", *(f"reason {number}" for number in range(5)))


def _throws(logger: Any, config: Config) -> None:
    raise RuntimeError("a C++ exception")


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (_nothing, "cannot build the model: reason 2; reason 3; reason 4"),
        (_throws, "cannot build the model: a C\\+\\+ exception"),
        (lambda logger, config: None, "cannot build the model: it does not say why"),
    ],
)
def test_a_failed_build_says_what_tensorrt_said(build: Any, work: Any, words: str) -> None:
    for version in VERSIONS[:3]:
        with pytest.raises(BuildError, match=words):
            build(Tensorrt(version, work))


def test_a_builder_that_does_not_start_is_told(build: Any) -> None:
    trt = Tensorrt(VERSIONS[0])

    def refuse(logger: Any) -> None:
        log(logger, "ERROR", "6: CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.library.trt.Builder = refuse
    with pytest.raises(BuildError, match=r"tensorrt 8\.6\.1 does not start: CUDA initialization"):
        build(trt)


def test_a_refused_setting_is_told_before_anything_is_built(build: Any) -> None:
    worked: list[int] = []

    def work(logger: Any, config: Config) -> bytes:
        worked.append(1)
        return b"plan"

    with pytest.raises(BuildError, match=r"refuses hardware: .*; dla_core: this machine has no"):
        build(Tensorrt(VERSIONS[0], work), hardware="same-compute-capability", dla_core=0)
    assert not worked


def test_a_stopped_build_is_told(build: Any) -> None:
    def work(logger: Any, config: Config) -> bytes | None:
        config.progress_monitor.phase_start("x", None, 2)
        return None if not config.progress_monitor.step_complete("x", 0) else b"plan"

    with pytest.raises(BuildError, match="the build was stopped"):
        build(Tensorrt(VERSIONS[1], work), stopped=lambda: True)


def test_what_the_callback_raises_comes_out_also_where_nothing_can_be_stopped(build: Any) -> None:
    def work(logger: Any, config: Config) -> bytes:
        log(logger, "VERBOSE", "After final dead-layer removal: 2 layers")
        log(logger, "VERBOSE", "=============== Computing costs for {x}")
        return b"plan"

    def interrupt(stage: str, done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(Tensorrt(VERSIONS[0], work), interrupt)


def test_int8_needs_a_quantised_model(build: Any) -> None:
    with pytest.raises(BuildError, match="int8 needs a quantised model"):
        build(Tensorrt(VERSIONS[0]), precision="int8")


def test_a_plan_that_cannot_be_looked_into_has_no_layers(build: Any) -> None:
    trt = Tensorrt(VERSIONS[0])
    trt.library.trt.Runtime = lambda logger: SimpleNamespace(
        deserialize_cuda_engine=lambda plan: None
    )
    evidence = build(trt).evidence
    assert evidence["layers"] == {}
    assert evidence["layer_precisions"] == []
