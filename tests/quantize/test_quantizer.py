"""A model in INT8: from calibration and placement to a model that runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from boxwright import backends
from boxwright.errors import InputError, ModelError
from boxwright.evaluate.proof import prove
from boxwright.model import Model
from boxwright.quantize.calibration import Calibration, calibrate
from boxwright.quantize.quantizer import TRANSFORM, prepare, quantize
from boxwright.quantize.rules import Rules
from boxwright.ranges import ranges_of
from tests.models import make_images, make_model
from tests.quantize.graphs import nrmse

RULES = Rules(first=True, min_channels=1)


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


@pytest.fixture(scope="module")
def photos(model: Model, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(make_images(model, 4, seed=5)):
        Image.fromarray(image).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def calibration(model: Model, photos: list[Path]) -> Calibration:
    return calibrate(model, photos)


def copy_of(model: Model) -> Model:
    return Model(onnx.ModelProto.FromString(model.proto.SerializeToString()), model.card)


def test_the_quantised_model_is_a_model_that_says_what_was_done(
    model: Model, calibration: Calibration, tmp_path: Path
) -> None:
    before = model.to_bytes()
    found = quantize(model, calibration, rules=RULES, method="percentile", percentile=99.9)
    assert model.to_bytes() == before, "the float model is not changed"
    found.model.save(tmp_path / "int8.onnx")
    again = Model.load(tmp_path / "int8.onnx")
    assert again.quantized
    assert not model.quantized
    transform = again.card.transforms[-1]
    assert transform.name == TRANSFORM
    assert transform.parameters == {
        "method": "percentile",
        "percentile": 99.9,
        "images": 4,
        "keep": [],
        "images_sha256": calibration.images_sha256,
        "rules": dataclasses.asdict(RULES),
    }
    assert transform.effect == {
        "layers": {"int8": 4, "float": 1},
        "kept_in_float": {"gives a head's output": 1},
        "tensors": len(found.placement.tensors),
    }
    assert set(transform.versions) == {"boxwright", "onnx"}


def test_the_model_keeps_ranges_as_they_were_seen_but_in_front_of_activations(
    model: Model, calibration: Calibration
) -> None:
    """What a convolution gives to an activation is narrower, and never wider."""
    for keep in ([], ["node/conv_3"]):
        found = quantize(model, calibration, rules=RULES, keep=keep)
        ranges = ranges_of(found.model.proto)
        seen = {name: calibration.range(name) for name in calibration.statistics}
        assert ranges.keys() == seen.keys()
        changed = {name for name in seen if ranges[name] != seen[name]}
        # The last convolution is a head, which nothing activates.
        assert changed == {"conv_3", "conv_7", "conv_10", "conv_13"} - {n[5:] for n in keep}
        for name in changed:
            assert seen[name][0] <= ranges[name][0] <= 0 <= ranges[name][1] <= seen[name][1]
        again = quantize(model, calibration, rules=RULES, keep=keep)
        assert again.model.to_bytes() == found.model.to_bytes()


def test_the_table_names_every_layer_with_its_precision_or_reason(
    model: Model, calibration: Calibration
) -> None:
    first = "node/conv_3"
    table = quantize(model, calibration, rules=RULES, keep=[first]).to_dict()
    layers = {layer["name"]: layer for layer in table["layers"]}
    assert layers[first]["precision"] == "float"
    assert layers[first]["reason"] == "asked to stay in float"
    assert sorted(layer.get("reason", "") for layer in layers.values()) == [
        *("", "", "", "asked to stay in float", "gives a head's output"),
    ]
    assert all(tensor["amax"] > 0 for tensor in table["tensors"])
    assert table["parameters"]["method"] == "minmax"
    assert table["parameters"]["keep"] == [first]


def test_the_same_calibration_gives_the_same_bytes(
    model: Model, calibration: Calibration, photos: list[Path]
) -> None:
    once = quantize(model, calibration, rules=RULES).model.to_bytes()
    assert quantize(copy_of(model), calibrate(model, photos), rules=RULES).model.to_bytes() == once


def test_tensors_that_share_a_scale_take_the_largest_range(
    model: Model, calibration: Calibration
) -> None:
    found = quantize(model, calibration, rules=RULES)
    by_group: dict[int, set[float]] = {}
    for tensor in found.placement.tensors:
        by_group.setdefault(tensor.group, set()).add(found.amax[tensor.name])
        assert found.amax[tensor.name] >= calibration.amax(tensor.name)
    assert all(len(values) == 1 for values in by_group.values())
    own = quantize(model, calibration, rules=dataclasses.replace(RULES, shared_scales=False))
    assert own.amax == {name: calibration.amax(name) for name in own.amax}


def test_what_cannot_be_quantised_is_refused(model: Model, calibration: Calibration) -> None:
    found = quantize(model, calibration, rules=RULES)
    with pytest.raises(InputError, match="quantised already; give the float model"):
        quantize(found.model, calibration)
    with pytest.raises(InputError, match="cannot keep 'nothing' in float"):
        quantize(model, calibration, keep=["nothing"])
    part = dataclasses.replace(calibration, statistics={})
    with pytest.raises(InputError, match=r"knows nothing of the tensor .* was it made with this"):
        quantize(model, part, rules=RULES)


def test_a_damaged_model_is_refused_before_anything_reads_it(model: Model) -> None:
    for damage in ("no inputs", "short weights"):
        broken = copy_of(model)
        if damage == "no inputs":
            del next(n for n in broken.proto.graph.node if n.op_type == "Conv").input[:]
        else:
            broken.proto.graph.initializer[1].raw_data = b"1"
        with pytest.raises(ModelError, match="tiny cannot be quantised: "):
            prepare(broken)


def test_nodes_without_a_name_of_their_own_get_one(model: Model, calibration: Calibration) -> None:
    odd = copy_of(model)
    for number, node in enumerate(odd.proto.graph.node):
        node.name = ("", "the same", "decode/x")[number % 3]
    names = [node.name for node in prepare(odd).proto.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
    originals = [node.name for node in odd.proto.graph.node]
    assert originals[:3] == ["", "the same", "decode/x"], "the model is not changed"
    # What stood in the decoding still does.
    for before, after in zip(originals, names, strict=True):
        assert after.startswith("decode/") == (before == "decode/x")
    assert prepare(odd).to_bytes() == prepare(odd).to_bytes()
    every = quantize(odd, calibration, rules=RULES)
    assert len(every.placement.layers) == 5


def test_weights_in_constant_nodes_are_quantised_too(
    model: Model, calibration: Calibration
) -> None:
    moved = copy_of(model)
    graph = moved.proto.graph
    tensors, nodes = list(graph.initializer), list(graph.node)
    del graph.initializer[:], graph.node[:]
    for number, tensor in enumerate(tensors):
        made = helper.make_node("Constant", [], [tensor.name], f"constant/{number}", value=tensor)
        graph.node.append(made)
    graph.node.extend(nodes)
    found = quantize(moved, calibration, rules=RULES)
    assert len(found.placement.quantized) == 4
    assert {t.name for t in found.model.proto.graph.initializer} >= {t.name for t in tensors}
    images = make_images(model, 2)
    plain = quantize(model, calibration, rules=RULES)
    with backends.load(found.model) as first, backends.load(plain.model) as second:
        for name, values in first.infer({"images": images}).items():
            np.testing.assert_array_equal(values, second.infer({"images": images})[name])


def test_weights_that_are_not_finite_are_refused(model: Model, calibration: Calibration) -> None:
    broken = copy_of(model)
    conv = next(n for n in broken.proto.graph.node if n.op_type == "Conv")
    tensor = next(t for t in broken.proto.graph.initializer if t.name == conv.input[1])
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(InputError, match="not all finite"):
        quantize(broken, calibration, rules=RULES)


@pytest.mark.parametrize("backend", ["reference", "onnxruntime", "openvino"])
def test_it_runs_in_int8_on(
    backend: str, model: Model, calibration: Calibration, tmp_path: Path
) -> None:
    if (reason := backends.available()[backend]) is not None:
        pytest.skip(f"{backend} cannot work here: {reason}")
    found = quantize(model, calibration, rules=RULES).model
    engine = backends.build(found, backend=backend, output=tmp_path / "int8.bw")
    build = engine.receipt["build"]
    assert build["precision"] == "int8"
    images = make_images(model, 3, seed=9)
    with backends.load(model) as plain, backends.load(engine) as runner:
        expected, got = plain.infer({"images": images}), runner.infer({"images": images})
    for name, values in expected.items():
        assert 0 < nrmse(got[name], values) < 0.05, name
    for reference in (found, model):
        proof = prove(engine, reference, images, reference_backend="reference")
        assert proof.ok, proof.parity.to_dict()
    for asked in ("fp32", "fp16"):
        with pytest.raises(InputError, match="is quantised: its precision is int8"):
            backends.build(found, backend=backend, precision=asked, output=tmp_path / "x.bw")
    with pytest.raises(InputError, match=r"tiny is not quantised.*boxwright quantize"):
        backends.build(model, backend=backend, precision="int8", output=tmp_path / "x.bw")
