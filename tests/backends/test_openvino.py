"""OpenVINO: the common suite, its plans, its options, and that nothing is reported."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import boxwright
from boxwright import backends
from boxwright.backends import openvino as module
from boxwright.backends.openvino import OpenVinoBackend, runtime, settings
from boxwright.backends.openvino.plan import PlanFile
from boxwright.backends.openvino.runner import OpenVinoRunner, portions
from boxwright.backends.options import make_spec
from boxwright.errors import BackendUnavailableError, BuildError, EngineError, InputError
from boxwright.images import load_image
from boxwright.preprocess import Preprocessor
from tests.backends.conformance import BackendConformance
from tests.models import make_images, make_model

if TYPE_CHECKING:
    from boxwright.backends.base import Tensors
    from boxwright.engine import Engine
    from boxwright.model import Model

# Not importorskip: that would import OpenVINO with its usage reporting.
if importlib.util.find_spec("openvino") is None:
    pytest.skip("openvino is not installed", allow_module_level=True)

BF16 = {"inference_precision": "bf16"}
needs_bf16 = pytest.mark.skipif(
    "BF16" not in runtime.capabilities("CPU"), reason="this processor has no bfloat16"
)


class TestConformance(BackendConformance):
    backend = "openvino"
    box_tolerance = 1e-4
    score_tolerance = 1e-6
    unsupported = ("fp16",)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return backends.build(make_model(), backend="openvino", output=tmp_path / "engine.bw")


def load(source: Any, **options: Any) -> OpenVinoRunner:
    runner = backends.load(source, backend="openvino", options=options)
    assert isinstance(runner, OpenVinoRunner)
    return runner


def results_of(source: Any, images: Any, **options: Any) -> Tensors:
    with load(source, **options) as runner:
        return runner.infer({"images": images})


# What runs


def test_it_computes_in_float32_though_openvino_would_not(engine: Engine) -> None:
    """Where the processor has bfloat16, OpenVINO takes it unless told otherwise."""
    receipt = engine.receipt
    assert receipt["layers"]["float32"]["Convolution"] == 5
    assert not {"bfloat16", "float16"} & set(receipt["layers"])
    assert receipt["openvino"]["asked"]["inference_precision"] == "f32"
    assert receipt["openvino"]["runs"]["inference_precision"] == "f32"
    assert receipt["openvino"]["runs"]["execution_mode_hint"] == "accuracy"
    assert receipt["environment"]["libraries"]["openvino"] == runtime.version()
    assert "+bf16" not in engine.plans[0]
    for name in ("boxes", "scores"):
        assert 0 <= receipt["parity"]["outputs"][name]["nrmse"] < 1e-6
    with load(engine) as runner:  # an exported model does not keep the precision
        assert module._summarise(runner.compiled) == receipt["layers"]


@needs_bf16
def test_bfloat16_runs_where_it_is_asked_for_and_says_so(tmp_path: Path) -> None:
    model, images = make_model(), make_images(make_model(), 2)
    path = tmp_path / "x.bw"
    built = backends.build(model, backend="openvino", options=BF16, output=path)
    assert built.receipt["layers"]["bfloat16"]["Convolution"] == 5
    assert built.receipt["openvino"]["runs"]["inference_precision"] == "bf16"
    assert built.receipt["build"]["options"] == BF16
    assert "_fp32+bf16_" in built.plans[0]
    assert 1e-4 < built.receipt["parity"]["outputs"]["scores"]["nrmse"] < 0.05
    # Loading needs no option: what was built is what runs.
    with load(path) as runner:
        assert "bfloat16" in module._summarise(runner.compiled)
        got = runner.infer({"images": images})
    exact = results_of(model, images)
    assert 1e-4 < np.abs(got["scores"] - exact["scores"]).max() < 0.1


@needs_bf16
def test_an_engine_of_bfloat16_may_be_run_in_float32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, images = make_model(), make_images(make_model(), 2)
    built = backends.build(model, backend="openvino", options=BF16, output=tmp_path / "x.bw")
    got = results_of(built, images, inference_precision="f32")
    assert "precision fp32+bf16 (here fp32)" in caplog.text
    np.testing.assert_array_equal(got["scores"], results_of(model, images)["scores"])


def test_bfloat16_is_refused_where_the_processor_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "capabilities", lambda _: frozenset({"FP32", "INT8", "BIN"}))
    message = r"needs a processor with AVX-512 BF16 or AMX; OpenVINO says .* in FP32, INT8; leave"
    with pytest.raises(BuildError, match=message):
        backends.build(make_model(), backend="openvino", options=BF16, output=tmp_path / "x.bw")
    with pytest.raises(BuildError, match=message):
        load(make_model(), **BF16)
    load(make_model()).close()


def test_a_device_without_float32_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "capabilities", lambda _: frozenset({"FP16", "INT8"}))
    with pytest.raises(
        BuildError, match=r"f32 needs a device that computes in FP32; .* FP16, INT8"
    ):
        load(make_model())


def test_a_compiled_model_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = module._export
    monkeypatch.setattr(module, "_export", lambda _, spec: export(make_model(seed=1), spec))
    with pytest.raises(BuildError, match="batch 1 computes another 'boxes' than the model"):
        backends.build(make_model(), backend="openvino", output=tmp_path / "x.bw")
    assert list(tmp_path.iterdir()) == []


# Plans


class CountingCore:
    """The core, and what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(runtime.core(), name)


