"""ONNX Runtime: the common suite, its plans, its quietness and its fast Mish."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import boxwright
from boxwright import backends
from boxwright.backends.onnxruntime import OnnxRuntimeBackend, lowering
from boxwright.backends.onnxruntime.session import open_session, session_options
from boxwright.backends.options import make_spec
from boxwright.errors import BackendUnavailableError, BuildError, EngineError, InputError
from tests.backends.conformance import BackendConformance
from tests.models import GraphBuilder, make_images, make_model

if TYPE_CHECKING:
    from boxwright.engine import Engine


class TestConformance(BackendConformance):
    backend = "onnxruntime"
    box_tolerance = 1e-4
    score_tolerance = 1e-6
    unsupported = ("fp16",)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return backends.build(make_model(), output=tmp_path / "engine.bw")


def test_the_plan_is_optimised_and_the_portable_graph_is_not(engine: Engine) -> None:
    plan = onnx.ModelProto.FromString(engine.plan_bytes(engine.plans[0]))
    portable = [node.op_type for node in engine.model().proto.graph.node]
    assert {node.domain for node in plan.graph.node} > {"com.microsoft"}
    assert "QuickGelu" in {node.op_type for node in plan.graph.node}, "Swish is not fused"
    assert portable.count("Softplus") == portable.count("Tanh") == 2


def test_the_receipt_has_what_was_measured(engine: Engine) -> None:
    receipt = engine.receipt
    assert receipt["lowered"] == {"mish": 2}
    assert receipt["layers"]["float32"]["Exp"] == 2
    assert "int8" not in receipt["layers"]
    assert receipt["build"]["fingerprint"] == engine.plans[0]
    assert receipt["build"]["seconds"] > 0
    for name in ("boxes", "scores"):
        assert 0 <= receipt["parity"]["outputs"][name]["nrmse"] < 1e-6


def test_an_optimised_graph_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "boxwright.backends.onnxruntime.optimise",
        lambda *_: make_model(seed=1).proto.SerializeToString(),
    )
    with pytest.raises(BuildError, match="computes another 'boxes' than the model"):
        backends.build(make_model(), output=tmp_path / "x.bw")
    assert list(tmp_path.iterdir()) == []


def test_a_shape_that_fails_while_running_is_a_build_error_with_its_node(tmp_path: Path) -> None:
    model = make_model()
    grouped = next(node for node in model.proto.graph.node if len(node.attribute) and any(
        a.name == "group" and a.i == 2 for a in node.attribute))  # fmt: skip
    next(a for a in grouped.attribute if a.name == "group").i = 5
    with pytest.raises(BuildError, match=grouped.name):
        backends.build(model, output=tmp_path / "x.bw")


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    model = make_model()
    model.proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(InputError, match="keeps values in another file"):
        backends.build(model, output=tmp_path / "x.bw")


@pytest.mark.parametrize("threads", [-1, 1.0, "2", True, 10**9])
def test_a_thread_count_out_of_range_is_refused(threads: object) -> None:
    with pytest.raises(InputError, match="intra_op_num_threads must be 0"):
        backends.load(make_model(), options={"intra_op_num_threads": threads})


def test_the_thread_count_is_passed_on() -> None:
    assert session_options({"intra_op_num_threads": 3}, optimise=False).intra_op_num_threads == 3
    with backends.load(make_model(), options={"intra_op_num_threads": 1}) as runner:
        runner.infer({"images": make_images(make_model(), 1)})


def test_cuda_is_unavailable_where_onnx_runtime_has_none(tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendUnavailableError, match="onnxruntime-gpu"):
        backends.build(make_model(), device="cuda:0", output=tmp_path / "x.bw")


def test_the_fingerprint_tells_machines_versions_and_profiles_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = OnnxRuntimeBackend()
    spec = make_spec("fp32", (1, 1, 16), "auto", None)
    here = backend.fingerprint(spec)
    assert here == backend.fingerprint(spec)
    prints = {here, backend.fingerprint(make_spec("fp32", (1, 4, 8), "auto", None))}
    monkeypatch.setattr("boxwright.backends.onnxruntime.cpu_features", lambda: ("avx2",))
    prints.add(backend.fingerprint(spec))
    monkeypatch.setattr("boxwright.backends.onnxruntime.cpu_architecture", lambda: "arm64")
    prints.add(backend.fingerprint(spec))
    monkeypatch.setattr("boxwright.backends.onnxruntime._version", lambda: "9.9.9")
    prints.add(backend.fingerprint(spec))
    assert len(prints) == 5


def test_names_that_are_no_text_are_an_error_said_once(
    engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime cannot decode its own message then; it would print that and try again."""
    plan = engine.plan_bytes(engine.plans[0])
    damaged = plan.replace(b"QuickGelu", b"Quick\xff\xfelu")
    assert damaged != plan
    crafted = engine.with_plan(engine.plans[0], damaged, tmp_path / "crafted.bw")
    with pytest.raises(EngineError, match="cannot be loaded"):
        backends.load(crafted)
    assert capfd.readouterr() == ("", "")


