"""Small networks made by TensorFlow, beside what TensorFlow computed (see make_golden.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright import backends
from boxwright.errors import ImportFailedError
from boxwright.importers import import_model
from boxwright.model import Model

GOLDEN = Path(__file__).parent / "golden"
HEAD = {
    "box": "yxyx",
    "normalised": True,
    "activation": "none",
    "background": "none",
}
# float32 sums in another order, of scores and of boxes as fractions.
FLOAT = 1e-6
# A quantised output has steps of 1/256; a rounding somewhere inside moves it by one.
STEP = 1 / 256 + 1e-6

# File, whose results in expected.npz, its options, the largest difference.
CASES: dict[str, tuple[str, str, dict[str, Any], float]] = {
    "saved model": ("saved_model", "keras", {"scale": 1}, FLOAT),
    "frozen graph": ("frozen.pb", "keras", {"scale": 1}, FLOAT),
    "float lite": ("float.tflite", "float", {"scale": 1}, FLOAT),
    "int8 lite": ("int8.tflite", "int8", {}, STEP),
    # Without the roundings between layers: as far as quantisation moved the source.
    "int8 lite as float": ("int8.tflite", "int8", {"quantization": "drop"}, 3 * STEP),
}


@pytest.fixture(scope="module")
def expected() -> Any:
    return np.load(GOLDEN / "expected.npz")


def load(name: str, **options: Any) -> Model:
    return import_model(GOLDEN / name, head="ssd", names=["a", "b", "c"], options=HEAD | options)


@pytest.mark.parametrize("backend", ["reference", "onnxruntime", "openvino"])
@pytest.mark.parametrize("case", CASES)
def test_computes_what_tensorflow_computed(case: str, backend: str, expected: Any) -> None:
    name, key, options, tolerance = CASES[case]
    if (reason := backends.available()[backend]) is not None:
        pytest.skip(reason)
    if backend == "openvino" and name.startswith("int8"):
        # It moves and joins the pairs, so that it rounds elsewhere.
        tolerance = 4 * STEP
    model = load(name, **options)
    with backends.load(model, backend=backend) as runner:
        found = runner.infer({"images": expected["images"]})
    boxes = expected[f"{key}_boxes"][..., [1, 0, 3, 2]]
    fractions = found["boxes"] / np.array([48, 32, 48, 32], np.float32)
    np.testing.assert_allclose(fractions, boxes, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found["scores"], expected[f"{key}_scores"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_a_batch_is_its_images(case: str, expected: Any) -> None:
    name, _, options, _ = CASES[case]
    with backends.load(load(name, **options), backend="reference") as runner:
        together = runner.infer({"images": expected["images"]})
        for index in range(3):
            alone = runner.infer({"images": expected["images"][index : index + 1]})
            for output, value in together.items():
                np.testing.assert_allclose(alone[output][0], value[index], rtol=0, atol=1e-5)


def test_scales_stay_as_pairs_of_nodes_or_are_dropped() -> None:
    kinds = [node.op_type for node in load("int8.tflite").proto.graph.node]
    assert kinds.count("QuantizeLinear") > 20
    weights = kinds.count("DequantizeLinear") - kinds.count("QuantizeLinear")
    # One of each convolution, whose weights need no Q.
    assert weights == sum(kind in ("Conv", "ConvTranspose") for kind in kinds)
    dropped = load("int8.tflite", quantization="drop").proto.graph.node
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in dropped}


def test_weights_keep_one_scale_for_each_filter() -> None:
    model = load("int8.tflite")
    constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    nodes = [n for n in model.proto.graph.node if n.name.endswith("weights/dequantized")]
    assert nodes
    for node in nodes:
        stored, scale, zero = (constants[name] for name in node.input)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        assert scale.dims[0] == zero.dims[0] == stored.dims[axis]
        assert not any(np.frombuffer(zero.raw_data, np.int8))


def test_the_card_says_where_it_came_from() -> None:
    card = load("saved_model", scale=1).card
    assert card.source_format == "tensorflow"
    assert card.name == "saved_model"
    assert [file.name for file in card.source_files] == [
        "saved_model.pb",
        "variables.data-00000-of-00001",
        "variables.index",
    ]
    assert card.transforms[0].name == "import:tensorflow"
    assert card.transforms[0].parameters["pixels"]["scale"] == 1


def test_the_file_inside_of_the_folder_is_the_model_too() -> None:
    assert load("saved_model/saved_model.pb", scale=1).card.input_size == (32, 48)


# What the user says wrongly, and what the message must name.
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "pixels that nobody describes": ("float.tflite", {}, "--option mean="),
    "pixels said twice": ("int8.tflite", {"options": {"scale": 1}}, "itself how pixels"),
    "a size it was not made for": (
        "float.tflite",
        {"size": (64, 64), "options": {"scale": 1}},
        "made for 32x48",
    ),
    "an unknown word": (
        "int8.tflite",
        {"options": {"quantization": "no"}},
        "keep or drop, got 'no'",
    ),
    "an unknown option": ("int8.tflite", {"options": {"quantisation": 1}}, "did you mean"),
    "no numbers": ("float.tflite", {"options": {"mean": "a"}}, "numbers parted by commas"),
    "a value that is not there": (
        "frozen.pb",
        {"options": {"scale": 1, "boxes": "Identty", "scores": "Identity_1"}},
        "did you mean Identity",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case: str) -> None:
    name, given, message = WRONG[case]
    with pytest.raises(ImportFailedError, match=message):
        import_model(GOLDEN / name, head="ssd", **given)


def test_inner_values_can_be_the_ends(expected: Any) -> None:
    model = load(
        "frozen.pb",
        boxes="Identity",
        scores="functional_1/activation_1/Sigmoid",
        scale=1,
    )
    with backends.load(model, backend="reference") as runner:
        found = runner.infer({"images": expected["images"]})
    np.testing.assert_allclose(found["scores"], expected["keras_scores"], rtol=0, atol=FLOAT)