def test_a_plan_that_fits_is_imported_and_nothing_compiled(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counting = CountingCore()
    monkeypatch.setattr(module, "core", lambda: counting)
    load(engine.path).close()
    assert counting.calls == ["import_model"]
    assert caplog.text == ""
    load(engine.model()).close()
    assert {"read_model", "compile_model"} <= set(counting.calls)


def test_the_fingerprint_tells_machines_versions_and_profiles_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = OpenVinoBackend()
    spec = make_spec("fp32", (1, 1, 16), "auto", None)
    here = backend.fingerprint(spec)
    assert here == backend.fingerprint(make_spec("fp32", (1, 1, 16), "cpu", {"num_streams": 2}))
    prints = {here, backend.fingerprint(make_spec("fp32", (1, 4, 8), "auto", None))}
    prints.add(backend.fingerprint(make_spec("fp32", (1, 1, 16), "auto", BF16)))
    monkeypatch.setattr(module, "cpu_features", lambda: ("avx2",))
    prints.add(backend.fingerprint(spec))
    monkeypatch.setattr(module, "version", lambda: "9.9.9")
    prints.add(backend.fingerprint(spec))
    assert len(prints) == 5


def test_a_plan_file_is_read_back() -> None:
    plan = PlanFile(("boxes", "scores"), False, {1: b"one", 8: b"eight"})
    assert PlanFile.from_bytes(plan.to_bytes()) == plan


def _header(**changes: Any) -> bytes:
    sound = {"outputs": ["a"], "fixed": False, "models": [{"batch": 1, "bytes": 3}]}
    text = json.dumps({**sound, **changes}).encode()
    return b"BWOPENV1" + len(text).to_bytes(4, "little") + text + b"xyz"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an OpenVINO plan"),
        (b"BWOPENV1", "not an OpenVINO plan"),
        (b"nonsense" * 9, "not an OpenVINO plan"),
        (b"BWOPENV1\xff\xff\xff\xff{}", "cut short within its header"),
        (b"BWOPENV1\x10\x00\x00\x00{}", "cut short within its header"),
        (b"BWOPENV1\x02\x00\x00\x00{}", "damaged header"),
        (b"BWOPENV1\x02\x00\x00\x00\xff\xff", "damaged header"),
        (b"BWOPENV1\x00\xc3\x00\x00" + b"[" * 0xC300, "damaged header"),
        (_header()[:-1], "should hold 3 bytes of compiled models, got 2"),
        (_header() + b"z", "should hold 3 bytes of compiled models, got 4"),
        (_header(outputs=[]), "distinct names"),
        (_header(outputs=["a", "a"]), "distinct names"),
        (_header(outputs=[["a"]]), "distinct names"),
        (_header(fixed=1), "true or false"),
        (_header(models=[]), "distinct batch sizes"),
        (_header(models=[{"batch": 0, "bytes": 3}]), "distinct batch sizes"),
        (_header(models=[{"batch": True, "bytes": 3}]), "distinct batch sizes"),
        (_header(models=[{"batch": 1, "bytes": -3}]), "distinct batch sizes"),
        (_header(models=[{"batch": 1, "bytes": 1}, {"batch": 1, "bytes": 2}]), "distinct batch"),
        (
            _header(fixed=True, models=[{"batch": n, "bytes": n} for n in (1, 2)]),
            "distinct batch sizes",
        ),
        (_header(models=[{"batch": 1}]), "damaged header"),
        (_header(models=7), "damaged header"),
        (_header(), "OpenVINO refuses the plan"),
    ],
)
def test_a_damaged_plan_is_an_engine_error(
    engine: Engine, tmp_path: Path, data: bytes, message: str
) -> None:
    crafted = engine.with_plan(engine.plans[0], data, tmp_path / "crafted.bw")
    with pytest.raises(EngineError, match=f"cannot be loaded: .*{message}"):
        backends.load(crafted)


