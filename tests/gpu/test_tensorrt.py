"""TensorRT on a real GPU: what no CPU test can show."""

from __future__ import annotations

import concurrent.futures
import ctypes
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import boxwright
from boxwright import backends
from boxwright.backends.base import BuildSpec
from boxwright.backends.tensorrt import TensorRtBackend
from boxwright.backends.tensorrt.library import load_library
from boxwright.backends.tensorrt.loaded import LoadedEngine
from boxwright.backends.tensorrt.log import Journal, make_logger
from boxwright.backends.tensorrt.runner import TensorRtRunner
from boxwright.cuda.stream import Stream
from boxwright.errors import BuildError, EngineError, InputError
from boxwright.model import Model
from tests.models import make_images, make_model

_REASON = backends.available()["tensorrt"]
pytestmark = pytest.mark.skipif(_REASON is not None, reason=f"TensorRT cannot work here: {_REASON}")

BATCHES = (1, 2, 4)


class OnGpu:
    """An array in GPU memory, as another library would show it."""

    def __init__(self, stream: Stream, array: np.ndarray[Any, Any]) -> None:
        self._stream, self._memory = stream, stream.allocate(array.nbytes)
        self.shape, self.dtype = array.shape, array.dtype
        self.fill(array)
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self._memory.address, False),
            "strides": None,
        }

    def fill(self, array: np.ndarray[Any, Any]) -> None:
        self._stream.upload(self._memory.address, np.ascontiguousarray(array))
        self._stream.synchronize()

    def read(self) -> np.ndarray[Any, Any]:
        array = np.empty(self.shape, self.dtype)
        self._stream.download(array, self._memory.address)
        self._stream.synchronize()
        return array


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


@pytest.fixture(scope="module")
def plan(model: Model) -> bytes:
    spec = BuildSpec(batch=BATCHES, options={"optimization_level": 0})
    return TensorRtBackend().compile(model, spec).data


@pytest.fixture
def runner(plan: bytes) -> Any:
    with TensorRtRunner(LoadedEngine(load_library("tensorrt"), plan), Stream()) as runner:
        yield runner


@pytest.fixture
def stream() -> Any:
    stream = Stream()
    yield stream
    stream.close()


def expected(model: Model, images: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    with backends.load(model, backend="onnxruntime", device="cpu") as runner:
        return runner.infer({"images": images})


def close(got: Any, want: Any, boxes: float = 2e-3, scores: float = 2e-5) -> None:
    np.testing.assert_allclose(got["boxes"], want["boxes"], rtol=0, atol=boxes)
    np.testing.assert_allclose(got["scores"], want["scores"], rtol=0, atol=scores)


def test_a_batch_beyond_the_largest_is_run_in_pieces(model: Model, runner: Any) -> None:
    images = make_images(model, 11)
    close(runner.infer({"images": images}), expected(model, images))


def test_graphs_of_several_batches_do_not_disturb_each_other(model: Model, runner: Any) -> None:
    wanted = {}
    for count in (1, 3, 4, 2):
        images = make_images(model, count, seed=count)
        wanted[count] = (images, expected(model, images))
    # The first call runs, the second records, later ones replay: in every order.
    for count in (1, 3, 1, 3, 4, 1, 2, 3, 4, 4, 2, 1, 2, 3, 1, 4, 3, 2, 1):
        images, want = wanted[count]
        close(runner.infer({"images": images}), want)


def test_graphs_change_nothing(model: Model, plan: bytes) -> None:
    images = make_images(model, 4)
    results = []
    for graphs in (True, False):
        with TensorRtRunner(LoadedEngine(load_library("tensorrt"), plan), Stream(), graphs) as it:
            results.append([it.infer({"images": images}) for _ in range(3)])
    for with_graphs, without in zip(*results, strict=True):
        np.testing.assert_array_equal(with_graphs["boxes"], without["boxes"])
        np.testing.assert_array_equal(with_graphs["scores"], without["scores"])


def test_a_page_locked_input_needs_no_copy(model: Model, runner: Any) -> None:
    images = make_images(model, 4)
    mine = runner.empty_input(4)
    assert mine.shape == images.shape
    mine[:] = images
    close(runner.infer({"images": mine}), expected(model, images))
    close(runner.infer({"images": mine[1:3]}), expected(model, images[1:3]))


def test_arrays_on_the_gpu_go_in_and_out(model: Model, runner: Any, stream: Stream) -> None:
    images = make_images(model, 4)
    want = expected(model, images)
    given = OnGpu(stream, images)
    for _ in range(3):
        found = runner.infer_device({"images": given})
        got = {}
        for name, array in found.items():
            view = stream.view(array)
            got[name] = np.empty(view.shape, view.dtype)
            stream.download(got[name], view.address)
        stream.synchronize()
        close(got, want)


def test_a_binding_runs_on_what_its_arrays_hold(model: Model, runner: Any, stream: Stream) -> None:
    first, second = make_images(model, 2, seed=1), make_images(model, 2, seed=2)
    given = OnGpu(stream, first)
    out = {
        name: OnGpu(stream, np.zeros_like(array)) for name, array in expected(model, first).items()
    }
    binding = runner.bind({"images": given}, out)
    for images in (first, second, first):
        given.fill(images)
        binding.run()
        runner.synchronize()
        close({name: array.read() for name, array in out.items()}, expected(model, images))


def test_wrong_arrays_on_the_gpu_are_refused(model: Model, runner: Any, stream: Stream) -> None:
    images = make_images(model, 2)
    with pytest.raises(InputError, match=r"inputs must be \['images'\]"):
        runner.infer_device({})
    with pytest.raises(InputError, match="must be uint8"):
        runner.infer_device({"images": OnGpu(stream, images.astype(np.float32))})
    with pytest.raises(InputError, match="of shape"):
        runner.infer_device({"images": OnGpu(stream, images[:, :16])})
    with pytest.raises(InputError, match="the batch must be 1 to 4, got 5"):
        runner.infer_device({"images": OnGpu(stream, make_images(model, 5))})
    for host in (images, "text", None):
        with pytest.raises(InputError, match=r"GPU memory|on the host"):
            runner.infer_device({"images": host})
    close(runner.infer({"images": images}), expected(model, images))


def test_siblings_work_at_the_same_time(model: Model, runner: Any) -> None:
    images = [make_images(model, 3, seed=seed) for seed in range(4)]
    wanted = [expected(model, batch) for batch in images]
    runners = [runner, *(runner.sibling() for _ in range(3))]

    def work(index: int) -> None:
        for _ in range(20):
            close(runners[index].infer({"images": images[index]}), wanted[index])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, index) for index in range(4)]:
            done.result()
    for sibling in runners[1:]:
        sibling.close()


