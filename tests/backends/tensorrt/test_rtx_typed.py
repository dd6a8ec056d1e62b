"""Precision fp16 and int8 on TensorRT-RTX: what its build log says each layer computes in.

It takes every type from the graph, so the plan is built from a float16 form of the model;
the engine keeps the float32 graph. No GPU is needed to build.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from boxwright import backends
from boxwright.engine import Engine
from boxwright.graph.precision import to_half
from boxwright.importers import import_model
from boxwright.model import Model
from tests.backends.tensorrt.rtx import CAPABILITIES, check_contract
from tests.backends.tensorrt.test_rtx_builds import pytestmark
from tests.backends.tensorrt.test_rtx_builds_of_imports import QUICK
from tests.importers import catalogue
from tests.importers.catalogue import ENTRIES, Entry, Sources
from tests.models import make_images, make_model

__all__ = ["pytestmark"]

_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: (?P<inputs>.*), "
    r"Constants: (?P<constants>.*), Outputs: (?P<outputs>.*), TacticName: .*Metadata: (?P<meta>.*)$"
)
_FLOATS = {"Float", "Half"}


@dataclass(frozen=True)
class Layer:
    """One built layer: types it reads, holds and writes, and the graph's nodes in it."""

    name: str
    kind: str
    inputs: list[str]
    constants: list[str]
    outputs: list[str]
    nodes: list[str]


def read_log(log: str) -> list[Layer]:
    def types(text: str) -> list[str]:
        return re.findall(r"Datatype: (\w+)", text)

    found = []
    for line in log.splitlines():
        if (match := _LAYER.match(line)) is not None:
            reads, holds, writes = (types(match[s]) for s in ("inputs", "constants", "outputs"))
            nodes = re.findall(r"\[ONNX Layer: ([^\]]+)\]", match["meta"])
            found.append(Layer(match["name"], match["kind"], reads, holds, writes, nodes))
    assert found, "the log names no layers"
    return found


def build(
    model: Model | Engine, output: Path, patch: pytest.MonkeyPatch, precision: Any, **options: Any
) -> tuple[Engine, str]:
    """Build in this process, where the log can be seen."""
    from boxwright.backends.tensorrt import compile as compile_module
    from boxwright.backends.tensorrt.layers import best_described

    texts: list[str] = []

    def spy(inspected: str | None, logged: str | None) -> Any:
        texts.append(logged or "")
        return best_described(inspected, logged)

    with patch.context() as inner:
        inner.setattr(compile_module, "best_described", spy)
        engine = backends.build(
            model,
            backend="tensorrt-rtx",
            precision=precision,
            output=output,
            options={"compute_capabilities": CAPABILITIES, "isolate": False, **options},
        )
    (log,) = texts
    return engine, log


def convolutions(model: Model, layers: list[Layer]) -> dict[str, Layer]:
    """The layer that computes each convolution of the graph, by the node's name."""
    names = {node.name for node in model.proto.graph.node if node.op_type == "Conv"}
    found: dict[str, Layer] = {}
    # A generated kernel names a convolution that it pads pixels for, or whose activation it is;
    # and it is the convolution where four channels are written out as products and sums.
    for layer in sorted(layers, key=lambda layer: layer.kind != "kgen" or "Corr" in layer.name):
        found |= dict.fromkeys(names & set(layer.nodes), layer)
    assert set(found) == names
    return found


@dataclass(frozen=True)
class Both:
    """A model built in two precisions."""

    model: Model
    single: Engine
    half: Engine
    log: str


@pytest.fixture(
    scope="module",
    params=["tiny", "darknet/yolov4-tiny/yolov4-tiny.weights", "onnx/version-RFB-320.onnx"],
)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if request.param == "tiny":
        model = make_model()
    else:
        model = import_model(request.getfixturevalue("fixtures_dir") / request.param)
    folder = tmp_path_factory.mktemp("typed")
    with pytest.MonkeyPatch.context() as patch:
        single, _ = build(model, folder / "single.bw", patch, "fp32")
        half, log = build(model, folder / "half.bw", patch, "fp16")
    yield Both(model, single, half, log)
    single.path.unlink()
    half.path.unlink()


def test_convolutions_are_half_and_what_decodes_is_float(both: Both) -> None:
    layers = read_log(both.log)
    check_contract(both.log, both.model)
    for name, layer in convolutions(both.model, layers).items():
        # The weights come first; some kernels have factors of one number in Float.
        assert {kind for kind in layer.inputs if kind in _FLOATS} == {"Half"}, f"{name}: {layer}"
        assert layer.constants[0] == "Half", f"{name}: {layer}"
    outputs = [layer for layer in layers if "Float" in layer.outputs]
    assert sum(len(layer.outputs) for layer in outputs) >= 2
    for layer in outputs:
        # Its constants are anchors, cells and strides; in Half they would have been rounded.
        assert set(layer.constants) & _FLOATS <= {"Float"}, layer


