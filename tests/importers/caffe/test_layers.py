"""Every layer on random weights: beside OpenCV, or a formula in numpy where it has none.

Each network is also run on two images at once, which must answer as they do alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from boxwright.errors import CfgError, UnsupportedError, WeightsError
from tests.importers.caffe.nets import (
    HEIGHT,
    WIDTH,
    Array,
    caffemodel,
    feed,
    opencv,
    ours,
    picture,
    prototxt,
)

# Relative to the largest value: float32 sums in another order.
TOLERANCE = 2e-6

Blobs = dict[str, tuple[str, list[Array]]]


def rand(*shape: int, low: float = -1.0, high: float = 1.0) -> Array:
    seed = np.random.default_rng(shape)
    return seed.uniform(low, high, shape).astype(np.float32)


def layer(kind: str, param: str = "", bottoms: str = "x", top: str = "y") -> str:
    lines = "".join(f'bottom: "{name}" ' for name in bottoms.split())
    lines += "".join(f'top: "{name}" ' for name in top.split())
    return f'layer {{ name: "{top.split()[0]}" type: "{kind}" {lines}{param} }}\n'


CONV = layer(
    "Convolution", "convolution_param { num_output: 6 kernel_size: 3 pad: 1 }", "data", "x"
)
CONV_BLOBS: Blobs = {"x": ("Convolution", [rand(6, 3, 3, 3), rand(6)])}
CONV2 = layer("Convolution", "convolution_param { num_output: 6 kernel_size: 1 }", "data", "z")
CONV2_BLOBS: Blobs = {"z": ("Convolution", [rand(6, 3, 1, 1), rand(6)])}


def conv(param: str, *shape: int, kind: str = "Convolution", bias: int = 0) -> tuple[str, Blobs]:
    values = [rand(*shape), *([rand(bias)] if bias else [])]
    term = "" if bias else "bias_term: false"
    return layer(kind, f"convolution_param {{ {param} {term} }}"), {"y": (kind, values)}


# name: (layers after `x`, their blobs)
CASES: dict[str, tuple[str, Blobs]] = {
    "convolution": conv("num_output: 4 kernel_size: 3", 4, 6, 3, 3, bias=4),
    "convolution, strides, no bias": conv(
        "num_output: 4 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0",
        *(4, 6, 3, 2),
    ),
    "convolution, groups": conv("num_output: 4 kernel_size: 3 group: 2", 4, 3, 3, 3, bias=4),
    "convolution, dilation": conv(
        "num_output: 4 kernel_size: 3 dilation: 2 pad: 2", 4, 6, 3, 3, bias=4
    ),
    "deconvolution": conv(
        "num_output: 4 kernel_size: 4 stride: 2 pad: 1", 6, 4, 4, 4, kind="Deconvolution", bias=4
    ),
    "deconvolution, groups": conv(
        *("num_output: 6 kernel_size: 4 stride: 2 pad: 1 group: 3", 6, 2, 4, 4),
        kind="Deconvolution",
        bias=6,
    ),
    "inner product": (
        layer("InnerProduct", "inner_product_param { num_output: 5 }"),
        {"y": ("InnerProduct", [rand(5, 6 * HEIGHT * WIDTH), rand(5)])},
    ),
    "relu": (layer("ReLU"), {}),
    "relu, leaky": (layer("ReLU", "relu_param { negative_slope: 0.1 }"), {}),
    "relu6": (layer("ReLU6"), {}),
    "prelu": (layer("PReLU"), {"y": ("PReLU", [rand(6)])}),
    "prelu, shared": (
        layer("PReLU", "prelu_param { channel_shared: true }"),
        {"y": ("PReLU", [rand(1)])},
    ),
    "elu": (layer("ELU", "elu_param { alpha: 1 }"), {}),
    "sigmoid": (layer("Sigmoid"), {}),
    "tanh": (layer("TanH"), {}),
    "absval": (layer("AbsVal"), {}),
    "bnll": (layer("BNLL"), {}),
    "softmax": (layer("Softmax"), {}),
    "softmax, axis": (layer("Softmax", "softmax_param { axis: 2 }"), {}),
    "power": (layer("Power", "power_param { power: 2 scale: 0.5 shift: 3 }"), {}),
    "power, affine": (layer("Power", "power_param { scale: -0.5 shift: 1 }"), {}),
    "power, odd": (
        layer("AbsVal", top="w") + layer("Power", "power_param { power: -0.75 shift: 1 }", "w"),
        {},
    ),
    "exp": (layer("Exp", "exp_param { base: 2 scale: 0.5 shift: 0.25 }"), {}),
    "batch norm": (
        layer("BatchNorm") + layer("Scale", "scale_param { bias_term: true }", "y", "w"),
        {
            "y": ("BatchNorm", [rand(6) * 9, rand(6, low=1, high=9), np.array([3.0])]),
            "w": ("Scale", [rand(6), rand(6)]),
        },
    ),
    "batch norm, not folded": (
        layer("ReLU", top="w") + layer("BatchNorm", "batch_norm_param { eps: 0.01 }", "w"),
        {"y": ("BatchNorm", [rand(6), rand(6, low=0.1, high=2), np.array([1.0])])},
    ),
    "scale behind an inner product": (
        layer("InnerProduct", "inner_product_param { num_output: 5 bias_term: false }")
        + layer("Scale", "scale_param { bias_term: true }", "y", "w"),
        {
            "y": ("InnerProduct", [rand(5, 6 * HEIGHT * WIDTH)]),
            "w": ("Scale", [rand(5), rand(5)]),
        },
    ),
    "scale by a second bottom, flat": (
        layer("Pooling", "pooling_param { pool: AVE global_pooling: true }", "x", "v")
        + layer("Flatten", "", "v", "w")
        + layer("Scale", "scale_param { axis: 0 }", "x w"),
        {},
    ),
    "scale by a second bottom": (
        layer("Pooling", "pooling_param { pool: AVE global_pooling: true }", "x", "w")
        + layer("Scale", "scale_param { axis: 0 }", "x w"),
        {},
    ),
    "eltwise, sum": (CONV2 + layer("Eltwise", "", "x z"), CONV2_BLOBS),
    "eltwise, coefficients": (
        CONV2 + layer("Eltwise", "eltwise_param { coeff: 1 coeff: -0.5 }", "x z"),
        CONV2_BLOBS,
    ),
    "eltwise, product": (
        CONV2 + layer("Eltwise", "eltwise_param { operation: PROD }", "x z"),
        CONV2_BLOBS,
    ),
    "eltwise, maximum": (
        CONV2 + layer("Eltwise", "eltwise_param { operation: MAX }", "x z"),
        CONV2_BLOBS,
    ),
    "concat": (CONV2 + layer("Concat", "concat_param { axis: -2 }", "x z"), CONV2_BLOBS),
    "slice": (
        layer("Slice", "slice_param { slice_point: 1 slice_point: 4 }", top="y z w")
        + layer("Power", "power_param { scale: 2 }", "z", "v"),
        {},
    ),
    "flatten": (layer("Flatten"), {}),
    "reshape": (layer("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 13 } }"), {}),
    "reshape, fixed batch": (
        layer("Reshape", "reshape_param { shape { dim: 1 dim: 2 dim: -1 } }"),
        {},
    ),
    "reshape, of some axes": (
        layer("Reshape", "reshape_param { shape { dim: 3 dim: 2 } axis: 1 num_axes: 1 }"),
        {},
    ),
    "permute": (
        layer("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }"),
        {},
    ),
    "lrn": (layer("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.75 }"), {}),
    "lrn, within": (
        layer("LRN", "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }"),
        {},
    ),
    "normalize": (
        layer("Normalize", "norm_param { across_spatial: false channel_shared: false }"),
        {"y": ("Normalize", [rand(6)])},
    ),
    "normalize, everything": (
        layer("Normalize", "norm_param { across_spatial: true channel_shared: true }"),
        {"y": ("Normalize", [rand(1) * 20])},
    ),
    "mvn": (layer("MVN"), {}),
    "mvn, across": (layer("MVN", "mvn_param { across_channels: true }"), {}),
    "mvn, mean only": (layer("MVN", "mvn_param { normalize_variance: false }"), {}),
    "crop": (
        layer("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", "x", "w")
        + layer("Crop", "crop_param { axis: 2 offset: 1 offset: 2 }", "x w"),
        {},
    ),
    "dropout": (layer("Dropout", "dropout_param { dropout_ratio: 0.3 }"), {}),
    "split": (layer("Split", top="y w") + layer("Eltwise", "", "y w", "v"), {}),
    "interp": (layer("Interp", "interp_param { height: 23 width: 31 }"), {}),
    "interp, zoom": (layer("Interp", "interp_param { zoom_factor: 3 }"), {}),
    "shuffle": (layer("ShuffleChannel", "shuffle_channel_param { group: 3 }"), {}),
    "pooling, none beyond": (layer("Pooling", "pooling_param { kernel_size: 2 stride: 2 }"), {}),
    "pooling, global": (layer("Pooling", "pooling_param { pool: MAX global_pooling: true }"), {}),
}
for _pool in ("MAX", "AVE"):
    for _kernel, _stride, _pad in (
        *((3, 2, 0), (3, 2, 1), (2, 2, 1), (3, 1, 1), (5, 3, 2), (2, 3, 0), (4, 3, 1), (3, 3, 2)),
        (2, 3, 1),
    ):
        _text = f"kernel_size: {_kernel} stride: {_stride} pad: {_pad}"
        CASES[f"pooling, {_pool} {_kernel} {_stride} {_pad}"] = (
            layer("Pooling", f"pooling_param {{ pool: {_pool} {_text} }}"),
            {},
        )


def check(tmp_path: Path, body: str, blobs: Blobs, tops: list[str], expected: list[Array]) -> None:
    images = np.stack([picture(seed=0), picture(seed=1)])
    model = caffemodel({**CONV_BLOBS, **blobs})
    alone = ours(tmp_path, prototxt(CONV + body), model, tops, images[:1])
    both = ours(tmp_path, prototxt(CONV + body), model, tops, images)
    for mine, pair, theirs in zip(alone, both, expected, strict=True):
        assert mine.size == theirs.size
        scale = np.abs(theirs).max()
        assert scale > 0
        np.testing.assert_allclose(mine.ravel(), theirs.ravel(), atol=TOLERANCE * scale, rtol=0)
        np.testing.assert_allclose(pair[: len(mine)], mine, atol=TOLERANCE * scale, rtol=0)


def last_top(body: str) -> str:
    return body.rsplit('top: "', 1)[1].split('"')[0]


@pytest.mark.parametrize("name", CASES)
def test_beside_opencv(name: str, tmp_path: Path) -> None:
    body, blobs = CASES[name]
    # The files are written by our run.
    (tmp_path / "net.prototxt").write_text(prototxt(CONV + body))
    (tmp_path / "net.caffemodel").write_bytes(caffemodel({**CONV_BLOBS, **blobs}))
    tops = [last_top(body)]
    if name in ("slice", "split"):
        tops = ["v"]
    check(tmp_path, body, blobs, tops, opencv(tmp_path, tops, picture()))


def convolved() -> Array:
    """`x` in float64."""
    weights, bias = (value.astype(np.float64) for value in CONV_BLOBS["x"][1])
    padded = np.pad(feed(picture())[0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    result = np.zeros((6, HEIGHT, WIDTH)) + bias[:, None, None]
    for i in range(3):
        for j in range(3):
            window = padded[:, i : i + HEIGHT, j : j + WIDTH]
            result += np.einsum("oc,chw->ohw", weights[:, :, i, j], window)
    return result[None]


def upsampled(x: Array) -> Array:
    return x.repeat(2, axis=2).repeat(2, axis=3)


def bilinear(x: Array) -> Array:
    """BilinearFiller with kernel 4, stride 2, pad 1: interpolation between pixel centres."""
    tent = np.array([0.25, 0.75, 0.75, 0.25])
    _, channels, height, width = x.shape
    grown = np.zeros((1, channels, 2 * height + 2, 2 * width + 2))
    for i in range(4):
        for j in range(4):
            grown[:, :, i : i + 2 * height : 2, j : j + 2 * width : 2] += tent[i] * tent[j] * x
    return grown[:, :, 1:-1, 1:-1]


def shrunk(x: Array) -> Array:
    """10 x 13 to 5 x 7, first and last pixels kept: (size - 1) / 2 + 1, rounded down."""
    rows = np.arange(5) * 9 / 4
    low = np.minimum(rows.astype(int), HEIGHT - 2)
    part = (rows - low)[:, None]
    lines = x[:, :, low] * (1 - part) + x[:, :, low + 1] * part
    return np.asarray(lines[..., ::2])


def log_of(x: Array) -> Array:
    return np.asarray(np.log(3 + 0.5 * np.abs(x)) / np.log(10))


def deconvolved(x: Array) -> Array:
    """Two groups of three channels to two each, kernel 2; then the batch norm."""
    weights = rand(6, 2, 2, 2).astype(np.float64)
    result = np.zeros((1, 4, HEIGHT + 1, WIDTH + 1))
    for channel in range(6):
        group = channel // 3
        for i in range(2):
            for j in range(2):
                part = weights[channel, :, i, j, None, None] * x[0, channel]
                result[0, 2 * group : 2 * group + 2, i : i + HEIGHT, j : j + WIDTH] += part
    mean, variance = rand(4)[:, None, None], rand(4, low=0.1, high=2)[:, None, None]
    normal: Array = (result - mean) / np.sqrt(variance + 1e-5)
    return normal


# What OpenCV 4 does not have, or has otherwise.
FORMULAS: dict[str, tuple[str, Blobs, Callable[[Array], Array]]] = {
    "upsample": (layer("Upsample", "upsample_param { scale: 2 }"), {}, upsampled),
    "bilinear deconvolution": (
        layer(
            "Deconvolution",
            "convolution_param { num_output: 6 group: 6 kernel_size: 4 stride: 2 pad: 1 "
            'bias_term: false weight_filler { type: "bilinear" } }',
        ),
        {},
        bilinear,
    ),
    "interp, shrunk": (layer("Interp", "interp_param { shrink_factor: 2 }"), {}, shrunk),
    "log": (
        layer("AbsVal", top="w") + layer("Log", "log_param { base: 10 scale: 0.5 shift: 3 }", "w"),
        {},
        log_of,
    ),
    "exp of e": (layer("Exp", "exp_param { scale: 0.25 }"), {}, lambda x: np.exp(0.25 * x)),
    "clip": (layer("Clip", "clip_param { min: -1 max: 2 }"), {}, lambda x: x.clip(-1, 2)),
    "swish": (
        layer("Swish", "swish_param { beta: 0.5 }"),
        {},
        lambda x: x / (1 + np.exp(-0.5 * x)),
    ),
    "elu": (
        layer("ELU", "elu_param { alpha: 0.5 }"),
        {},
        lambda x: np.where(x > 0, x, 0.5 * np.expm1(np.minimum(x, 0))),
    ),
    "bias": (
        layer("ReLU", top="w") + layer("Bias", "", "w"),
        {"y": ("Bias", [rand(6)])},
        lambda x: x.clip(0) + rand(6)[:, None, None],
    ),
    "scale of all axes": (
        layer("Scale", "scale_param { num_axes: -1 }"),
        {"y": ("Scale", [rand(6, HEIGHT, WIDTH)])},
        lambda x: x * rand(6, HEIGHT, WIDTH),
    ),
    "reduction, sum": (
        layer("Reduction", "reduction_param { axis: 1 }"),
        {},
        lambda x: x.sum((1, 2, 3)),
    ),
    "reduction, mean": (
        layer("Reduction", "reduction_param { axis: 2 operation: MEAN coeff: 2 }"),
        {},
        lambda x: 2 * x.mean((2, 3)),
    ),
    "reduction, absolute": (
        layer("Reduction", "reduction_param { axis: 2 operation: ASUM }"),
        {},
        lambda x: np.abs(x).sum((2, 3)),
    ),
    "reduction, squares": (
        layer("Reduction", "reduction_param { axis: 1 operation: SUMSQ coeff: 0.1 }"),
        {},
        lambda x: 0.1 * (x * x).sum((1, 2, 3)),
    ),
    "axpy": (
        layer("Pooling", "pooling_param { pool: AVE global_pooling: true }", "x", "w")
        + layer("Axpy", "", "w x x"),
        {},
        lambda x: x.mean((2, 3), keepdims=True) * x + x,
    ),
    "depthwise convolution": (
        layer(
            "DepthwiseConvolution",
            "convolution_param { num_output: 6 kernel_size: 1 bias_term: false }",
        ),
        {"y": ("DepthwiseConvolution", [rand(6, 1, 1, 1)])},
        lambda x: x * rand(6, 1, 1, 1)[:, 0],
    ),
    "dropout that was not scaled": (
        layer("Dropout", "dropout_param { dropout_ratio: 0.25 scale_train: false }"),
        {},
        lambda x: 0.75 * x,
    ),
    "inner product, transposed": (
        layer("InnerProduct", "inner_product_param { num_output: 5 transpose: true }"),
        {"y": ("InnerProduct", [rand(6 * HEIGHT * WIDTH, 5), rand(5)])},
        lambda x: x.reshape(1, -1) @ rand(6 * HEIGHT * WIDTH, 5) + rand(5),
    ),
    "inner product, axis 2": (
        layer("InnerProduct", "inner_product_param { num_output: 5 axis: 2 bias_term: false }"),
        {"y": ("InnerProduct", [rand(5, HEIGHT * WIDTH)])},
        lambda x: x.reshape(1, 6, -1) @ rand(5, HEIGHT * WIDTH).T,
    ),
    # OpenCV 4.14 folds it into the wrong channels.
    "batch norm behind groups of a deconvolution": (
        conv("num_output: 4 kernel_size: 2 group: 2", 6, 2, 2, 2, kind="Deconvolution")[0]
        + layer("BatchNorm", "", "y", "w"),
        {
            "y": ("Deconvolution", [rand(6, 2, 2, 2)]),
            "w": ("BatchNorm", [rand(4), rand(4, low=0.1, high=2), np.array([1.0])]),
        },
        deconvolved,
    ),
    "batch norm that counted nothing": (
        layer("BatchNorm", "batch_norm_param { eps: 0.25 }"),
        {"y": ("BatchNorm", [rand(6), rand(6), np.array([0.0])])},
        lambda x: 2 * x,
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_beside_a_formula(name: str, tmp_path: Path) -> None:
    body, blobs, formula = FORMULAS[name]
    check(tmp_path, body, blobs, [last_top(body)], [formula(convolved())])


def test_batch_normalisation_leaves_no_node(tmp_path: Path) -> None:
    body, blobs = CASES["batch norm"]
    text = prototxt(CONV + body)
    (value,) = ours(tmp_path, text, caffemodel({**CONV_BLOBS, **blobs}), ["w"], picture()[None])
    assert value.shape == (1, 6, HEIGHT, WIDTH)


REFUSED = {
    "no such layer": (layer("Tile"), UnsupportedError, "layers of type 'Tile' are not supported"),
    "no such field": (
        layer("ReLU", "relu_param { slope: 1 }"),
        UnsupportedError,
        "slope is not known here",
    ),
    "window without a pixel": (
        layer("Pooling", "pooling_param { kernel_size: 1 stride: 2 }"),
        UnsupportedError,
        "would hold no pixel",
    ),
    "statistics of the batch": (
        layer("BatchNorm", "batch_norm_param { use_global_stats: false }"),
        UnsupportedError,
        "change with the batch",
    ),
    "positions of maxima": (
        layer("Pooling", "pooling_param { kernel_size: 2 }", top="y w"),
        UnsupportedError,
        "positions of maxima",
    ),
    "stochastic": (
        layer("Pooling", "pooling_param { kernel_size: 2 pool: STOCHASTIC }"),
        UnsupportedError,
        "stochastic",
    ),
    "mixing a batch": (
        layer("Concat", "concat_param { axis: 0 }", "x x"),
        UnsupportedError,
        "mix the images",
    ),
    "moving the batch": (
        layer("Permute", "permute_param { order: 1 }"),
        UnsupportedError,
        "move the batch",
    ),
    "other shapes": (layer("Eltwise", "", "x data"), CfgError, "differ in shape"),
    "no such bottom": (layer("ReLU", "", "q"), CfgError, "no layer before it gives"),
    "no blobs": (
        layer("Convolution", "convolution_param { num_output: 2 kernel_size: 1 }"),
        WeightsError,
        "needs 2 blobs, got 0",
    ),
    "wrong groups": (
        layer("Convolution", "convolution_param { num_output: 2 kernel_size: 1 group: 4 }"),
        CfgError,
        "4 groups do not divide 6 and 2",
    ),
    "a filler's bomb": (
        layer(
            "Deconvolution",
            "convolution_param { num_output: 4000 kernel_size: 16000 bias_term: false "
            'pad: 8000 weight_filler { type: "bilinear" } }',
        ),
        CfgError,
        "its filler would make 6144000000000 weights",
    ),
    "more channels than anything has": (
        layer("Convolution", "convolution_param { num_output: 99999999 kernel_size: 1 }"),
        CfgError,
        "num_output must be a whole number from 1 to 4194304",
    ),
    "larger than the image": (
        layer("Convolution", "convolution_param { num_output: 2 kernel_size: 40 }"),
        CfgError,
        r"its output would have the shape \[1, 2, -29, -26\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    body, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        ours(tmp_path, prototxt(CONV + body), caffemodel(CONV_BLOBS), ["y"], picture()[None])


def test_blobs_of_another_shape_are_refused(tmp_path: Path) -> None:
    model = caffemodel({"x": ("Convolution", [rand(6, 3, 3, 2), rand(6)])})
    with pytest.raises(WeightsError, match=r"must have the shape \[6, 3, 3, 3\], got"):
        ours(tmp_path, prototxt(CONV), model, ["x"], picture()[None])


@pytest.mark.parametrize("form", ["packed", "single", "double", "double_single", "half", "old"])
def test_every_form_of_a_blob(form: str, tmp_path: Path) -> None:
    blobs = {
        "x": ("Convolution", [rand(6, 3, 3, 3).astype(np.float16), rand(6).astype(np.float16)])
    }
    expected = ours(tmp_path, prototxt(CONV), caffemodel(blobs), ["x"], picture()[None])
    found = ours(tmp_path, prototxt(CONV), caffemodel(blobs, form), ["x"], picture()[None])
    np.testing.assert_array_equal(found[0], expected[0])
