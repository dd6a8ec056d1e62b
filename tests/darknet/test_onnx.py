"""Every layer and head against a numpy Darknet that shares no code with the importer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from boxwright import backends
from boxwright.darknet.activations import ACTIVATIONS
from boxwright.darknet.network import read_network
from boxwright.importers import import_model
from boxwright.model import Model
from tests.darknet.cfgs import NET, cfg_text, random_weights, write_weights
from tests.oracle.numpy_darknet import NumpyDarknet

CONV = "[convolutional]\nfilters={}\nsize=3\npad=1\nactivation=linear\n"

LAYERS = {
    "batch_norm": "[convolutional]\nfilters=5\nsize=3\npad=1\nbatch_normalize=1\n",
    "no_padding": "[convolutional]\nfilters=5\nsize=3\nactivation=linear\n",
    "even_kernel": "[convolutional]\nfilters=5\nsize=2\npad=1\nactivation=linear\n",
    "padding": "[convolutional]\nfilters=5\nsize=3\npadding=2\nactivation=linear\n",
    "strides": "[convolutional]\nfilters=5\nsize=3\npad=1\nstride_x=2\nstride_y=1\n",
    "dilation": "[convolutional]\nfilters=5\nsize=3\npad=1\ndilation=2\n",
    "groups": CONV.format(6) + "[convolutional]\nfilters=4\nsize=3\npad=1\ngroups=2\n",
    "depthwise": CONV.format(6) + "[convolutional]\nfilters=6\nsize=3\npad=1\ngroups=6\n",
    "share_index": CONV.format(3)
    + "[convolutional]\nfilters=3\nsize=3\npad=1\nactivation=leaky\nshare_index=0\n",
    "antialiasing": "[convolutional]\nfilters=5\nsize=3\npad=1\nstride=2\nantialiasing=1\n",
    "antialiasing2": "[convolutional]\nfilters=5\nsize=3\npad=1\nstride=2\nantialiasing=2\n",
    "pool_antialiasing": CONV.format(4) + "[maxpool]\nsize=2\nstride=2\nantialiasing=1\n",
    "maxpool": CONV.format(4) + "[maxpool]\nsize=2\nstride=2\n",
    "maxpool_same": CONV.format(4) + "[maxpool]\nsize=2\nstride=1\n",
    "maxpool_3_2": CONV.format(4) + "[maxpool]\nsize=3\nstride=2\n",
    "maxpool_5": CONV.format(4) + "[maxpool]\nsize=5\nstride=1\n",
    "maxpool_strides": CONV.format(4) + "[maxpool]\nsize=3\nstride_x=2\nstride_y=1\n",
    "maxpool_padding": CONV.format(4) + "[maxpool]\nsize=3\nstride=2\npadding=1\n",
    "maxpool_no_padding": CONV.format(4) + "[maxpool]\nsize=3\nstride=2\npadding=0\n",
    "maxpool_depth": CONV.format(6) + "[maxpool]\nmaxpool_depth=1\nout_channels=3\n",
    "maxpool_depth_rest": CONV.format(7) + "[maxpool]\nmaxpool_depth=1\nout_channels=3\n",
    "local_avgpool": CONV.format(4) + "[local_avgpool]\nsize=3\nstride=2\n",
    "avgpool": CONV.format(4) + "[avgpool]\n[convolutional]\nfilters=4\n[scale_channels]\nfrom=0\n",
    "scale_wh": CONV.format(4)
    + "[convolutional]\nfilters=1\n[scale_channels]\nfrom=0\nscale_wh=1\n",
    "sam": CONV.format(4) + CONV.format(4) + "[sam]\nfrom=-2\nactivation=leaky\n",
    "route": CONV.format(4) + CONV.format(3) + "[route]\nlayers=-1,-2\n",
    "route_group": CONV.format(4) + "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n",
    "route_groups": CONV.format(4) + CONV.format(2) + "[route]\nlayers=0,1\ngroups=2\n",
    "shortcut": CONV.format(4) + CONV.format(4) + "[shortcut]\nfrom=-2\nactivation=leaky\n",
    "shortcut_wider": CONV.format(6) + CONV.format(4) + "[shortcut]\nfrom=-2\n",
    "shortcut_narrower": CONV.format(4) + CONV.format(6) + "[shortcut]\nfrom=-2\n",
    "shortcut_many": 3 * CONV.format(4) + "[shortcut]\nfrom=-2,-3\n",
    "shortcut_weights": 3 * CONV.format(4)
    + "[shortcut]\nfrom=-2,-3\nweights_type=per_channel\nweights_normalization=softmax\n",
    "shortcut_feature": CONV.format(4)
    + CONV.format(4)
    + "[shortcut]\nfrom=-2\nweights_type=per_feature\nweights_normalization=relu\n",
    "upsample": CONV.format(4) + "[maxpool]\nstride=2\n[upsample]\nscale=0.5\n",
    "upsample_down": CONV.format(4) + "[upsample]\nstride=-2\n",
    "reorg": CONV.format(8) + "[reorg]\nstride=2\n",
    "reorg3d": CONV.format(8) + "[reorg3d]\nstride=2\n",
    "batchnorm": CONV.format(4) + "[batchnorm]\n",
    "crop": "[crop]\ncrop_height=4\ncrop_width=6\n" + CONV.format(4),
    "crop_noadjust": "[crop]\ncrop_height=5\ncrop_width=4\nnoadjust=1\n",
    "dropout": CONV.format(4) + "[dropout]\n[batchnorm]\n",
    "local": "[local]\nfilters=4\nsize=3\npad=1\nstride=2\nactivation=leaky\n",
    "local_no_padding": "[local]\nfilters=4\nsize=3\nactivation=linear\n",
    "connected": CONV.format(4) + "[connected]\noutput=6\nactivation=leaky\n",
    "connected_batch_norm": "[connected]\noutput=6\nbatch_normalize=1\nactivation=linear\n",
}


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


def check(model: Model, cfg: Path, weights: Path, tolerance: float = 2e-6) -> None:
    """Boxes and scores of two random images, in a batch, against numpy."""
    onnx.checker.check_model(model.proto, full_check=True)
    model.check()
    height, width = model.card.input_size
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, height, width, 3), np.uint8)
    with backends.load(model, backend="onnxruntime") as runner:
        out = runner.infer({"images": images})
    reference = NumpyDarknet(cfg, weights, np.float64)
    for row in range(2):
        heads = reference.run(images[row])
        compare(out["boxes"][row], np.concatenate([head.boxes for head in heads]), tolerance)
        compare(out["scores"][row], np.concatenate([head.scores for head in heads]), tolerance)


def compare(got: NDArray[Any], expected: NDArray[Any], tolerance: float) -> None:
    assert got.shape == expected.shape
    assert np.isfinite(expected).all()
    assert np.ptp(expected) > 0  # a constant would prove nothing
    assert np.abs(got - expected).max() <= tolerance * max(np.abs(expected).max(), 1)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(tmp_path: Path, name: str) -> None:
    check(*build(tmp_path, cfg_text(LAYERS[name], width=8, height=6)))


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


YOLO_HEADS = {
    "scale_x_y": "scale_x_y=1.2\n",
    "new_coords": "scale_x_y=2.0\nnew_coords=1\n",
}


@pytest.mark.parametrize("name", YOLO_HEADS)
def test_yolo_heads(tmp_path: Path, name: str) -> None:
    text = cfg_text(CONV.format(4), width=8, height=6) + YOLO_HEADS[name]
    check(*build(tmp_path, text))


@pytest.mark.parametrize("point", ["center", "left_top", "right_bottom"])
def test_gaussian_heads(tmp_path: Path, point: str) -> None:
    text = (
        cfg_text(CONV.format(4), width=8, height=6)
        .replace("[yolo]", f"[Gaussian_yolo]\nyolo_point={point}\nscale_x_y=1.1")
        .replace("filters=14", "filters=22")
    )
    check(*build(tmp_path, text))


def region(options: str, classes: int = 2) -> str:
    return (
        NET.format(width=8, height=6, channels=3)
        + CONV.format(2 * (5 + classes))
        + f"[region]\nclasses={classes}\nnum=2\nanchors=0.5,0.7, 1.5,1.1\n{options}"
    )


@pytest.mark.parametrize("options", ["softmax=1\n", "softmax=0\n", "softmax=1\nclassfix=-1\n"])
def test_region_heads(tmp_path: Path, options: str) -> None:
    check(*build(tmp_path, region(options)))


@pytest.mark.parametrize("options", ["", "sqrt=1\n", "softmax=1\n", "sqrt=1\nsoftmax=1\n"])
def test_detection_heads(tmp_path: Path, options: str) -> None:
    text = (
        NET.format(width=8, height=6, channels=3)
        + "[connected]\noutput=108\nactivation=linear\n"
        + f"[detection]\nclasses=2\nnum=2\nside=3\ncoords=4\n{options}"
    )
    check(*build(tmp_path, text))


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
    model, _, _ = build(tmp_path, cfg_text(LAYERS["route"]))
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
