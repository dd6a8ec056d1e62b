"""Real builds by TensorRT-RTX, which needs no GPU to compile for one.

Its log says which of the graph's nodes each built layer computes, and in what type. So that
nothing was lost, doubled or computed in less than was asked for can be shown on any machine.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from boxwright import backends
from boxwright.backends.tensorrt.layers import EngineLayer
from boxwright.errors import BuildError
from boxwright.importers import import_model
from boxwright.model import Model
from tests.backends.tensorrt.rtx import (
    CAPABILITIES,
    BuiltNetwork,
    build_with_log,
    check_contract,
    check_counts,
    check_nodes,
    check_types,
    fused_share,
)
from tests.models import make_model
from tests.oracle.conftest import make_seeded_weights

_REASON = backends.available()["tensorrt-rtx"]
pytestmark = pytest.mark.skipif(
    _REASON is not None, reason=f"TensorRT-RTX cannot build here: {_REASON}"
)


@dataclass(frozen=True)
class Case:
    """A network, and how many of its convolutions' activations the kernels at least include.

    TensorRT-RTX 1.7 fuses leaky ReLU, ReLU and SiLU into a convolution, but no Mish. The
    shares are a little below what it reached when this was written.
    """

    name: str
    fused: float
    folder: str = ""
    slow: bool = False


CASES = (
    Case("yolov4-tiny", 0.75, folder="yolov4-tiny"),
    # Most of its activations are Mish.
    Case("yolov4", 0.3),
    Case("yolov3-spp", 0.95),
    # Where a result goes several ways, its activation is a kernel of its own.
    Case("yolov7-tiny", 0.65),
    Case("yolov3-tiny", 0.9),
    Case("enet-coco", 0.7),
    Case("csresnext50-panet-spp", 0.95),
    # All of them.
    Case("yolov4-csp-s-mish", 0.0),
    Case("Gaussian_yolov3_BDD", 0.95),
    Case("yolov2-tiny", 1.0),
    Case("yolov3-tiny-prn", 0.9),
    Case("yolov2", 1.0),
    Case("yolov4-csp-x-swish", 0.95, slow=True),
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            case,
            id=f"{case.name}-{'real' if case.folder else 'seeded'}",
            marks=[pytest.mark.slow] if case.slow else [],
        )
        for case in CASES
    ],
)
def built(
    request: pytest.FixtureRequest,
    oracle_dir: Path,
    fixtures_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """Each network once, its files gone before the next: they take up to half a gigabyte."""
    case: Case = request.param
    folder = tmp_path_factory.mktemp("rtx")
    if case.folder:
        cfg = fixtures_dir / "darknet" / case.folder / f"{case.name}.cfg"
        weights = cfg.with_suffix(".weights")
    else:
        cfg, weights = oracle_dir / "cfg" / f"{case.name}.cfg", folder / f"{case.name}.weights"
        make_seeded_weights(oracle_dir, cfg, weights)
    classes = int(cfg.read_text().split("classes=")[1].split()[0])
    model = import_model(weights, cfg=cfg, names=[f"class {i}" for i in range(classes)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOXWRIGHT_CACHE", str(folder / "cache"))
        engine, text = build_with_log(model, folder / "engine.bw", patch)
    yield BuiltNetwork(model, engine, text, case.fused)
    engine.path.unlink()
    if not case.folder:
        weights.unlink()


def test_a_real_network_builds_as_it_was_described(built: BuiltNetwork) -> None:
    check_contract(built.log, built.model)
    check_nodes(built)
    check_counts(built)
    check_types(built)
    share = fused_share(built)
    assert share >= built.fused, f"{share:.3f} of the activations are fused"


def test_the_receipt_tells_the_same(built: BuiltNetwork) -> None:
    receipt = built.engine.receipt
    listed = [
        EngineLayer(item["name"], item["kind"], item["precision"])
        for item in receipt["layer_precisions"]
    ]
    assert listed == [
        EngineLayer(layer.name[:500], layer.kind, layer.precision) for layer in built.layers
    ]
    counts = Counter(layer.precision for layer in built.layers)
    assert {kind: sum(n.values()) for kind, n in receipt["layers"].items()} == counts
    settings = receipt["settings"]
    assert settings["applied"]["compute_capabilities"] == CAPABILITIES.split(",")
    assert settings["applied"]["profiles"] == [[1, 1, 16]]
    assert "refused" not in settings
    assert receipt["tensorrt"]["library"] == "tensorrt-rtx"
    assert receipt["tensorrt"]["plan_bytes"] == len(built.engine.plan_bytes(built.engine.plans[0]))
    assert "sm86+sm89+sm120" in built.engine.plans[0]


# The checks above, shown something that is not as it should be.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BuiltNetwork:
    with pytest.MonkeyPatch.context() as patch:
        model = make_model()
        engine, text = build_with_log(model, tmp_path_factory.mktemp("tiny") / "x.bw", patch)
    return BuiltNetwork(model, engine, text)


def test_a_tiny_network_passes(tiny: BuiltNetwork) -> None:
    check_contract(tiny.log, tiny.model)
    check_nodes(tiny)
    check_counts(tiny)
    check_types(tiny)
    # Of Mish, SiLU, leaky ReLU and Mish the two in the middle.
    assert fused_share(tiny) == 0.5


def _lose_a_convolution(model: Model, log: str) -> str:
    lines = log.splitlines()
    (line, *_) = [line for line in lines if "LayerType: correlation" in line]
    return "\n".join(other for other in lines if other != line)


def _half(model: Model, log: str) -> str:
    return log.replace("Datatype: Float, Format: (NHWC)", "Datatype: Half, Format: (NHWC)")


def _swap(model: Model, log: str) -> str:
    return log.replace("Name: boxes", "Name: x").replace("Name: scores", "Name: boxes")


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (_lose_a_convolution, check_nodes),
        (_lose_a_convolution, check_counts),
        (_half, check_types),
        (_swap, lambda network: check_contract(network.log, network.model)),
    ],
)
def test_the_checks_notice(
    tiny: BuiltNetwork,
    damage: Callable[[Model, str], str],
    check: Callable[[BuiltNetwork], None],
) -> None:
    damaged = BuiltNetwork(tiny.model, tiny.engine, damage(tiny.model, tiny.log))
    with pytest.raises((AssertionError, KeyError)):
        check(damaged)


def test_a_graph_in_half_precision_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that says so itself: the graph's types are what TensorRT-RTX computes in."""
    model = make_model()
    graph = model.proto.graph
    (conv,) = [node for node in graph.node if node.op_type == "Conv"][:1]
    given, result = conv.input[0], conv.output[0]
    for name in conv.input[1:]:
        (weights,) = [item for item in graph.initializer if item.name == name]
        half = onnx.numpy_helper.to_array(weights).astype(np.float16)
        weights.CopyFrom(onnx.numpy_helper.from_array(half, name))
    conv.input[0], conv.output[0] = "half_in", "half_out"
    index = list(graph.node).index(conv)
    graph.node.insert(index + 1, helper.make_node("Cast", ["half_out"], [result], to=1))
    graph.node.insert(index, helper.make_node("Cast", [given], ["half_in"], to=10))
    engine, log = build_with_log(model, tmp_path / "x.bw", monkeypatch)
    network = BuiltNetwork(model, engine, log)
    with pytest.raises(AssertionError, match="float16"):
        check_types(network)