def test_a_plan_of_other_tensors_is_refused(engine: Engine, tmp_path: Path) -> None:
    plan = PlanFile.from_bytes(engine.plan_bytes(engine.plans[0]))
    for number, (changed, message) in enumerate(
        [
            (PlanFile(("boxes", "rest"), False, plan.models), "gives no 'rest'"),
            (PlanFile(("boxes",), False, plan.models), "does not go with its card: 'scores'"),
            (PlanFile(plan.outputs, False, {2: plan.models[1]}), "first extent 1 where the batch"),
        ]
    ):
        path = tmp_path / f"{number}.bw"
        crafted = engine.with_plan(engine.plans[0], changed.to_bytes(), path)
        with pytest.raises(EngineError, match=message):
            backends.load(crafted)


MUTANTS = """
import sys
from boxwright import backends
from boxwright.engine import Engine
from boxwright.errors import EngineError
for path in sys.argv[1:]:
    try:
        backends.load(Engine.open(path)).close()
        print("loaded")
    except EngineError:
        print("refused")
"""


@pytest.mark.skipif(
    int(runtime.version().split(".")[0]) < 2026, reason="OpenVINO before 2026 crashes on a few"
)
def test_a_plan_changed_inside_does_not_end_the_process(engine: Engine, tmp_path: Path) -> None:
    """Lengths are right here, so OpenVINO itself has to notice, or at least to survive."""
    plan = PlanFile.from_bytes(engine.plan_bytes(engine.plans[0]))
    dice, paths = random.Random(0), []
    for number in range(40):
        blob = bytearray(plan.models[1])
        for _ in range(3):
            # Its header half of the time, else anywhere.
            place = dice.randrange(300 if number % 2 else len(blob))
            blob[place] ^= dice.randrange(1, 256)
        data = PlanFile(plan.outputs, plan.fixed, {1: bytes(blob)}).to_bytes()
        paths.append(engine.with_plan(engine.plans[0], data, tmp_path / f"{number}.bw").path)
    said = run_python(MUTANTS, *paths).stdout.split()
    assert len(said) == len(paths)
    assert said.count("refused") > len(paths) / 4


# Batches