def test_each_batch_gets_the_profile_made_for_it(model: Model, tmp_path: Path) -> None:
    options = {"profiles": "1:1:1,4:8:8"}
    path = tmp_path / "x.bw"
    engine = backends.build(model, backend="tensorrt", output=path, options=options)
    assert "b1-1-1+4-8-8" in engine.plans[0]
    with backends.load(engine) as runner:
        for count in (1, 2, 3, 4, 8, 9, 17):
            images = make_images(model, count)
            for _ in range(3):
                close(runner.infer({"images": images}), expected(model, images))


def has_lean_runtime() -> bool:
    version = load_library("tensorrt").trt.__version__.split(".")[0]
    try:
        ctypes.CDLL(f"libnvinfer_lean.so.{version}")
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "options",
    [
        {"tf32": True},
        {"optimization_level": 1},
        {"workspace": "64MiB"},
        {"version_compatible": True},
        {"hardware": "ampere-plus"},
        {"sparse_weights": True},
        {"refit": True},
        {"max_aux_streams": 0},
        {"timing_cache": False},
        {"tactic_sources": "edge_mask_convolutions,jit_convolutions"},
        {"isolate": False},
        {"cuda_graphs": False},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()),
)
def test_every_option_builds_and_runs(
    model: Model, tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "x.bw"
    if "version_compatible" in options and not has_lean_runtime():
        # What such an engine carries lies in a library of its own, which may be left out.
        with pytest.raises(BuildError, match="Unable to load library: libnvinfer_lean"):
            backends.build(model, backend="tensorrt", output=path, options=options)
        pytest.skip("TensorRT's lean runtime (libnvinfer_lean) is not installed")
    engine = backends.build(
        model, backend="tensorrt", output=path, options=options, batch=(1, 2, 4)
    )
    images = make_images(model, 2)
    with backends.load(engine) as runner:
        # TF32 keeps ten bits of mantissa.
        loose = {"boxes": 0.5, "scores": 5e-3} if "tf32" in options else {}
        close(runner.infer({"images": images}), expected(model, images), **loose)
    settings = engine.receipt["settings"]
    for name in set(options) - {"isolate", "cuda_graphs", "timing_cache"}:
        assert name in settings["applied"], settings


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dla_core": 0}, "no DLA 0"),
        ({"compute_capabilities": "8.6"}, "builds for the GPU it runs on"),
        ({"tactic_sources": "magic"}, "there is no magic"),
    ],
)
def test_what_cannot_be_is_refused(
    model: Model, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BuildError, match=reason):
        backends.build(model, backend="tensorrt", output=tmp_path / "x.bw", options=options)
    assert not (tmp_path / "x.bw").exists()


