"""The backend as a whole on machines that a test chooses: TensorRT's version, and the GPU."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from boxwright import backends
from boxwright.backends import tensorrt
from boxwright.backends.base import BuildSpec
from boxwright.backends.plans import Fingerprint, misfit
from boxwright.backends.tensorrt import TensorRtBackend, TensorRtRtxBackend, loaded
from boxwright.backends.tensorrt.compile import Built, Request
from boxwright.backends.tensorrt.library import Library
from boxwright.backends.tensorrt.plugins import load_plugins
from boxwright.card import ModelCard
from boxwright.cuda.device import Gpu, device_number
from boxwright.engine import Engine
from boxwright.errors import (
    BackendUnavailableError,
    BuildError,
    EngineError,
    InputError,
    ModelError,
    NoPlanError,
)
from boxwright.model import Model
from tests.backends.tensorrt.host_gpu import (
    IMAGE,
    HostStream,
    compute,
    host_library,
    make_pixels,
)
from tests.backends.tensorrt.modules import RTX, VERSIONS, make_library
from tests.models import GraphBuilder

A10 = ("NVIDIA A10", (8, 6))
H200 = ("NVIDIA H200", (9, 0))
T4 = ("Tesla T4", (7, 5))


class Machine:
    """What is installed, and the GPUs; `requests` are the builds that were made, `given`
    the models they were made from."""

    def __init__(self, version: str = "8.6.1", *gpus: tuple[str, tuple[int, int]]) -> None:
        self.version = version
        self.gpus = gpus or (A10,)
        self.requests: list[Request] = []
        self.given: list[bytes] = []
        self.isolated: list[bool] = []
        self.streams: list[HostStream] = []
        self.plan: bytes | None = None

    def library(self, backend: str) -> Library:
        if backend == "tensorrt-rtx":
            return make_library(RTX)
        found = host_library()
        known = next(v for v in VERSIONS if v.split(".")[0] == self.version.split(".")[0])
        for name, value in vars(make_library(known).trt).items():
            if name not in ("Runtime", "TensorIOMode"):
                setattr(found.trt, name, value)
        return Library(found.trt, backend, self.version)

    def find_gpu(self, device: str) -> Gpu:
        index = device_number(device)
        if index >= len(self.gpus):
            raise BackendUnavailableError(f"there is no GPU {index}")
        name, capability = self.gpus[index]
        return Gpu(index, name, capability, 2**34, (12, 4))

    def unavailable(self) -> str | None:
        return None if self.gpus else "there is no driver"

    def stream(self, device: str) -> HostStream:
        self.streams.append(HostStream("cuda:0" if device == "auto" else device))
        return self.streams[-1]

    def build(self, request: Request, model: bytes, progress: Any) -> Built:
        self.requests.append(request)
        self.given.append(model)
        plan = json.dumps({"profiles": request.settings.profiles}).encode()
        return Built(self.plan or plan, {"tensorrt": {"build_seconds": 1.0}})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """One with TensorRT 8.6.1 and an A10; its attributes may be changed."""
    it = Machine()
    monkeypatch.setattr(tensorrt, "load_library", it.library)
    monkeypatch.setattr(tensorrt, "find_gpu", it.find_gpu)
    monkeypatch.setattr(tensorrt, "gpu_unavailable", it.unavailable)
    monkeypatch.setattr(tensorrt, "gpu_count", lambda: len(it.gpus))
    monkeypatch.setattr(tensorrt, "Stream", it.stream)

    def isolated(request: Request, model: bytes, progress: Any) -> Built:
        it.isolated.append(True)
        return it.build(request, model, progress)

    def here(request: Request, model: bytes, progress: Any) -> Built:
        it.isolated.append(False)
        return it.build(request, model, progress)

    monkeypatch.setattr(tensorrt, "build_isolated", isolated)
    monkeypatch.setattr(tensorrt, "compile_plan", here)
    yield it
    for stream in it.streams:
        assert stream.closed, "a stream was left open"


def make_model() -> Model:
    """What :func:`tests.backends.tensorrt.host_gpu.compute` computes, as a graph."""
    build = GraphBuilder(0)
    whole = build.op("Cast", "images", to=TensorProto.FLOAT)
    pixels = build.op("Reshape", whole, build.constant([0, -1], np.int64))
    width = int(np.prod(IMAGE))

    def part(begin: int, end: int) -> str:
        limits = [build.constant([value], np.int64) for value in (begin, end, 1)]
        found = build.op("Slice", pixels, *limits)
        return build.op("Unsqueeze", found, build.constant([1], np.int64))

    second = build.op("Add", build.op("Mul", part(4, 8), build.constant(2)), build.constant(1))
    build.op("Concat", part(0, 4), second, output="boxes", axis=1)
    high = build.op("Div", part(width - 3, width), build.constant(255))
    low = build.op("Div", part(0, 3), build.constant(512))
    build.op("Concat", high, low, output="scores", axis=1)
    graph = helper.make_graph(
        build.nodes,
        "host",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *IMAGE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 2, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2, 3]),
        ],
        build.weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(proto, full_check=True)
    card = ModelCard(name="host", class_names=("a", "b", "c"), input_size=IMAGE[:2])
    return Model(proto, card)


def build(path: Path, **options: Any) -> Engine:
    return backends.build(make_model(), backend="tensorrt", output=path / "x.bw", options=options)


def run(source: Any, **arguments: Any) -> None:
    """Load and run; the results must be right."""
    images = make_pixels(3)
    with backends.load(source, **arguments) as runner:
        got = runner.infer({"images": images})
    for name, array in compute(images).items():
        np.testing.assert_allclose(got[name], array, rtol=1e-6)


# Building and running


def test_it_builds_checks_and_runs(machine: Machine, tmp_path: Path) -> None:
    engine = build(tmp_path)
    assert machine.isolated == [True]
    (request,) = machine.requests
    assert (request.backend, request.precision, request.gpu) == ("tensorrt", "fp32", 0)
    assert request.gpu_name == "NVIDIA A10"
    parity = engine.receipt["parity"]["outputs"]
    assert set(parity) == {"boxes", "scores"}
    assert all(found["nrmse"] < 1e-6 for found in parity.values())
    assert engine.receipt["device"]["compute_capability"] == "8.6"
    run(engine)
    run(engine.path)
    assert len(machine.requests) == 1


def test_a_model_runs_without_an_engine_file(machine: Machine) -> None:
    run(make_model(), backend="tensorrt")
    assert len(machine.requests) == 1


def test_it_builds_in_this_process_where_asked_to(machine: Machine, tmp_path: Path) -> None:
    build(tmp_path, isolate=False)
    assert machine.isolated == [False]


def test_another_gpu_of_the_machine_is_used_where_asked_for(
    machine: Machine, tmp_path: Path
) -> None:
    machine.gpus = (A10, H200)
    engine = backends.build(
        make_model(), backend="tensorrt", output=tmp_path / "x.bw", device="cuda:1"
    )
    assert "sm90-NVIDIA-H200" in engine.plans[0]
    assert (machine.requests[0].gpu, machine.requests[0].gpu_name) == (1, "NVIDIA H200")
    run(engine, device="cuda:1")
    assert {stream.device for stream in machine.streams} == {"cuda:1"}
    with pytest.raises(BackendUnavailableError, match="no GPU 2"):
        run(engine, device="cuda:2")
    with pytest.raises(InputError, match="device must be"):
        run(engine, device="cpu")


def test_a_plan_that_computes_something_else_is_refused(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.backends.tensorrt import host_gpu

    def wrong(images: Any) -> Any:
        return {name: array * 1.02 for name, array in compute(images).items()}

    monkeypatch.setattr(host_gpu, "compute", wrong)
    with pytest.raises(BuildError, match="tensorrt's plan computes another 'boxes' than the model"):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []
    # Half precision may be that far away.
    backends.build(make_model(), backend="tensorrt", output=tmp_path / "x.bw", precision="fp16")


def test_a_plan_that_does_not_run_is_refused(machine: Machine, tmp_path: Path) -> None:
    machine.plan = b"nonsense"
    with pytest.raises(BuildError, match=r"the model builds, but does not run: .*magicTag"):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_nothing_runs(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build(tmp_path)
    machine.gpus = ()
    with pytest.raises(BackendUnavailableError, match="there is no driver"):
        backends.load(engine)
    assert TensorRtBackend().unavailable() == "there is no driver"
    assert TensorRtRtxBackend().unavailable() is None
    for backend in (TensorRtBackend(), TensorRtRtxBackend()):
        with pytest.raises(BackendUnavailableError, match="runs on a GPU only: there is no driver"):
            backend.load(make_model(), BuildSpec())


@pytest.mark.parametrize("version", ["8.6.1", "10.9.0.34", "11.1"])
def test_capabilities(machine: Machine, version: str) -> None:
    machine.version, machine.gpus = version, (A10, H200)
    assert TensorRtBackend().capabilities() == {
        "precisions": ["fp32", "fp16", "int8"],
        "devices": ["cuda:0", "cuda:1"],
    }
    machine.gpus = ()
    found = TensorRtRtxBackend().capabilities()
    assert found["devices"] == []
    assert "there is no driver" in found["note"]


@pytest.mark.parametrize(
    ("version", "precision", "derived"),
    [
        ("8.6.1", "fp16", False),
        ("10.9.0.34", "fp16", False),
        ("11.1", "fp32", False),
        ("11.1", "fp16", True),
    ],
)
def test_where_types_come_from_the_graph_a_typed_one_is_built(
    machine: Machine, version: str, precision: Any, derived: bool
) -> None:
    machine.version = version
    model = make_model()
    plan = TensorRtBackend().compile(model, BuildSpec(precision))
    assert ("typed" in plan.evidence) == derived
    (given,) = machine.given
    assert (given == model.to_bytes()) != derived
    # It is judged by the portable graph all the same.
    assert plan.evidence["parity"]["outputs"]["boxes"]["nrmse"] == 0


def test_a_model_without_a_typed_form_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ModelError("the opset cannot be raised")

    machine.version = "11.1"
    monkeypatch.setattr("boxwright.graph.precision.to_half", refuse)
    with pytest.raises(BuildError, match=r"no float16 form .*: the opset cannot be raised"):
        TensorRtBackend().compile(make_model(), BuildSpec("fp16"))


# Fingerprints


@pytest.mark.parametrize(
    ("version", "options", "expected"),
    [
        ("8.6.1", {}, "8.6.1+1_sm86-NVIDIA-A10+PLATFORM_fp32_b1-1-16"),
        ("8.6.1", {"tf32": True}, "8.6.1+1_sm86-NVIDIA-A10+PLATFORM_fp32+tf32_b1-1-16"),
        (
            "8.6.1",
            {"version_compatible": True, "hardware": "ampere-plus"},
            "8.6.1+1+vc_ampere-plus+PLATFORM_fp32_b1-1-16",
        ),
        (
            "11.1.0.106",
            {"hardware": "same-compute-capability"},
            "11.1.0.106+1_sm86+PLATFORM_fp32_b1-1-16",
        ),
        ("10.9.0.34", {"strip": True}, "10.9.0.34+1+strip_sm86-NVIDIA-A10+PLATFORM_fp32_b1-1-16"),
        # 8.6 strips nothing, so the plan is a whole one.
        ("8.6.1", {"strip": True}, "8.6.1+1_sm86-NVIDIA-A10+PLATFORM_fp32_b1-1-16"),
        (
            "8.6.1",
            {"profiles": "1:1:1,4:8:8"},
            "8.6.1+1_sm86-NVIDIA-A10+PLATFORM_fp32_b1-1-1+4-8-8",
        ),
        ("8.6.1", {"dla_core": 1}, "8.6.1+1_sm86-NVIDIA-A10+PLATFORM+dla1_fp32_b1-1-16"),
        # What changes neither results nor where it runs is not told apart.
        (
            "8.6.1",
            {"workspace": "1g", "timing_cache": False, "isolate": False, "optimization_level": 5},
            "8.6.1+1_sm86-NVIDIA-A10+PLATFORM_fp32_b1-1-16",
        ),
    ],
)
def test_fingerprints_say_what_a_plan_depends_on(
    machine: Machine, version: str, options: dict[str, Any], expected: str
) -> None:
    machine.version = version
    text = TensorRtBackend().fingerprint(BuildSpec(options=options))
    found = Fingerprint.parse(text)
    assert found is not None
    platform = re.sub(r".*\+(linux|darwin|windows)(-[^_+]+).*", r"\1\2", text)
    assert text == f"tensorrt_{expected.replace('PLATFORM', platform)}"
    assert re.fullmatch(r"[A-Za-z0-9._+-]+", text)


def test_strange_gpu_names_make_no_strange_fingerprints(machine: Machine) -> None:
    machine.gpus = (("GeForce RTX™ 4090_Ti+ (süß)/..", (8, 9)),)
    text = TensorRtBackend().fingerprint(BuildSpec())
    assert re.fullmatch(r"[A-Za-z0-9._+-]+", text)
    found = Fingerprint.parse(text)
    assert found is not None
    assert misfit(TensorRtBackend(), text, BuildSpec()) is None


# Other machines than the one it was built on


@pytest.mark.parametrize(
    ("options", "version", "gpu", "rebuilt"),
    [
        ({}, "8.6.1", A10, None),
        ({}, "8.6.1", H200, "device sm86-NVIDIA-A10"),
        ({}, "10.9.0.34", A10, "not built version_compatible"),
        ({"hardware": "ampere-plus"}, "8.6.1", H200, None),
        ({"hardware": "ampere-plus"}, "10.9.0.34", H200, "not built version_compatible"),
        ({"version_compatible": True}, "10.9.0.34", A10, None),
        ({"version_compatible": True}, "10.9.0.34", H200, "device sm86"),
        ({"version_compatible": True, "hardware": "ampere-plus"}, "10.9.0.34", H200, None),
        ({"version_compatible": True}, "11.1.0.106", A10, "up to the next major version"),
    ],
)
def test_a_plan_runs_where_it_can_and_is_rebuilt_elsewhere(
    machine: Machine,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    version: str,
    gpu: tuple[str, tuple[int, int]],
    rebuilt: str | None,
) -> None:
    engine = build(tmp_path, **options)
    machine.version, machine.gpus = version, (gpu,)
    if rebuilt is None:
        run(engine, rebuild=False)
        assert len(machine.requests) == 1
        assert not caplog.records
    else:
        with pytest.raises(NoPlanError, match=re.escape(rebuilt)):
            run(engine, rebuild=False)
        run(engine)
        assert len(machine.requests) == 2
        assert rebuilt in caplog.text
        # It is kept for the next time.
        run(engine, rebuild=False)
        assert len(machine.requests) == 2


def test_another_precision_or_tf32_is_another_plan(machine: Machine, tmp_path: Path) -> None:
    engine = build(tmp_path)
    for arguments in ({"precision": "fp16"}, {"options": {"tf32": True}}):
        with pytest.raises(NoPlanError):
            run(engine, rebuild=False, **arguments)
    # Other batches are no reason: any batch runs, in pieces where it must.
    run(engine, rebuild=False, options={"profiles": "2:2:2"})


def test_a_plan_for_exactly_this_machine_goes_first(machine: Machine, tmp_path: Path) -> None:
    build(tmp_path, hardware="ampere-plus")
    engine = backends.build(
        Engine.open(tmp_path / "x.bw"),
        backend="tensorrt",
        output=tmp_path / "x.bw",
        options={"hardware": "none"},
    )
    assert len(engine.plans) == 2
    run(engine, rebuild=False)
    machine.gpus = (H200,)
    run(engine, rebuild=False)
    assert len(machine.requests) == 2


def test_one_that_was_to_fit_and_does_not_is_rebuilt(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = build(tmp_path, hardware="ampere-plus", version_compatible=True)
    machine.version = "10.9.0.34"
    broken = Engine.write(
        tmp_path / "y.bw",
        engine.model(),
        {**engine.receipt, "build": {**engine.receipt["build"], "plan_sha256": None}},
        {engine.plans[0]: b"magic"},
    )
    run(broken)
    assert len(machine.requests) == 2
    assert "magicTag mismatch" in caplog.text


def test_one_of_this_very_machine_that_is_refused_is_an_error(
    machine: Machine, tmp_path: Path
) -> None:
    engine = build(tmp_path)
    crafted = engine.with_plan(engine.plans[0], b"nonsense", tmp_path / "y.bw")
    with pytest.raises(EngineError, match=r"cannot be loaded: .*magicTag mismatch"):
        backends.load(crafted)
    assert len(machine.requests) == 1


@pytest.mark.parametrize("text", ["", "tensorrt", "tensorrt_1_2_3_4", "a_b_c_d_e", "_" * 4])
def test_foreign_fingerprints_do_not_fit(machine: Machine, text: str) -> None:
    assert isinstance(TensorRtBackend().fits(text, BuildSpec()), str)


# TensorRT-RTX


@pytest.mark.parametrize(
    ("gpu", "words"), [(A10, None), (("RTX 4090", (8, 9)), None), (H200, "device sm86+sm89")]
)
def test_rtx_runs_on_what_it_was_compiled_for(
    machine: Machine, gpu: tuple[str, tuple[int, int]], words: str | None
) -> None:
    backend = TensorRtRtxBackend()
    built = backend.fingerprint(BuildSpec(options={"compute_capabilities": "8.6,8.9"}))
    assert "_sm86+sm89+" in built
    machine.gpus = (gpu,)
    # Without the option, as another engine would be loaded.
    found = misfit(backend, built, BuildSpec())
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found


def test_rtx_compiled_for_all_runs_since_ampere(machine: Machine) -> None:
    backend = TensorRtRtxBackend()
    built = backend.fingerprint(BuildSpec())
    assert "_ampere-plus+" in built
    for gpu, fits in ((A10, True), (H200, True), (T4, False)):
        machine.gpus = (gpu,)
        own = BuildSpec(options={"compute_capabilities": "7.5"})
        assert (backend.fits(built, own) is None) == fits


def test_rtx_says_for_which_gpus_an_engine_was_built(machine: Machine) -> None:
    machine.gpus = (H200,)
    spec = BuildSpec(options={"compute_capabilities": "8.6,8.9"})
    with pytest.raises(NoPlanError) as caught:
        TensorRtRtxBackend().load(make_model(), spec)
    assert str(caught.value) == (
        "built for compute capabilities 8.6,8.9, and GPU 0 (NVIDIA H200) has 9.0; load it with "
        "the option compute_capabilities=9.0, or build it with compute_capabilities=8.6,8.9,9.0"
    )


# Plugins run code


def test_plugins_come_from_the_user_and_never_from_a_file(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        loaded, "load_plugins", lambda library, logger, files: opened.append(tuple(map(str, files)))
    )
    plugin = tmp_path / "evil.so"
    plugin.touch()
    engine = build(tmp_path)
    opened.clear()
    receipt = json.loads(json.dumps(engine.receipt))
    receipt["build"]["options"] = {"plugins": [str(plugin)]}
    crafted = Engine.write(
        tmp_path / "y.bw",
        engine.model(),
        receipt,
        {engine.plans[0]: engine.plan_bytes(engine.plans[0])},
    )
    run(crafted)
    assert opened == [()]
    # Nor where it has to be rebuilt.
    machine.gpus = (H200,)
    run(crafted)
    assert {path for files in opened for path in files} == set()
    assert machine.requests[-1].settings.plugins == ()
    opened.clear()
    run(crafted, options={"plugins": str(plugin)})
    assert opened == [(str(plugin),)]


def test_plugins_are_registered_by_tensorrt(tmp_path: Path) -> None:
    asked: list[str] = []

    def load(path: str) -> str | None:
        asked.append(path)
        return None if "bad" in path else "handle"

    library = make_library("10.9.0.34")
    library.trt.init_libnvinfer_plugins = lambda logger, space: asked.append("its own" + space)
    library.trt.get_plugin_registry = lambda: SimpleNamespace(load_library=load)
    files = (tmp_path / "a.so", tmp_path / "bad.so", tmp_path / "c.so")
    with pytest.raises(BuildError, match=r"cannot load the plugins in .*bad\.so"):
        load_plugins(library, None, files)
    assert asked == ["its own", *map(str, files[:2])]
    with pytest.raises(BuildError, match="TensorRT-RTX takes no plugins"):
        load_plugins(make_library(RTX), None, files)
    load_plugins(make_library(RTX), None, ())