@pytest.mark.parametrize(
    ("count", "sizes", "expected"),
    [
        # One model of one image: one after the other.
        (3, [1], [(0, 1, 1), (1, 1, 1), (2, 1, 1)]),
        # As many as fit into the larger, the rest by the smaller.
        (10, [1, 4], [(0, 4, 4), (4, 4, 4), (8, 1, 1), (9, 1, 1)]),
        (4, [1, 4], [(0, 4, 4)]),
        (1, [1, 4], [(0, 1, 1)]),
        # Too few even for the smaller: padded.
        (7, [2, 4], [(0, 4, 4), (4, 2, 2), (6, 1, 2)]),
        (1, [8], [(0, 1, 8)]),
        (9, [8], [(0, 8, 8), (8, 1, 8)]),
    ],
)
def test_batches_are_spread_over_the_models(
    count: int, sizes: list[int], expected: list[tuple[int, int, int]]
) -> None:
    assert list(portions(count, sizes)) == expected


@pytest.mark.parametrize("options", [{}, {"num_streams": 2}, {"performance_hint": "throughput"}])
def test_a_batch_of_any_size_gives_what_single_images_give(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    model = make_model()
    images = make_images(model, 11)
    single = results_of(model, images, **options)
    with backends.load(model, backend="reference") as reference:
        expected = reference.infer({"images": images})
    path = tmp_path / "x.bw"
    backends.build(model, backend="openvino", batch=(2, 4, 8), options=options, output=path)
    with load(path) as runner:
        assert sorted(runner.compiled) == [2, 4]
        for count in (1, 2, 3, 4, 7, 11):
            got = runner.infer({"images": images[:count]})
            for name, tolerance in (("boxes", 1e-4), ("scores", 1e-6)):
                np.testing.assert_allclose(got[name], expected[name][:count], 0, tolerance)
                np.testing.assert_allclose(got[name], single[name][:count], 0, tolerance)


def test_a_model_of_one_batch_size_keeps_it(tmp_path: Path) -> None:
    model = make_model()
    graph = model.proto.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    images = make_images(model, 3)
    path = tmp_path / "x.bw"
    engine = backends.build(model, backend="openvino", output=path)
    assert engine.receipt["openvino"]["batches"] == [3]
    with load(path) as runner:
        assert runner.inputs[0].shape[0] == runner.outputs[0].shape[0] == 3
        got = runner.infer({"images": images})
        with pytest.raises(InputError, match=r"of shape \[3, 32, 64, 3\]"):
            runner.infer({"images": images[:2]})
    expected = results_of(make_model(), images)
    np.testing.assert_allclose(got["scores"], expected["scores"], 0, 1e-6)


def _add_output(model: Model, kind: str, *inputs: str, shape: list[Any], **attributes: Any) -> None:
    graph = model.proto.graph
    graph.node.append(helper.make_node(kind, list(inputs), ["extra"], **attributes))
    element = TensorProto.INT64 if kind == "NonZero" else TensorProto.FLOAT
    graph.output.append(helper.make_tensor_value_info("extra", element, shape))


def test_an_output_whose_shape_depends_on_the_image_is_refused(tmp_path: Path) -> None:
    model = make_model()
    _add_output(model, "NonZero", "scores", shape=[3, None])
    message = "'extra' has the shape .* must follow from the batch size alone"
    with pytest.raises(BuildError, match=message):
        backends.build(model, backend="openvino", output=tmp_path / "x.bw")
    with pytest.raises(BuildError, match=message):
        load(model)


def test_an_output_without_a_row_per_image_is_refused(tmp_path: Path) -> None:
    model = make_model()
    _add_output(model, "Transpose", "scores", shape=[128, "N", 3], perm=[1, 0, 2])
    with pytest.raises(BuildError, match="first extent 128 where the batch is 1"):
        backends.build(model, backend="openvino", output=tmp_path / "x.bw")


def test_a_failing_run_is_an_engine_error_and_the_runner_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(make_model(), 3)
    with load(engine) as runner:
        expected = runner.infer({"images": images})
        bind, calls = runner._bind, list[int]()

        def fail(*arguments: Any) -> None:
            calls.append(1)
            if len(calls) == 2:
                raise RuntimeError("Exception from src/x.cpp:7:\nout of luck\n")
            bind(*arguments)

        monkeypatch.setattr(runner, "_bind", fail)
        with pytest.raises(EngineError, match=r"^OpenVINO failed: out of luck$"):
            runner.infer({"images": images})
        again = runner.infer({"images": images})
    np.testing.assert_array_equal(again["scores"], expected["scores"])


# Options and devices


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inference_precision": "fp16"}, "inference_precision must be 'f32' or 'bf16', got"),
        ({"inference_precision": 32}, "inference_precision must be"),
        ({"performance_hint": "LATENCY"}, "must be 'latency' or 'throughput', got 'LATENCY'"),
        ({"inference_num_threads": -1}, "inference_num_threads must be 0"),
        ({"inference_num_threads": 1.0}, "inference_num_threads must be 0"),
        ({"inference_num_threads": True}, "inference_num_threads must be 0"),
        ({"inference_num_threads": 10**9}, "inference_num_threads must be 0"),
        ({"num_streams": "2"}, "num_streams must be 0"),
        ({"scheduling_core_type": "fast"}, "'any_core' or 'pcore_only' or 'ecore_only', got"),
        ({"enable_cpu_pinning": 1}, "enable_cpu_pinning must be true or false, got 1"),
        ({"inference_precission": "f32"}, "did you mean 'inference_precision'"),
    ],
)
def test_an_option_out_of_range_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        backends.build(make_model(), backend="openvino", options=options, output=tmp_path / "x.bw")
    with pytest.raises(InputError, match=message):
        load(make_model(), **options)
    assert list(tmp_path.iterdir()) == []