def test_the_engine_keeps_the_portable_graph(both: Both) -> None:
    assert both.half.model().to_bytes() == both.single.model().to_bytes()
    kept = {t.data_type for t in both.half.model().proto.graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in kept


def test_the_plan_is_about_half_as_large(both: Both) -> None:
    single, half = (len(engine.plan_bytes(engine.plans[0])) for engine in (both.single, both.half))
    weights = sum(len(t.raw_data) for t in both.model.proto.graph.initializer)
    if weights < 0.5 * single:
        pytest.skip("it is mostly kernels, which take their room in both")
    # Some weights are kept in another layout, with room to spare.
    assert single - half > 0.35 * weights
    if weights > 0.8 * single:
        assert half < 0.6 * single


def test_the_receipt_says_what_was_kept(both: Both) -> None:
    receipt = both.half.receipt
    typed = receipt["typed"]
    assert typed["converted"] > 10
    assert {"tail", "decode"} & set(typed["kept"])
    assert typed["bytes"][1] < typed["bytes"][0]
    assert receipt["layers"]["float16"]
    assert receipt["settings"]["applied"]["keep_float32"] == {"prefixes": ["decode/"]}
    assert "typed" not in both.single.receipt
    assert "float16" not in both.single.receipt["layers"]
    assert "_fp16_" in both.half.plans[0]


def test_a_rebuild_from_the_engine_derives_the_same(both: Both, tmp_path: Path) -> None:
    """All that another machine has is the engine file."""
    with pytest.MonkeyPatch.context() as patch:
        again, log = build(Engine.open(both.half.path), tmp_path / "again.bw", patch, None)
    first, second = (
        [(layer.kind, layer.inputs, layer.outputs) for layer in read_log(text)]
        for text in (both.log, log)
    )
    assert first == second
    assert again.plans == both.half.plans


@pytest.mark.parametrize("at", [1, 3])
def test_layers_can_be_kept(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two casts alone, TensorRT-RTX 1.7 would compute it in float16 after all."""
    model = make_model()
    names = [node.name for node in model.proto.graph.node if node.op_type == "Conv"]
    _, log = build(model, tmp_path / "x.bw", monkeypatch, "fp16", keep_float32=[names[at]])
    found = convolutions(model, read_log(log))
    for name, layer in found.items():
        assert layer.constants[0] == ("Float" if name == names[at] else "Half"), f"{name}: {layer}"
    assert "Half" not in found[names[at]].inputs


def test_weights_beyond_float16_stay_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    (conv,) = [node for node in model.proto.graph.node if node.op_type == "Conv"][3:4]
    for tensor in model.proto.graph.initializer:
        if tensor.name == conv.input[1]:
            large = onnx.numpy_helper.to_array(tensor) * np.float32(3e5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(large, tensor.name))
    engine, log = build(model, tmp_path / "x.bw", monkeypatch, "fp16")
    layer = convolutions(model, read_log(log))[conv.name]
    assert (layer.inputs, layer.constants[0]) == (["Float"], "Float")
    assert engine.receipt["typed"]["kept"]["weights overflow"]["count"] == 1


def test_the_types_come_from_the_derived_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above sees a convolution that is not in float16."""
    _, log = build(make_model(), tmp_path / "x.bw", monkeypatch, "fp32")
    for layer in convolutions(make_model(), read_log(log)).values():
        assert "Half" not in layer.inputs


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.refused is None], ids=lambda e: e.name)
def test_every_imported_model_builds(
    entry: Entry,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And every convolution in it that the derivation converted is in float16."""
    model = catalogue.load(entry, Sources(request, tmp_path))
    half, report = to_half(model)
    engine, log = build(model, tmp_path / "x.bw", monkeypatch, "fp16", **QUICK)
    assert engine.receipt["typed"]["converted"] == report.converted
    kept = {item.node for item in report.kept}
    seen = 0
    for name, layer in convolutions(half, read_log(log)).items():
        if name not in kept and not entry.quantised:
            assert "Half" in layer.inputs, f"{name}: {layer}"
            seen += 1
    assert seen or entry.quantised


# Quantised models


def quantise(model: Model, folder: Path) -> Model:
    """By ONNX Runtime's quantiser, set as TensorRT wants it, on random images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [make_images(model, 1, seed) for seed in range(4)]

        def get_next(self) -> dict[str, Any] | None:
            return {"images": self.left.pop()} if self.left else None

    source, result = folder / "float.onnx", folder / "quantised.onnx"
    model.save(source)
    nodes = model.proto.graph.node
    quantize(
        source,
        result,
        Images(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            "DedicatedQDQPair": False,
            "OpTypesToExcludeOutputQuantization": sorted({node.op_type for node in nodes}),
        },
    )
    return Model(onnx.load(result), model.card)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_model_is_int8_and_float16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = quantise(make_model(), tmp_path)
    engine, log = build(model, tmp_path / "x.bw", monkeypatch, "int8")
    found = convolutions(model, read_log(log))
    assert len(found) == 5
    for name, layer in found.items():
        assert {"Int8"} == set(layer.inputs), f"{name}: {layer}"
    assert engine.receipt["layers"]["int8"]["correlation"] == 5
    typed = engine.receipt["typed"]
    assert typed["opset"] == [17, 19]
    assert typed["scales_raised"] == 0
    # What is between the convolutions holds its factors in Half.
    kernels = [layer for layer in read_log(log) if layer.kind == "kgen"]
    assert any("Half" in (*layer.constants, *layer.inputs) for layer in kernels)


@pytest.mark.filterwarnings("ignore")
def test_scales_too_small_for_float16_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT refuses a scale of 0."""
    model = quantise(make_model(), tmp_path)
    dequantised = {
        n.input[1] for n in model.proto.graph.node
        if n.op_type == "DequantizeLinear" and "constant" in n.input[1]
    }  # fmt: skip
    lowered = 0
    for tensor in model.proto.graph.initializer:
        if tensor.name in dequantised and len(tensor.dims) == 1:
            scale = onnx.numpy_helper.to_array(tensor).copy()
            scale[0] = 1e-9
            tensor.CopyFrom(onnx.numpy_helper.from_array(scale, tensor.name))
            lowered += 1
    assert lowered == 5
    assert np.float16(1e-9) == 0
    engine, _ = build(model, tmp_path / "x.bw", monkeypatch, "int8")
    assert engine.receipt["typed"]["scales_raised"] == 5
