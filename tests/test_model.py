from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from boxwright import backends
from boxwright import model as model_module
from boxwright.backends.plans import check_contract
from boxwright.card import CARD_KEY
from boxwright.errors import CardError, EngineError, InputError, ModelError
from boxwright.model import Model
from tests.models import make_model


def test_the_file_is_one_onnx_message(tmp_path: Path) -> None:
    """Written tensor by tensor, it must parse as what protobuf itself would write."""
    model = make_model()
    model.save(tmp_path / "a.onnx")
    proto = onnx.load(tmp_path / "a.onnx")
    assert proto == model.proto
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)
    assert len(model.to_bytes()) == model.proto.ByteSize()
    again = Model.load(tmp_path / "a.onnx")
    assert again.card == model.card
    assert again.to_bytes() == model.to_bytes()


def test_every_field_is_written() -> None:
    model = make_model()
    model.proto.doc_string = "text"
    model.proto.model_version = 7
    model.proto.graph.doc_string = "text"
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    model.proto.graph.value_info.append(value)
    model.proto.graph.sparse_initializer.add()
    assert onnx.ModelProto.FromString(model.to_bytes()) == model.proto


def test_the_card_is_written_once() -> None:
    model = make_model()
    card = dataclasses.replace(model.card, name="other")
    data = model.with_card(card).to_bytes()
    keys = [prop.key for prop in onnx.ModelProto.FromString(data).metadata_props]
    assert keys.count(CARD_KEY) == 1
    assert Model.from_bytes(data).card.name == "other"


def test_a_model_beyond_2_gib_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "MAX_MODEL_BYTES", 1000)
    with pytest.raises(InputError, match="an ONNX file holds at most 2 GiB"):
        make_model().save(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def damaged(model: Model, change: str) -> onnx.ModelProto:
    proto = copy.deepcopy(model.proto)
    proto.metadata_props.add(key=CARD_KEY, value=model.card.to_json())
    graph = proto.graph
    dims = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)}
    if change == "input name":
        graph.input[0].name = "data"
    elif change == "input type":
        graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    elif change == "input size":
        dims["images"][1].dim_value = 5
    elif change == "output name":
        graph.output[0].name = "output"
    elif change == "box columns":
        dims["boxes"][2].dim_value = 5
    elif change == "classes":
        dims["scores"][2].dim_value = 7
    elif change == "nodes":
        del graph.node[:]
    elif change == "card":
        del proto.metadata_props[:]
    return proto


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("input name", ModelError, "expected one input named 'images', got .'data'."),
        ("input type", ModelError, "'images' must be uint8"),
        ("input size", ModelError, "'images' must be uint8"),
        ("output name", ModelError, "expected outputs 'boxes' and 'scores'"),
        ("box columns", ModelError, "'boxes' must be float"),
        ("classes", ModelError, "'scores' must be float"),
        ("nodes", ModelError, "its graph has no nodes"),
        ("card", CardError, "has no model card"),
    ],
)
def test_the_contract(change: str, error: type[Exception], message: str) -> None:
    data = damaged(make_model(), change).SerializeToString()
    with pytest.raises(error, match=message):
        Model.from_bytes(data)


def test_an_initializer_listed_as_input_is_none() -> None:
    """As older exporters do; the one true input is still found."""
    model = make_model()
    tensor = model.proto.graph.initializer[0]
    value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
    model.proto.graph.input.append(value)
    model.check()


def test_what_is_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    with pytest.raises(ModelError, match="cannot read"):
        Model.load(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="not an ONNX model"):
        Model.load(path)
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(ModelError, match="not an ONNX model"):
        Model.load(path)
    with open(path, "wb") as stream:
        stream.truncate(model_module.MAX_MODEL_BYTES + 1)
    with pytest.raises(ModelError, match="at most 2 GiB"):
        Model.load(path)


@pytest.mark.parametrize("place", ["graph name", "node name", "input name", "initializer"])
def test_text_that_is_not_utf8_is_refused(place: str) -> None:
    model = make_model()
    word = "findme"
    graph = model.proto.graph
    if place == "graph name":
        graph.name = word
    elif place == "node name":
        graph.node[0].name = word
    elif place == "input name":
        graph.node[0].input[0] = word
    else:
        graph.initializer[0].name = word
    data = model.to_bytes().replace(b"findme", b"findm\xff")
    with pytest.raises(ModelError, match="text that is not UTF-8"):
        Model.from_bytes(data)


def test_landmarks_are_an_output_more() -> None:
    model = make_model(landmarks=True)
    model.check()
    assert Model.from_bytes(model.to_bytes()).card.landmarks == model.card.landmarks
    more = dataclasses.replace(model.card, landmarks=("a", "b", "c"))
    with pytest.raises(ModelError, match=r"'landmarks' must be float .*3, 2\], got .*2, 2\]"):
        model.with_card(more).check()
    plain = make_model()
    with pytest.raises(ModelError, match="expected an output 'landmarks' of 3 points"):
        plain.with_card(more).check()
    # A graph may have an output that its card does not speak of.
    model.with_card(plain.card).check()
    for card, fits in ((model.card, True), (plain.card, True), (more, False)):
        with backends.load(model, backend="reference") as runner:
            if fits:
                check_contract(card, runner.inputs, runner.outputs, "it")
                continue
            with pytest.raises(EngineError, match=r"'landmarks' must be float32 .*3, 2\]"):
                check_contract(card, runner.inputs, runner.outputs, "it")