# Refusals


def _refused(kind: str) -> Model:
    """A model that keeps the contract, with one more output that TensorRT-RTX does not build."""
    model = make_model(height=256, width=256)
    graph, extra = model.proto.graph, helper.make_tensor_value_info
    node: Any = {
        "NonZero": lambda: helper.make_node("NonZero", ["scores"], ["extra"], name="post/last"),
        "NonMaxSuppression": lambda: helper.make_node(
            "NonMaxSuppression", ["boxes", "turned"], ["extra"], name="post/last"
        ),
        "TopK": lambda: helper.make_node(
            "TopK", ["scores", "k"], ["values", "extra"], name="post/last", axis=1
        ),
        "NoSuchOperator": lambda: helper.make_node(
            "NoSuchOperator", ["scores"], ["extra"], name="post/last"
        ),
    }[kind]()
    graph.node.append(helper.make_node("Transpose", ["scores"], ["turned"], perm=[0, 2, 1]))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([3841]), "k"))
    graph.node.append(node)
    graph.output.append(extra("extra", TensorProto.INT64, None))
    return model


@pytest.mark.parametrize("isolate", [True, False], ids=["isolated", "in-process"])
@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("NonZero", "its output's shape depends on the data"),
        ("NonMaxSuppression", "Boxwright suppresses after the network"),
        ("TopK", "take fewer than 3840 elements"),
        ("NoSuchOperator", "boxwright inspect MODEL --for tensorrt-rtx@"),
    ],
)
def test_a_graph_that_is_refused_names_node_operator_and_cure(
    tmp_path: Path, kind: str, advice: str, isolate: bool
) -> None:
    options = {"compute_capabilities": "8.6", "isolate": isolate}
    with pytest.raises(BuildError) as caught:
        backends.build(
            _refused(kind), backend="tensorrt-rtx", output=tmp_path / "x.bw", options=options
        )
    message = str(caught.value)
    for words in ("post/last", kind, advice, "`boxwright inspect MODEL --for tensorrt-rtx@"):
        assert words in message
    assert "/_src/" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compute_capabilities": "9.0"}, "no SM90 (there are: SM120"),
        ({"hardware": "ampere-plus"}, "TensorRT-RTX is told compute_capabilities instead"),
        ({"version_compatible": True}, "no lean runtime"),
        ({"tactic_sources": "cublas"}, "there is no cublas"),
        ({"dla_core": 0}, "has no DLA 0"),
        ({"plugins": __file__}, "TensorRT-RTX takes no plugins"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(BuildError, match=re.escape(words)):
        backends.build(
            make_model(),
            backend="tensorrt-rtx",
            output=tmp_path / "x.bw",
            options={"isolate": False, **options},
        )
    assert list(tmp_path.iterdir()) == []
