"""A small attribute model of which everybody can say what it must answer."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from boxwright.card import Attribute, Crop, ModelCard
from boxwright.model import IMAGES, Model

COLOURS = ("red", "green", "blue")
SIDE = 8


def make_classifier(
    *, crop: Crop | None = None, name: str = "colours", batch: int | str = "N", pad: int = 0
) -> Model:
    """Says which colour a crop has most of (``colour``), and its mean value (``bright``)."""
    nodes = [
        helper.make_node("Cast", [IMAGES], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Softmax", ["means"], ["colour"], axis=1),
        helper.make_node("ReduceMean", ["means"], ["bright"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, [batch, SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info("colour", TensorProto.FLOAT, [batch, 3]),
            helper.make_tensor_value_info("bright", TensorProto.FLOAT, [batch]),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    card = ModelCard(
        name=name,
        class_names=COLOURS,
        input_size=(SIDE, SIDE),
        task="classify",
        pad_value=pad,
        attributes=(Attribute("colour", "class", COLOURS), Attribute("bright", "number")),
        crop=crop,
    )
    return Model(proto, card)
