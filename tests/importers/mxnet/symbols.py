"""Small symbols with random weights, made and run by MXNet: what our operators are held to.

Run by an interpreter that has MXNet (``$BOXWRIGHT_MXNET_PYTHON``)::

    python symbols.py WORKER FOLDER

writes, for each case, ``NAME-symbol.json``, ``NAME-0000.params`` and ``NAME.npz`` with the
input and MXNet's outputs. Needs nothing of Boxwright but the file ``worker.py``.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# An expression in `s` (mx.sym) and `x` (the input), and the input's shape.
PLANES = (2, 4, 7, 9)
Case = Callable[..., Any]
CASES: dict[str, tuple[Case, tuple[int, ...]]] = {}


def _case(name: str, make: Case, shape: tuple[int, ...] = PLANES) -> None:
    CASES[name] = (make, shape)


def _conv(s: Any, x: Any, **settings: Any) -> Any:
    return s.Convolution(x, **{"kernel": (3, 3), "num_filter": 6, "name": "conv", **settings})


_case("conv", lambda s, x: _conv(s, x))
_case("conv_strided", lambda s, x: _conv(s, x, stride=(2, 1), pad=(1, 0), no_bias=True))
_case("conv_dilated", lambda s, x: _conv(s, x, dilate=(2, 3), pad=(2, 3)))
_case("conv_grouped", lambda s, x: _conv(s, x, num_group=2, kernel=(1, 3)))
_case("conv_depthwise", lambda s, x: _conv(s, x, num_filter=4, num_group=4, pad=(1, 1)))
_case("conv_folded", lambda s, x: s.BatchNorm(_conv(s, x), fix_gamma=False, name="bn"))
_case("conv_folded_fixed", lambda s, x: s.BatchNorm(_conv(s, x, no_bias=True), name="bn"))
_case("conv_read_twice", lambda s, x: (lambda c: s.BatchNorm(c, name="bn") + c)(_conv(s, x)))


def _deconv(s: Any, x: Any, **settings: Any) -> Any:
    return s.Deconvolution(x, **{"kernel": (4, 3), "num_filter": 6, "name": "up", **settings})


_case("deconv", lambda s, x: _deconv(s, x, stride=(2, 2), pad=(1, 1)))
_case("deconv_adjusted", lambda s, x: _deconv(s, x, stride=(2, 2), pad=(1, 1), adj=(1, 1)))
_case("deconv_adjusted_unpadded", lambda s, x: _deconv(s, x, stride=(3, 3), adj=(1, 2)))
_case("deconv_biased", lambda s, x: _deconv(s, x, no_bias=False, num_group=2, dilate=(2, 1)))
_case("deconv_to_size", lambda s, x: _deconv(s, x, stride=(2, 2), target_shape=(14, 17)))
_case("batch_norm", lambda s, x: s.BatchNorm(x, fix_gamma=False, eps=2e-5, name="bn"))
_case("batch_norm_fixed", lambda s, x: s.BatchNorm(x, name="bn"))
_case("batch_norm_last", lambda s, x: s.BatchNorm(x, axis=3, fix_gamma=False, name="bn"))
_case("instance_norm", lambda s, x: s.InstanceNorm(x, eps=1e-2, name="norm"))
_case("lrn", lambda s, x: s.LRN(x, nsize=3, alpha=0.1, knorm=1.5))
_case("dense", lambda s, x: s.FullyConnected(x, num_hidden=5, name="fc"))
_case("dense_bare", lambda s, x: s.FullyConnected(s.flatten(x), num_hidden=5, no_bias=True))
_case("dense_kept", lambda s, x: s.FullyConnected(x, num_hidden=5, flatten=False, name="fc"))
_case(
    "dense_folded",
    lambda s, x: s.BatchNorm(s.FullyConnected(x, num_hidden=5), fix_gamma=False, name="bn"),
)
for _kind in ("max", "avg", "sum"):
    for _full in ("valid", "full"):
        _case(
            f"pool_{_kind}_{_full}",
            lambda s, x, k=_kind, f=_full: s.Pooling(
                x, kernel=(3, 2), stride=(2, 2), pad=(1, 0), pool_type=k, pooling_convention=f
            ),
            (2, 4, 8, 9),
        )
    _case(
        f"pool_global_{_kind}",
        lambda s, x, k=_kind: s.Pooling(x, kernel=(1, 1), global_pool=True, pool_type=k),
    )
for _full in ("valid", "full"):
    _case(
        f"pool_avg_without_pad_{_full}",
        lambda s, x, f=_full: s.Pooling(
            x,
            kernel=(3, 3),
            stride=(2, 2),
            pad=(1, 1),
            pool_type="avg",
            count_include_pad=False,
            pooling_convention=f,
        ),
        (2, 4, 8, 9),
    )
    _case(
        f"pool_avg_overhanging_{_full}",
        lambda s, x, f=_full: s.Pooling(
            x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", pooling_convention=f
        ),
        (2, 4, 8, 10),
    )
_case("adaptive", lambda s, x: s.contrib.AdaptiveAvgPooling2D(x, output_size=1))
_case("upsample", lambda s, x: s.UpSampling(x, scale=3, sample_type="nearest"))
_case(
    "upsample_two",
    lambda s, x: s.UpSampling(
        x,
        s.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max"),
        scale=2,
        sample_type="nearest",
        num_args=2,
    ),
    (2, 4, 8, 6),
)
for _scale in (2, 3):
    _case(
        f"upsample_bilinear_{_scale}",
        lambda s, x, n=_scale: s.UpSampling(
            x, s.var("up_weight"), scale=n, sample_type="bilinear", num_filter=4, num_args=2
        ),
    )
_case("resize", lambda s, x: s.contrib.BilinearResize2D(x, height=11, width=20))
for _kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign"):
    _case(f"act_{_kind}", lambda s, x, k=_kind: s.Activation(x, act_type=k))
for _kind in ("leaky", "prelu", "elu", "selu", "gelu"):
    _case(f"leaky_{_kind}", lambda s, x, k=_kind: s.LeakyReLU(x, act_type=k, name="act"))
_case("leaky_rrelu", lambda s, x: s.LeakyReLU(x, act_type="rrelu")[0])
_case("leaky_slope", lambda s, x: s.LeakyReLU(x, slope=0.1))
_case("elu_slope", lambda s, x: s.LeakyReLU(x, act_type="elu", slope=0.7))
for _kind in ("sigmoid", "tanh", "relu", "abs", "exp", "negative", "square", "floor", "ceil"):
    _case(f"unary_{_kind}", lambda s, x, k=_kind: getattr(s, k)(x))
for _kind in ("sign", "erf", "sin", "cos", "softsign", "expm1", "hard_sigmoid"):
    _case(f"unary_{_kind}", lambda s, x, k=_kind: getattr(s, k)(x))
for _kind in ("sqrt", "rsqrt", "log", "log2", "log10", "log1p", "reciprocal"):
    _case(f"unary_{_kind}", lambda s, x, k=_kind: getattr(s, k)(s.abs(x) + 0.5))
_OTHER = "broadcast_{}"
for _kind in ("add", "sub", "mul", "div", "maximum", "minimum", "greater", "lesser_equal"):
    _case(
        f"broadcast_{_kind}",
        lambda s, x, k=_kind: getattr(s, _OTHER.format(k))(
            x, s.mean(x, axis=(2, 3), keepdims=True)
        ),
    )
for _kind in ("add", "sub", "mul", "div"):
    _case(f"elemwise_{_kind}", lambda s, x, k=_kind: getattr(s, f"elemwise_{k}")(x, s.exp(x)))
_case("broadcast_power", lambda s, x: s.broadcast_power(s.abs(x), s.mean(x, axis=1, keepdims=True)))
_case("not_equal", lambda s, x: s.broadcast_not_equal(s.floor(x), s.ceil(s.floor(x) * 0.5)))
_case("equal", lambda s, x: s.broadcast_equal(s.floor(x), s.ceil(s.floor(x) * 0.5)))
_case("add_n", lambda s, x: s.add_n(x, x * 2, s.exp(x)))
_case("scalars", lambda s, x: 1 - (3 / ((x - 0.5) * 2 / 3 + 9)))
_case("power", lambda s, x: s.abs(x) ** 1.5 + 2 ** (x * 0.5))
_case("limits", lambda s, x: s._internal._maximum_scalar(x, scalar=-0.2) - (x > 0.3))
_case("comparisons", lambda s, x: (x >= 0.1) + 2 * (x < -0.5) + 4 * (x != 0.25) + (x <= 1))
_case("clip", lambda s, x: s.clip(x, a_min=-0.5, a_max=0.4))
_case("where", lambda s, x: s.where(x > 0, x * 2, s.zeros_like(x) - 1))
_case("ones_like", lambda s, x: s.ones_like(x) + x * 0)
_case("cast", lambda s, x: s.cast(s.cast(x * 4, dtype="int32"), dtype="float32") * 1.5)
_case("identities", lambda s, x: s.Dropout(s.BlockGrad(s.identity(x)), p=0.5) + 1)
for _kind in ("sum", "mean", "max", "min", "prod"):
    _case(f"reduce_{_kind}", lambda s, x, k=_kind: getattr(s, k)(x, axis=(1, 3)))
_case("reduce_kept", lambda s, x: s.mean(x, axis=2, keepdims=True))
_case("reduce_excluded", lambda s, x: s.sum(x, axis=(0, 1), exclude=True))
_case("norm", lambda s, x: s.norm(x, ord=2, axis=1))
for _kind in ("instance", "channel", "spatial"):
    _case(f"l2_{_kind}", lambda s, x, k=_kind: s.L2Normalization(x, mode=k))
_case("softmax", lambda s, x: s.softmax(x, axis=1, temperature=2.0))
_case("log_softmax", lambda s, x: s.log_softmax(x))
_case("softmax_channel", lambda s, x: s.SoftmaxActivation(x, mode="channel"))
_case("softmax_instance", lambda s, x: s.SoftmaxActivation(x))
_case("softmax_multi", lambda s, x: s.SoftmaxOutput(x, multi_output=True, name="softmax"))
_case("softmax_output", lambda s, x: s.SoftmaxOutput(s.flatten(x), name="softmax"))
_case("softmax_planes", lambda s, x: s.SoftmaxOutput(x, name="softmax"))
_case("softmax_preserved", lambda s, x: s.SoftmaxOutput(x, preserve_shape=True, name="softmax"))
_case("logistic", lambda s, x: s.LogisticRegressionOutput(s.flatten(x), name="out"))
_RESHAPES = {
    "copy": (0, 2, -1, 0),
    "rest": (0, 0, -2),
    "join": (0, -3, 0),
    "split": (0, -4, 2, -1, 0, 0),
    "split_last": (0, 0, 0, -4, -1, 3),
    "flat": (-1, 9),
    "batch_joined": (-3, -2),
    "whole": (-1,),
}
for _kind, _codes in _RESHAPES.items():
    _case(f"reshape_{_kind}", lambda s, x, c=_codes: s.reshape(x, shape=c))
_case("reshape_reversed", lambda s, x: s.reshape(x, shape=(-1, 0, 0), reverse=True))
_case("reshape_reversed_split", lambda s, x: s.reshape(x, shape=(0, 0, 0, -1, 3, -4), reverse=True))
_case("reshape_twice", lambda s, x: s.reshape(s.reshape(x, shape=(-1, 9)), shape=(-4, -1, 28, 0)))
_case("transpose", lambda s, x: s.transpose(x, axes=(0, 2, 3, 1)))
_case("transpose_batch", lambda s, x: s.transpose(x, axes=(3, 0, 1, 2)) * 2)
_case("transpose_whole", lambda s, x: s.transpose(x))
_case("swap", lambda s, x: s.swapaxes(x, dim1=1, dim2=3))
_case("flatten", lambda s, x: s.flatten(x))
_case("expand", lambda s, x: s.expand_dims(x, axis=-1))
_case("squeeze", lambda s, x: s.squeeze(s.mean(x, axis=(2, 3), keepdims=True), axis=3))
_case("squeeze_all", lambda s, x: s.squeeze(s.mean(x, axis=(2, 3), keepdims=True)))
_case("concat", lambda s, x: s.concat(x, x * 2, s.slice_axis(x, axis=2, begin=1, end=3), dim=2))
_case("stack", lambda s, x: s.stack(x, x + 1, axis=1))
_case("slice", lambda s, x: s.slice(x, begin=(None, 1, -5), end=(None, 3, None)))
_case(
    "slice_stepped", lambda s, x: s.slice(x, begin=(None, 3, 1), end=(None, 0, 7), step=(1, -1, 2))
)
_case(
    "slice_backwards", lambda s, x: s.slice(x, begin=(None, None), end=(None, None), step=(1, -1))
)
_case("slice_axis", lambda s, x: s.slice_axis(x, axis=-1, begin=-4, end=None))
_case(
    "slice_like", lambda s, x: s.slice_like(x, s.slice_axis(x, axis=3, begin=0, end=5), axes=(3,))
)
_case("split", lambda s, x: (lambda p: p[1] * 2 + p[0])(s.split(x, num_outputs=2, axis=1)))
_case(
    "split_squeezed",
    lambda s, x: (lambda p: p[1] - p[3])(s.split(x, num_outputs=4, axis=1, squeeze_axis=True)),
)
_case("tile", lambda s, x: s.tile(x, reps=(1, 2, 1, 3)))
_case("tile_longer", lambda s, x: s.tile(x, reps=(3, 1, 1, 1, 1)))
_case("repeat", lambda s, x: s.repeat(x, repeats=2, axis=2))
_case(
    "broadcast_to",
    lambda s, x: s.broadcast_to(s.mean(x, axis=1, keepdims=True), shape=(0, 3, 0, 0)),
)
_case(
    "broadcast_axis", lambda s, x: s.broadcast_axis(s.max(x, axis=2, keepdims=True), axis=2, size=5)
)
_case("broadcast_like", lambda s, x: s.broadcast_like(s.max(x, axis=2, keepdims=True), x))
_case("reverse", lambda s, x: s.reverse(x, axis=(1, 3)))
for _kind in ("constant", "edge", "reflect"):
    _case(
        f"pad_{_kind}",
        lambda s, x, k=_kind: s.pad(
            x, mode=k, pad_width=(0, 0, 0, 0, 1, 2, 3, 1), constant_value=0.5
        ),
    )
_case(
    "crop",
    lambda s, x: s.Crop(x, s.slice(x, begin=(None, 0, 0, 0), end=(None, 4, 5, 6)), num_args=2),
)
_case("crop_centre", lambda s, x: s.Crop(x, h_w=(4, 5), center_crop=True, num_args=1))
_case("crop_offset", lambda s, x: s.Crop(x, h_w=(4, 5), offset=(2, 3), num_args=1))
_case(
    "arange",
    lambda s, x: s.broadcast_add(x, s.reshape(s.arange(0, 18, step=2), shape=(1, 1, 1, 9))),
)
_case(
    "constants", lambda s, x: s.broadcast_mul(x, s.ones((1, 4, 1, 1)) * 3 + s.zeros((1, 4, 1, 1)))
)
_case(
    "box_decode",
    lambda s, x: s.contrib.box_decode(
        s.transpose(x, axes=(0, 2, 1)), s.var("anchors", shape=(1, 6, 4)), 0.1, 0.1, 0.2, 0.2, 2.0
    ),
    (2, 4, 6),
)
_case(
    "prior",
    lambda s, x: s.broadcast_add(
        s.contrib.MultiBoxPrior(x, sizes=(0.3, 0.5, 0.9), ratios=(1, 2, 0.5)),
        s.reshape(s.mean(x, axis=(1, 2, 3)), shape=(-1, 1, 1)),
    ),
)
_case(
    "prior_clipped",
    lambda s, x: s.broadcast_add(
        s.contrib.MultiBoxPrior(
            x, sizes=(0.7,), ratios=(2, 3), clip=True, steps=(0.2, 0.1), offsets=(0.3, 0.6)
        ),
        s.reshape(s.mean(x, axis=(1, 2, 3)), shape=(-1, 1, 1)),
    ),
)


def random_weights(mxnet: Any, symbol: Any, shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Parameters with which nothing is trivially 0 or 1."""
    chance = np.random.default_rng(seed)
    shapes, _, auxiliary = symbol.infer_shape(data=shape)
    weights = {}
    for kind, names, sizes in (
        ("arg", symbol.list_arguments(), shapes),
        ("aux", symbol.list_auxiliary_states(), auxiliary),
    ):
        for name, size in zip(names, sizes):  # noqa: B905 - also run by older Pythons
            if name == "data" or name.endswith("label"):
                continue
            values = chance.normal(0, 0.5, size)
            if name.endswith(("var", "gamma", "anchors")):
                values = np.abs(values) + 0.5
            weights[f"{kind}:{name}"] = mxnet.nd.array(values)
    return weights


def main(worker_path: str, folder: str) -> None:
    """Write every case."""
    spec = importlib.util.spec_from_file_location("worker", worker_path)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    mxnet = worker.load_mxnet()
    for number, (name, (make, shape)) in enumerate(CASES.items()):
        try:
            symbol = make(mxnet.sym, mxnet.sym.var("data"))
            weights = random_weights(mxnet, symbol, shape, number)
            data = np.random.default_rng(number).normal(0, 1, shape).astype(np.float32)
            outputs = worker.run(mxnet, symbol, weights, {"data": data})
        except Exception as error:
            raise RuntimeError(f"MXNet refuses the case {name}: {error}") from error
        symbol.save(f"{folder}/{name}-symbol.json")
        mxnet.nd.save(f"{folder}/{name}-0000.params", weights)
        if not weights:  # MXNet saves no empty dictionary that it could load
            mxnet.nd.save(f"{folder}/{name}-0000.params", {"arg:unused": mxnet.nd.zeros(1)})
        np.savez(Path(folder, f"{name}.npz"), data, *outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