def test_a_dimension_whose_name_is_no_text_is_an_error(tmp_path: Path) -> None:
    model = make_model()
    for value in (*model.proto.graph.input, *model.proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "BATCHSIZE"
    engine = backends.build(model, output=tmp_path / "x.bw")
    plan = engine.plan_bytes(engine.plans[0])
    damaged = plan.replace(b"BATCHSIZE", b"\xff" * 9)
    assert damaged != plan
    crafted = engine.with_plan(engine.plans[0], damaged, tmp_path / "crafted.bw")
    with pytest.raises(EngineError, match="cannot be loaded"):
        backends.load(crafted)


# Uses ONNX Runtime in every way we do, in a home of its own.
QUIET = """
import sys, numpy as np
from boxwright import backends
from boxwright.errors import BoxwrightError
from boxwright.model import Model
engine = backends.build(Model.load(sys.argv[1]), output=sys.argv[2])
with backends.load(engine) as runner:
    runner.infer({"images": np.zeros((1, 32, 64, 3), np.uint8)})
try:
    backends.load(engine.with_plan(engine.plans[0], b"nonsense", sys.argv[2]))
except BoxwrightError:
    pass
"""


def test_nothing_is_printed_reported_or_left_in_the_home_folder(tmp_path: Path) -> None:
    """ONNX Runtime warns, retries aloud, and keeps a device number, all by default."""
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    make_model().save(out / "model.onnx")
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("XDG", "ORT"))
    }
    environment |= {"HOME": str(home), "PYTHONPATH": str(Path(boxwright.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", QUIET, str(out / "model.onnx"), str(out / "x.bw")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.rglob("*")) == []


# Mish


def mish_model(rewrite: Any = None) -> onnx.ModelProto:
    """A graph of one Mish on a free shape; `rewrite` may change its nodes."""
    build = GraphBuilder(0)
    build.op("Softplus", "x", output="s")
    build.op("Tanh", "s", output="t")
    build.op("Mul", "x", "t", output="y")
    if rewrite:
        rewrite(build)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in "xy")
    graph = helper.make_graph(build.nodes, "mish", [x], [y], build.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_the_fast_mish_is_mish() -> None:
    x = np.concatenate(
        [
            np.linspace(-100, 100, 400_001),
            np.linspace(-1e-3, 1e-3, 10_001),
            [0.0, -0.0, 1e-30, -1e-30, 3e38, 19.999, 20.0, 20.001],
        ]
    ).astype(np.float32)
    exact = x.astype(np.float64)
    exact = exact * np.tanh(np.logaddexp(0, exact))
    lowered, count = lowering.lower_mish(mish_model())
    assert count == 1
    assert {node.op_type for node in lowered.graph.node} == {"Min", "Exp", "Add", "Mul", "Div"}
    session = open_session(lowered.SerializeToString(), session_options({}, optimise=True), "cpu")
    (got,) = session.run(None, {"x": x})
    # Relative down to where float32 itself thins out (denormal numbers).
    np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-36)


def test_mish_of_infinity_is_infinity() -> None:
    lowered, _ = lowering.lower_mish(mish_model())
    session = open_session(lowered.SerializeToString(), session_options({}, optimise=True), "cpu")
    (got,) = session.run(None, {"x": np.array([np.inf, np.nan], np.float32)})
    assert got[0] == np.inf
    assert np.isnan(got[1])


@pytest.mark.parametrize(
    ("rewrite", "count", "reason"),
    [
        (None, 1, "as written"),
        (lambda b: b.nodes[2].input.__setitem__(slice(2), ["t", "x"]), 1, "factors swapped"),
        (lambda b: b.nodes[2].input.__setitem__(0, "s"), 0, "multiplies the softplus"),
        (lambda b: b.nodes[2].input.__setitem__(0, "t"), 0, "squares the tanh"),
        (lambda b: b.op("Neg", "t", output="z"), 0, "the tanh is used elsewhere"),
        (lambda b: b.op("Neg", "s", output="z"), 0, "the softplus is used elsewhere"),
        (lambda b: b.op("Neg", "x", output="z"), 1, "x may be used elsewhere"),
        (lambda b: setattr(b.nodes[0], "domain", "other"), 0, "another domain's Softplus"),
        (lambda b: setattr(b.nodes[1], "op_type", "Sigmoid"), 0, "not a Tanh"),
        (lambda b: b.op("Cast", "x", output="z", to=TensorProto.DOUBLE), 0, "a double is near"),
        (lambda b: b.constant(1, np.float16), 0, "a half is near"),
    ],
)
def test_only_mish_is_taken_for_mish(rewrite: Any, count: int, reason: str) -> None:
    model = mish_model(rewrite)
    before = model.SerializeToString()
    lowered, found = lowering.lower_mish(model)
    assert found == count, reason
    assert model.SerializeToString() == before, "the caller's model was changed"
    assert (lowered is model) == (count == 0)


def test_several_mish_share_their_constants() -> None:
    lowered, count = lowering.lower_mish(make_model().proto)
    onnx.checker.check_model(lowered, full_check=True)
    names = [tensor.name for tensor in lowered.graph.initializer]
    assert count == 2
    assert len(names) == len(set(names)) == len(make_model().proto.graph.initializer) + 2


@pytest.mark.parametrize("optimise", [False, True])
def test_a_padding_by_zero_is_not_joined_to_pooling(optimise: bool) -> None:
    """ONNX Runtime would take the pooling's own padding, minus infinity, for it."""
    graph = helper.make_graph(
        [
            helper.make_node("Pad", ["x", "pads"], ["padded"]),
            helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
        ],
        "pad",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor("pads", TensorProto.INT64, [8], [0, 0, 1, 1, 0, 0, 0, 0])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    settings = session_options({}, optimise=optimise)
    session = open_session(proto.SerializeToString(), settings, "cpu")
    (found,) = session.run(None, {"x": -np.ones((1, 1, 3, 3), np.float32)})
    # Padded above and to the left: there a 0 is the largest.
    assert found.tolist() == [[[[0, 0], [0, -1]]]]
