"""Activations, class trees, grey input and the form of the graph; layers: tests/oracle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from boxwright.darknet.activations import ACTIVATIONS
from boxwright.darknet.network import read_network
from boxwright.importers import import_model
from boxwright.model import Model
from tests.darknet.cfgs import NET, cfg_text, random_weights, write_weights

CONV = "[convolutional]\nfilters={}\nsize=3\npad=1\nactivation=linear\n"


def build(folder: Path, text: str, seed: int = 0) -> tuple[Model, Path, Path]:
    """A cfg and random weights, written and imported."""
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    cfg.write_text(text)
    write_weights(weights, random_weights(read_network(cfg), seed))
    return import_model(weights, cfg=cfg), cfg, weights


def tensors(model: Model, images: NDArray[np.uint8], *names: str) -> list[NDArray[Any]]:
    """Any tensors of the graph, by name, from a session of our own."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for name in set(names) - {"boxes", "scores"}:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        proto.graph.output.append(value)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    result: list[NDArray[Any]] = session.run(list(names), {"images": images})
    return result


Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def share(x: Array) -> Array:
    total: Array = x.sum(axis=1, keepdims=True) + 0.0001
    return x / total


def stair(x: Array) -> Array:
    n = np.floor(x)
    return np.where(n % 2 == 0, np.floor(x / 2), (x - n) + np.floor(x / 2))


