"""Simplified graphs are the same, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from boxwright.errors import MissingExtraError, ModelError
from boxwright.graph import simplify as module
from boxwright.graph.simplify import simplify
from boxwright.importers import import_model
from tests.models import make_images, make_model

onnxslim = pytest.importorskip("onnxslim")


def wasteful() -> Any:
    """A model with nodes that nothing needs: a chain of Identity before its first Cast."""
    model = make_model()
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.proto.graph.node]
    first = nodes[0]
    assert first.op_type == "Cast"
    chain = [onnx.helper.make_node("Identity", [first.input[0]], ["idle"], name="idle")]
    chain.append(onnx.helper.make_node("Identity", ["idle"], ["idler"], name="idler"))
    first.input[0] = "idler"
    del model.proto.graph.node[:]
    model.proto.graph.node.extend([*chain, *nodes])
    return model


def test_nodes_go_and_results_stay() -> None:
    model = wasteful()
    before = model.proto.SerializeToString()
    result = simplify(model, images=list(make_images(model, 2)))
    assert model.proto.SerializeToString() == before
    assert result.nodes[1] < result.nodes[0]
    assert result.operators["Identity"] == (2, 0)
    assert result.difference <= module.TOLERANCE
    assert result.compared == 5
    transform = result.model.card.transforms[-1]
    assert transform.name == "simplify"
    assert transform.effect["nodes"] == list(result.nodes)
    assert transform.versions["onnxslim"] == onnxslim.__version__
    assert result.model.proto.opset_import == model.proto.opset_import
    assert [v.name for v in result.model.proto.graph.output] == ["boxes", "scores"]


def test_a_simplifier_that_is_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(proto: onnx.ModelProto) -> onnx.ModelProto:
        for tensor in proto.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 4:
                values = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return proto

    monkeypatch.setattr(onnxslim, "slim", wrong)
    with pytest.raises(ModelError, match="simplification is refused: output"):
        simplify(make_model())


def test_a_simplifier_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(proto: onnx.ModelProto) -> onnx.ModelProto:
        raise KeyError("x")

    monkeypatch.setattr(onnxslim, "slim", fails)
    with pytest.raises(ModelError, match="OnnxSlim cannot"):
        simplify(make_model())
    monkeypatch.setattr(onnxslim, "slim", lambda proto: None)
    with pytest.raises(ModelError, match="no graph"):
        simplify(make_model())


def test_without_it_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxslim", None)
    with pytest.raises(MissingExtraError, match=r"boxwright\[simplify\]"):
        simplify(make_model())


def test_a_real_detector(fixtures_dir: Path) -> None:
    """The face detector loses its batch normalisations and shape arithmetic, 222 to 133."""
    from boxwright.images import load_image
    from boxwright.preprocess import Preprocessor

    model = import_model(fixtures_dir / "onnx" / "version-RFB-320.onnx", names=("face",))
    photo = load_image(fixtures_dir / "photos" / "zidane.jpg")
    pixels, _ = Preprocessor(model.card).prepare(photo)
    result = simplify(model, images=[pixels])
    assert result.nodes[1] < 0.7 * result.nodes[0]
    assert result.operators["BatchNormalization"][1] == 0
    # The tensors that the card names are still there.
    made = {name for node in result.model.proto.graph.node for name in node.output}
    assert {head.tensor for head in model.card.heads} <= made