def test_half_precision_keeps_the_decode_in_float32(model: Model, tmp_path: Path) -> None:
    renamed = make_model()
    for node in renamed.proto.graph.node[-12:]:
        node.name = f"decode/{node.name}"
    path = tmp_path / "x.bw"
    engine = backends.build(renamed, backend="tensorrt", precision="fp16", output=path)
    layers = engine.receipt["layer_precisions"]
    assert {layer["precision"] for layer in layers} >= {"float16", "float32"}
    assert engine.receipt["settings"]["applied"]["keep_float32"]["layers"] > 0
    images = make_images(model, 2)
    with backends.load(engine) as runner:
        close(runner.infer({"images": images}), expected(model, images), boxes=0.5, scores=5e-3)


@pytest.mark.own_timing
def test_a_second_build_is_faster_by_the_timing_cache(model: Model, tmp_path: Path) -> None:
    seconds = []
    for number in range(2):
        engine = backends.build(model, backend="tensorrt", output=tmp_path / f"{number}.bw")
        seconds.append(engine.receipt["tensorrt"]["build_seconds"])
        used = engine.receipt["settings"]["applied"]["timing_cache"]
        assert used == ("begun", "used")[number]
    assert seconds[1] < seconds[0]


def test_interrupting_a_build_ends_it(model: Model, tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int | None) -> None:
        if stage == "choose kernels":
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        backends.build(model, backend="tensorrt", output=tmp_path / "x.bw", progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - started < 30


def test_progress_grows_to_its_end(model: Model, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    backends.build(
        model, backend="tensorrt", output=tmp_path / "x.bw", progress=lambda *now: seen.append(now)
    )
    done = [now for stage, now, _ in seen if stage == "choose kernels"]
    assert len(set(done)) > 5
    assert done == sorted(done)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_plan_is_refused(plan: bytes, share: float) -> None:
    with pytest.raises(EngineError, match="refuses the plan"):
        LoadedEngine(load_library("tensorrt"), plan[: int(len(plan) * share)])


def test_a_refused_node_is_named_with_advice() -> None:
    broken = make_model()
    node = next(node for node in broken.proto.graph.node if node.op_type == "Softplus")
    node.op_type = "Mish"
    broken.proto.opset_import[0].version = 18
    with pytest.raises(BuildError, match=r"node node/\S+ \(Mish\): .*Tanh\(Softplus") as caught:
        TensorRtBackend().compile(broken, BuildSpec())
    assert "boxwright inspect MODEL --for tensorrt@8.6" in str(caught.value)


def test_outputs_of_unknown_size_grow() -> None:
    """Where are the elements above 0? Their number depends on the data."""
    library = load_library("tensorrt")
    graph = helper.make_graph(
        [
            helper.make_node("Greater", ["x", "zero"], ["above"]),
            helper.make_node("NonZero", ["above"], ["where"]),
        ],
        "nonzero",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1000])],
        [helper.make_tensor_value_info("where", TensorProto.INT64, [2, "found"])],
        [onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    journal = Journal()
    logger = make_logger(library, journal)
    trt = library.trt
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(proto.SerializeToString()), journal.errors
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 1000), (2, 1000), (4, 1000))
    config.add_optimization_profile(profile)
    data = bytes(builder.build_serialized_network(network, config))
    random = np.random.default_rng(0)
    with TensorRtRunner(LoadedEngine(library, data), Stream()) as runner:
        for count, threshold in ((1, 0.9), (4, 0.1), (2, 0.5), (4, 2.0), (4, 0.1)):
            x = (random.random((count, 1000)) - threshold).astype(np.float32)
            np.testing.assert_array_equal(
                runner.infer({"x": x})["where"], np.stack(np.nonzero(x > 0))
            )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_real_weights_agree_with_onnxruntime(
    fixtures_dir: Path, tmp_path: Path, precision: Any
) -> None:
    model = boxwright.import_model(fixtures_dir / "darknet/yolo-fastest/yolo-fastest-1.1.weights")
    engine = backends.build(
        model,
        backend="tensorrt",
        precision=precision,
        output=tmp_path / "x.bw",
        batch=(1, 4, 4),
        options={"optimization_level": 1},
    )
    random = np.random.default_rng(0)
    height, width = model.card.input_size
    images = random.integers(0, 256, (4, height, width, 3), np.uint8)
    want = expected(model, images)
    tolerances = {"fp32": (0.02, 1e-4), "fp16": (2.0, 0.02)}[precision]
    with backends.load(engine) as runner:
        close(runner.infer({"images": images}), want, *tolerances)