# activations.h and activations.c, one by one, in their own words.
FORMULAS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "logistic": sigmoid,
    "loggy": lambda x: 2 / (1 + np.exp(-x)) - 1,
    "relu": lambda x: x * (x > 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "relie": lambda x: np.where(x > 0, x, 0.01 * x),
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "tanh": lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
    "hardtan": lambda x: np.where(x < -1, -1, np.where(x > 1, 1, x)),
    "lhtan": lambda x: np.where(x < 0, 0.001 * x, np.where(x > 1, 0.001 * (x - 1) + 1, x)),
    "plse": lambda x: np.where(
        x < -4, 0.01 * (x + 4), np.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5)
    ),
    "stair": stair,
    "elu": lambda x: (x >= 0) * x + (x < 0) * (np.exp(x) - 1),
    "selu": lambda x: (x >= 0) * 1.0507 * x + (x < 0) * 1.0507 * 1.6732 * (np.exp(x) - 1),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(0.797885 * x + 0.035677 * x**3)),
    "swish": lambda x: x * sigmoid(x),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "hard_mish": lambda x: np.where(x > 0, x, np.where(x > -2, x * x / 2 + x, 0)),
    "normalize_channels": lambda x: share(np.maximum(x, 0)),
    "norm_chan": lambda x: share(np.maximum(x, 0)),
    "norm_chan_softmax": lambda x: share(np.exp(x)),
    "norm_chan_softmax_maxval": lambda x: share(np.exp(x - x.max(axis=1, keepdims=True))),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(tmp_path: Path, activation: str) -> None:
    """Layer 1 is a 1x1 identity, so that its activation sees exactly what layer 0 gives."""
    body = (
        "[convolutional]\nfilters=3\nsize=1\nactivation=linear\n"
        f"[activation]\nactivation={activation}\n"
    )
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(cfg_text(body, width=16, height=16))
    values = random_weights(read_network(cfg))
    # Wide enough to reach every piece of the piecewise ones: pixels become -7 to 7.
    values[:12] = [-7, -7, -7, *(14 * np.eye(3)).ravel()]
    write_weights(weights, values)
    model = import_model(weights, cfg=cfg)
    onnx.checker.check_model(model.proto, full_check=True)
    images = np.random.default_rng(3).integers(0, 256, (1, 16, 16, 3), np.uint8)
    convolution = next(n for n in model.proto.graph.node if "002_convolutional" in n.output[0])
    x, y = tensors(model, images, "000_convolutional/conv", convolution.input[0])
    assert x.min() < -4.5
    assert x.max() > 6.5
    np.testing.assert_allclose(y, FORMULAS[activation](x.astype(float)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["reorg", "reorg3d"])
def test_reverse_reorg_undoes_reorg(tmp_path: Path, name: str) -> None:
    body = CONV.format(4) + f"[{name}]\nstride=2\n[{name}]\nstride=2\nreverse=1\n"
    model, _, _ = build(tmp_path, cfg_text(body))
    images = np.random.default_rng(3).integers(0, 256, (1, 8, 8, 3), np.uint8)
    convolution = next(n for n in model.proto.graph.node if "003_convolutional" in n.output[0])
    if name == "reorg3d":
        x, y = tensors(model, images, "000_convolutional/conv", convolution.input[0])
        np.testing.assert_array_equal(x, y)
        return
    # [reorg] reads its input as the enlarged image in both directions, so that two of them
    # do not cancel; the reverse is checked against the loop of reorg_cpu.
    before = next(n for n in model.proto.graph.node if n.output[0] == "001_reorg/map").output[0]
    x, y = tensors(model, images, before, convolution.input[0])
    expected = np.zeros(x.size, np.float32)
    channels, height, width = x.shape[1:]
    outer = channels // 4
    flat = x.ravel()
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                c2, offset = k % outer, k // outer
                w2, h2 = i * 2 + offset % 2, j * 2 + offset // 2
                expected[w2 + width * 2 * (h2 + height * 2 * c2)] = flat[
                    i + width * (j + height * k)
                ]
    np.testing.assert_array_equal(y.ravel(), expected)


def region(options: str, classes: int = 2) -> str:
    return (
        NET.format(width=8, height=6, channels=3)
        + CONV.format(2 * (5 + classes))
        + f"[region]\nclasses={classes}\nnum=2\nanchors=0.5,0.7, 1.5,1.1\n{options}"
    )


def test_class_trees_follow_the_definition(tmp_path: Path) -> None:
    """A brute-force walk of the tree: softmax among siblings, product up to the root."""
    parents = [-1, -1, -1, 0, 0, 1, 1, 1, 3, 3]
    (tmp_path / "t.tree").write_text("".join(f"c{i} {p}\n" for i, p in enumerate(parents)))
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(region("softmax=1\ntree=t.tree\n", classes=len(parents)))
    write_weights(weights, random_weights(read_network(cfg)) * 3)
    model = import_model(weights, cfg=cfg, names=[f"c{i}" for i in range(10)])
    onnx.checker.check_model(model.proto, full_check=True)
    image = np.random.default_rng(2).integers(0, 256, (1, 6, 8, 3), np.uint8)
    raw, scores = tensors(model, image, model.card.heads[0].tensor, "scores")
    logits = raw[0].reshape(2, 15, 48).transpose(2, 0, 1).reshape(96, 15).astype(float)
    found = 0
    for row, values in enumerate(logits):
        classes = np.exp(values[5:])
        probability = np.zeros(10)
        for child, parent in enumerate(parents):
            siblings = [i for i, p in enumerate(parents) if p == parent]
            probability[child] = classes[child] / classes[siblings].sum()
            probability[child] *= probability[parent] if parent >= 0 else 1
        expected = np.zeros(10)
        likely = np.flatnonzero(probability > 0.5)
        if len(likely):
            objectness = 1 / (1 + np.exp(-values[4]))
            expected[likely[-1]] = min(probability[likely[-1]], objectness)
            found += 1
        np.testing.assert_allclose(scores[0][row], expected, atol=1e-5)
    assert 5 < found < 96


def test_grey_networks_see_darknets_grey(tmp_path: Path) -> None:
    text = cfg_text(CONV.format(4), width=8, height=6, channels=1)
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(text)
    write_weights(weights, random_weights(read_network(cfg)))
    model = import_model(weights, cfg=cfg)
    image = np.random.default_rng(2).integers(0, 256, (1, 6, 8, 3), np.uint8)
    (planes,) = tensors(model, image, "pre/planes")
    r, g, b = (image[0, ..., i].astype(int) for i in range(3))
    grey = (r * 77 + g * 150 + b * 29) >> 8  # stbi__compute_y
    np.testing.assert_allclose(planes[0, 0], grey / 255, rtol=1e-6)


def test_the_graph_is_portable(tmp_path: Path) -> None:
    model, _, _ = build(
        tmp_path, cfg_text(CONV.format(4) + CONV.format(3) + "[route]\nlayers=-1,-2\n")
    )
    assert model.proto.opset_import[0].version <= 17
    assert model.proto.ir_version <= 10
    assert {node.domain for node in model.proto.graph.node} == {""}
    assert [value.name for value in model.proto.graph.input] == ["images"]
    assert all(
        tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64)
        for tensor in model.proto.graph.initializer
    )


def test_every_decode_node_is_named_so(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path, cfg_text(CONV.format(4)))
    names = [node.name for node in model.proto.graph.node]
    first = next(i for i, name in enumerate(names) if name.startswith("decode/"))
    assert all(name.startswith("decode/") or name in ("boxes", "scores") for name in names[first:])
    assert names[:3] == ["pre/float", "pre/scale", "pre/planes"]