def test_options_reach_openvino_when_compiling_and_when_importing(tmp_path: Path) -> None:
    options = {
        "inference_num_threads": 1,
        "num_streams": 1,
        "performance_hint": "throughput",
        "enable_cpu_pinning": False,
        "enable_hyper_threading": True,
        "scheduling_core_type": "any_core",
    }
    path = tmp_path / "x.bw"
    engine = backends.build(make_model(), backend="openvino", options=options, output=path)
    runs = engine.receipt["openvino"]["runs"]
    assert engine.receipt["openvino"]["asked"] == {**options, "inference_precision": "f32"}
    for name in ("inference_num_threads", "num_streams", "performance_hint", "enable_cpu_pinning"):
        assert runs[name] == options[name], name
    for source in (path, make_model()):
        with load(source, **options) as runner:
            (compiled,) = runner.compiled.values()
            assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
            assert compiled.get_property("ENABLE_CPU_PINNING") is False
            runner.infer({"images": make_images(make_model(), 2)})


class OtherDevices:
    """A core of a machine with other devices."""

    def __init__(self, *names: str) -> None:
        self.available_devices = list(names)


@pytest.mark.parametrize(
    ("present", "device", "expected"),
    [
        (("CPU",), "auto", "CPU"),
        (("CPU",), "cpu", "CPU"),
        (("CPU", "GPU"), "gpu", "GPU"),
        (("CPU", "GPU"), "gpu:0", "GPU.0"),
        (("CPU", "GPU.0", "GPU.1"), "gpu", "GPU"),
        (("CPU", "GPU.0", "GPU.1"), "gpu:1", "GPU.1"),
        (("CPU", "NPU"), "npu", "NPU"),
    ],
)
def test_devices_have_our_names(
    monkeypatch: pytest.MonkeyPatch, present: tuple[str, ...], device: str, expected: str
) -> None:
    monkeypatch.setattr(runtime, "core", lambda: OtherDevices(*present))
    assert runtime.find_device(device) == expected


