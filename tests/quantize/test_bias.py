"""Bias correction: the mean of every quantised convolution is that of the float one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from boxwright.graph.session import plain_session
from boxwright.model import Model
from boxwright.quantize.bias import bias_corrections, corrected
from boxwright.quantize.calibration import calibrate
from boxwright.quantize.quantizer import Quantized, quantize
from boxwright.quantize.rules import Rules
from boxwright.quantize.variants import Variant, Workshop, prepared
from tests.models import make_images

_RULES = Rules(min_channels=1, first=True, heads=True)


@pytest.fixture(scope="module")
def quantized(model: Model, images: list[Path]) -> Quantized:
    # Narrow ranges, so that there is something to correct.
    found = calibrate(model, images)
    return quantize(model, found, method="percentile", percentile=95, rules=_RULES)


def tensor(model: Model, name: str, images: NDArray[np.uint8]) -> NDArray[Any]:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.output[:]
    proto.graph.output.add(name=name)
    result: NDArray[Any] = plain_session(proto).run(None, {"images": images})[0]
    return result


def test_the_first_convolution_has_the_float_mean_again(model: Model, quantized: Quantized) -> None:
    """There is nothing before it, so the whole network's difference is its own."""
    pixels = make_images(model, 4)
    corrections = bias_corrections(model, quantized, pixels)
    better = corrected(quantized, corrections, len(pixels))
    first = quantized.placement.quantized[0]
    output = next(n for n in model.proto.graph.node if n.op_type == "Conv").output[0]
    wanted = tensor(model, output, pixels).mean(axis=(0, 2, 3))
    before = tensor(quantized.model, output, pixels).mean(axis=(0, 2, 3))
    after = tensor(better.model, output, pixels).mean(axis=(0, 2, 3))
    assert np.abs(before - wanted).max() > 1e-3
    assert np.abs(after - wanted).max() < 1e-5
    np.testing.assert_allclose(corrections[first.name], wanted - before, atol=1e-5)


def test_a_layer_is_compared_on_the_same_input(model: Model, quantized: Quantized) -> None:
    """In numpy: input and weights rounded, both of the float network."""
    pixels = make_images(model, 2)
    layer = next(item for item in quantized.placement.quantized if item.shape[2:] == (1, 1))
    weights = next(t for t in model.proto.graph.initializer if t.name == layer.weights)
    values = numpy_helper.to_array(weights)[:, :, 0, 0].astype(np.float64)
    x = tensor(model, layer.input, pixels).astype(np.float64)

    def rounded(value: NDArray[Any], step: Any) -> NDArray[Any]:
        result: NDArray[Any] = np.clip(np.rint(value / step), -127, 127) * step
        return result

    amax = quantized.amax[layer.input]
    xq = np.clip(np.rint(x / np.float32(amax / 127)), -128, 127) * np.float32(amax / 127)
    wq = rounded(values, (np.abs(values).max(axis=1, keepdims=True) / 127).astype(np.float32))
    per = len(values) // layer.group
    width = values.shape[1]
    for group in range(layer.group):
        own = slice(group * per, (group + 1) * per)
        read = slice(group * width, (group + 1) * width)
        exact = np.einsum("oc,nchw->nohw", values[own], x[:, read])
        coarse = np.einsum("oc,nchw->nohw", wq[own], xq[:, read])
        expected = (exact - coarse).mean(axis=(0, 2, 3))
        got = bias_corrections(model, quantized, pixels)[layer.name][own]
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_only_biases_of_quantised_layers_change(
    model: Model, images: list[Path], quantized: Quantized
) -> None:
    keep = quantized.placement.quantized[1].name
    pixels = make_images(model, 2)
    corrections = bias_corrections(model, quantized, pixels)
    before = quantized.model.proto.SerializeToString()
    partly = quantize(model, calibrate(model, images), rules=_RULES, keep=[keep])
    better = corrected(partly, corrections, 2)
    assert quantized.model.proto.SerializeToString() == before
    old = {node.name: node for node in partly.model.proto.graph.node}
    changed = {
        node.name
        for node in better.model.proto.graph.node
        if list(node.input) != list(old[node.name].input)
    }
    assert changed == set(corrections) - {keep}
    assert better.model.card.transforms[-1].parameters["bias_correction"] == {
        "images": 2,
        "layers": len(changed),
    }
    better.model.check("the corrected model")
    onnx.checker.check_model(better.model.proto, full_check=True)


def test_a_workshop_corrects_on_its_images(model: Model, images: list[Path]) -> None:
    workshop = Workshop(model, calibrate(model, images), images=images, rules=_RULES)
    made = workshop.make(Variant(bias=True))
    plain = workshop.make(Variant())
    expected = bias_corrections(model, plain, prepared(model, images))
    bias = {t.name: numpy_helper.to_array(t) for t in made.model.proto.graph.initializer}
    old = {t.name: numpy_helper.to_array(t) for t in plain.model.proto.graph.initializer}
    was = {node.name: node for node in plain.model.proto.graph.node}
    seen = 0
    for node in made.model.proto.graph.node:
        if node.name in expected:
            change = bias[node.input[2]] - old[was[node.name].input[2]]
            np.testing.assert_allclose(change, expected[node.name], atol=1e-6)
            seen += 1
    assert seen == len(workshop.layers)
