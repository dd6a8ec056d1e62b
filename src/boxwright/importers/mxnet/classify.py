"""Networks that say something of a whole image: attributes and classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from boxwright.card import Attribute, Crop, TemplatePoint
from boxwright.importers.mxnet.symbol import Node, Symbol
from boxwright.importers.mxnet.values import BATCH, Value, described
from boxwright.importers.mxnet.writer import Writer

# insightface's genderage: 2 values of sex, then 100 pairs, one for each year of an age.
_SEX = ("female", "male")
_AGES = 100
_GENDER_AGE = len(_SEX) + 2 * _AGES
# The mean face that insightface turns its crops of 112x112 to (``face_preprocess.py`` and
# ``face_align.py``), with half a pixel more: it counts from the first pixel's centre.
_FACE_SIDE = 112
_FACE = (
    ("left_eye", 38.7946, 52.1963),
    ("right_eye", 74.0318, 52.0014),
    ("nose", 56.5252, 72.2366),
    ("left_mouth_corner", 42.0493, 92.8655),
    ("right_mouth_corner", 71.2299, 92.7041),
)
_PROBABILITIES = ("softmax", "SoftmaxOutput", "SoftmaxActivation", "Softmax")


@dataclass(frozen=True)
class Classified:
    """Attributes for the card, their tensors, and the crop they are to be given."""

    family: str
    attributes: tuple[Attribute, ...]
    tensors: tuple[Value, ...]
    crop: Crop | None = None


def is_gender_age(symbol: Symbol) -> bool:
    """Whether a network ends in insightface's 202 values, told from its last layer."""
    if len(symbol.heads) != 1:
        return False
    node: Node | None = symbol.nodes[symbol.heads[0].node]
    while node is not None and node.operator != "FullyConnected":
        passes = node.operator in ("BatchNorm", "identity", "_copy") and node.inputs
        node = symbol.nodes[node.inputs[0].node] if passes else None
    return node is not None and node.settings.whole("num_hidden", 0) == _GENDER_AGE


def gender_age(writer: Writer, raw: Value, size: tuple[int, int]) -> Classified:
    """Sex as two probabilities, age in years (``get_ga`` in insightface's ``gender-age``).

    A year is counted where the second of its pair is the larger one, and the age is their
    number.

    Args:
        writer: Of the graph.
        raw: The 202 values ``[N, 202]``.
        size: ``(height, width)`` of the input.
    """
    if raw.shape != (BATCH, _GENDER_AGE):
        raise writer.symbol.error(f"gender and age are 202 values, got {described(raw.shape)}")
    logits = writer.slice(raw, 1, 0, len(_SEX), "decode/sex_logits")
    sex = writer.op("Softmax", [logits], "decode/sex", logits.shape, axis=1)
    years = writer.slice(raw, 1, len(_SEX), _GENDER_AGE, "decode/years")
    pairs = writer.reshape(years, (BATCH, _AGES, 2), "decode/pairs")
    younger = writer.slice(pairs, 2, 0, 1, "decode/younger")
    older = writer.slice(pairs, 2, 1, 2, "decode/older")
    counted = _as_float(writer, "Greater", older, younger, "decode/counted")
    flat = writer.reshape(counted, (BATCH, _AGES), "decode/counted_years")
    ones = writer.floats("decode/ones", np.ones((_AGES, 1)))
    age = writer.op("MatMul", [flat, ones], "decode/age_column", (BATCH, 1))
    return Classified(
        "insightface-genderage",
        (Attribute("sex", "class", _SEX), Attribute("age", "number", unit="years")),
        (sex, writer.reshape(age, (BATCH,), "decode/age")),
        # insightface's own program gives the network faces turned by their landmarks.
        Crop("aligned", template=mean_face(size)),
    )


def mean_face(size: tuple[int, int]) -> tuple[TemplatePoint, ...]:
    """ArcFace's mean face in an input of ``(height, width)``: pixels from its edges."""
    rows, columns = size[0] / _FACE_SIDE, size[1] / _FACE_SIDE
    return tuple(TemplatePoint(name, x * columns, y * rows) for name, x, y in _FACE)


def _as_float(writer: Writer, kind: str, a: Value, b: Value, name: str) -> Value:
    from onnx import TensorProto

    holds = writer.op(kind, [a, b], f"{name}/holds", a.shape)
    return writer.op("Cast", [holds], name, a.shape, to=TensorProto.FLOAT)


def classes(writer: Writer, node: Node, raw: Value, names: tuple[str, ...]) -> Classified:
    """A classifier: one attribute, of as many classes as the network has outputs.

    Raises:
        ImportFailedError: The output is no row of values an image.
    """
    if len(raw.shape) != 2 or raw.shape[0] != BATCH:
        raise writer.symbol.error(
            f"its output {node.name!r} is {described(raw.shape)}. A detector ends in "
            "MultiBoxDetection, GluonCV's box_nms or RetinaFace's outputs, a classifier in one "
            "row of values an image; what this network is cannot be told"
        )
    if node.operator not in _PROBABILITIES:
        raw = writer.op("Softmax", [raw], "decode/scores", raw.shape, axis=1)
    return Classified("mxnet-classifier", (Attribute("class", "class", names),), (raw,))