@pytest.mark.parametrize("device", ["gpu", "gpu:1", "npu"])
def test_a_device_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(runtime, "core", lambda: OtherDevices("CPU", "GNA"))
    message = f"finds no device '{device}' on this machine; it finds cpu, gna"
    with pytest.raises(BackendUnavailableError, match=message):
        backends.build(make_model(), backend="openvino", device=device, output=tmp_path / "x.bw")
    with pytest.raises(InputError, match="is for the CPU only, and the device is"):
        backends.load(
            make_model(), backend="openvino", device=device, options={"inference_num_threads": 1}
        )


@pytest.mark.parametrize("device", ["cuda:0", "GPU", "gpu:", "gpu:x", "npu:0", "CPU"])
def test_another_devices_name_is_refused(device: str) -> None:
    with pytest.raises(InputError, match="device must be 'auto', 'cpu', 'gpu', 'gpu:N' or 'npu'"):
        backends.load(make_model(), backend="openvino", device=device)


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'boxwright\[openvino\]'"):
        backends.load(make_model(), backend="openvino")


# Quiet and private

QUIET = """
import socket, sys
def refuse(*_, **__):
    print("a connection was attempted")
    raise OSError("no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import numpy as np
from boxwright import backends
from boxwright.backends.openvino.plan import PlanFile
from boxwright.errors import BoxwrightError
from boxwright.model import Model
engine = backends.build(Model.load(sys.argv[1]), backend="openvino", output=sys.argv[2])
with backends.load(engine) as runner:
    runner.infer({"images": np.zeros((2, 32, 64, 3), np.uint8)})
for nonsense in (b"nonsense", PlanFile(("boxes",), False, {1: b"nonsense"}).to_bytes()):
    try:
        backends.load(engine.with_plan(engine.plans[0], nonsense, sys.argv[2]))
    except BoxwrightError:
        pass
reporters = [name for name in sys.modules if name.startswith("openvino_telemetry")]
if reporters:
    print(reporters)
"""


def test_nothing_is_printed_reported_or_left_in_the_home_folder(tmp_path: Path) -> None:
    """By default ``import openvino`` reports itself and keeps a client number in ~/intel."""
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    make_model().save(out / "model.onnx")
    # In continuous integration it does not report anyway.
    kept = {k: v for k, v in os.environ.items() if k.startswith(("PATH", "LD_", "SYSTEM", "TMP"))}
    done = run_python(
        QUIET, out / "model.onnx", out / "x.bw", environment={**kept, "HOME": str(home)}
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert list(home.rglob("*")) == []


def run_python(
    code: str, *arguments: Any, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    source = str(Path(boxwright.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        env={**(os.environ if environment is None else environment), "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


# Real weights


@pytest.mark.parametrize(
    "path", ["yolov4-tiny/yolov4-tiny.weights", "yolo-fastest/yolo-fastest-1.1-xl.weights"]
)
def test_trained_detectors_give_what_onnx_runtime_gives(fixtures_dir: Path, path: str) -> None:
    """Both sum the same float32 products in orders of their own.

    That differs by about 1e-6 of a score and, through exp(), of a box's size; the
    tolerances leave a factor of thirty for other processors' kernels. bfloat16 is beyond
    them by a factor of a hundred.
    """
    model = boxwright.import_model(fixtures_dir / "darknet" / path)
    prepare = Preprocessor(model.card).prepare
    photos = sorted((fixtures_dir / "photos").glob("*.jpg"))
    assert len(photos) >= 5
    images = np.stack([prepare(load_image(photo))[0] for photo in photos])
    with backends.load(model, backend="onnxruntime") as other:
        expected = other.infer({"images": images})
    got = results_of(model, images)
    np.testing.assert_allclose(got["scores"], expected["scores"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(got["boxes"], expected["boxes"], rtol=1e-4, atol=1e-2)
    assert (expected["scores"].max(axis=-1) > 0.5).sum() > 20
