"""A checkpoint's network computed by PyTorch, as a second opinion on the graph.

It shares the reader with the importer and nothing else: modules are computed one after
another by torch's functions, normalisation by itself and in double precision, and boxes
are decoded here. So a wrong fold, padding, order of channels or decoding shows; a wrong
idea of what a block is would be shared, which is why the tests have a third opinion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.extras import require
from boxwright.importers.pytorch.modules import Module
from boxwright.importers.pytorch.network import Network
from boxwright.importers.registry import Check, Verification
from boxwright.model import BOXES, SCORES, Model

Array = NDArray[Any]
Run = Callable[["Twin", Module, Any], Any]

Compute = Callable[[Array, list[str]], dict[str, Array]]

_TENSOR = 1e-4
_BOXES, _SCORES = 0.05, 1e-4


def verify(network: Network, model: Model, run: Compute) -> Verification:
    """Compare `model` with its checkpoint, computed by PyTorch, on two made-up images.

    Args:
        network: The network of the checkpoint.
        model: What was made of it.
        run: Runs the model on uint8 images; gives the tensors named.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    torch = require("torch", "torch")
    height, width = model.card.input_size
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    # One is noise, the other smooth, as photographs are.
    images[1] = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
    with torch.no_grad():
        planes = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).double() / 255
        boxes, scores, raw = Twin(torch, network).run(planes)
    tensors = [head.tensor for head in model.card.heads]
    outputs = run(images, [*tensors, BOXES, SCORES])
    reason = "relative to its largest value; float32 beside float64"
    checks = (
        *(
            Check(name, _gap(outputs[name], own) / float(np.abs(own).max() or 1), _TENSOR, reason)
            for name, own in zip(tensors, raw, strict=True)
        ),
        Check(BOXES, _gap(outputs[BOXES], boxes), _BOXES, "pixels; float32 beside float64"),
        Check(SCORES, _gap(outputs[SCORES], scores), _SCORES, "float32 beside float64"),
    )
    return Verification(f"PyTorch {torch.__version__} on the checkpoint's own modules", checks)


class Twin:
    """The network, computed.

    Args:
        torch: The package.
        network: The network.
    """

    def __init__(self, torch: Any, network: Network) -> None:
        self.torch = torch
        self.functional = torch.nn.functional
        self.network = network

    def run(self, planes: Any) -> tuple[Array, Array, list[Array]]:
        """Boxes `xyxy` in pixels, scores and raw maps of float64 images ``(N, 3, H, W)``."""
        values: list[Any] = []
        x = planes
        for i, layer in enumerate((*self.network.layers, self.network.head)):
            source = layer.get("f")
            numbers = source if isinstance(source, (list, tuple)) else [source]
            taken = [x if n == -1 else values[n if n >= 0 else i + n] for n in numbers]
            if layer is self.network.head:
                return self._head(taken)
            x = self.torch.cat(taken, 1) if layer.kind == "Concat" else self(layer, taken[0])
            values.append(x)
        raise AssertionError("unreachable")

    def __call__(self, module: Module, x: Any) -> Any:
        """What a module makes of `x`."""
        return _RUN[module.kind](self, module, x)

    def child(self, module: Module, name: str, x: Any) -> Any:
        """What a child makes of `x`."""
        return self(module.child(name), x)

    def numbers(self, module: Module, name: str) -> Any:
        """A parameter or buffer, or ``None``."""
        tensor = module.tensor(name)
        if tensor is None:
            return None
        return self.torch.from_numpy(self.network.numbers(tensor).astype(np.float64))

    def _head(self, levels: list[Any]) -> tuple[Array, Array, list[Array]]:
        level = self._anchored if self.network.family == "yolov5" else self._distances
        boxes, scores, raw = zip(*map(level, range(len(levels)), levels), strict=True)
        joined = [self.torch.cat(parts, 1).numpy() for parts in (boxes, scores)]
        return joined[0], joined[1], [x.numpy() for x in raw]

    def _cells(self, x: Any) -> Any:
        rows, columns = (self.torch.arange(n, dtype=x.dtype) for n in x.shape[-2:])
        return self.torch.stack(
            (columns.expand(len(rows), -1), rows[:, None].expand(-1, len(columns))), -1
        )

    def _anchored(self, i: int, x: Any) -> tuple[Any, Any, Any]:
        head, stride = self.network.head, self.network.strides[i]
        raw = self(head.child("m").listed()[i], x)
        anchors = self.numbers(head, "anchors")[i] * stride
        y = raw.unflatten(1, (len(anchors), -1)).permute(0, 1, 3, 4, 2).sigmoid()
        centre = (y[..., :2] * 2 - 0.5 + self._cells(raw)) * stride
        half = (y[..., 2:4] * 2) ** 2 * anchors[:, None, None] / 2
        boxes = self.torch.cat((centre - half, centre + half), -1)
        return boxes.flatten(1, 3), (y[..., 4:5] * y[..., 5:]).flatten(1, 3), raw

    def _distances(self, i: int, x: Any) -> tuple[Any, Any, Any]:
        head, stride = self.network.head, self.network.strides[i]
        sides, classes = (self(head.child(name).listed()[i], x) for name in ("cv2", "cv3"))
        bins = sides.flatten(2).unflatten(1, (4, -1))
        steps = self.torch.arange(bins.shape[2], dtype=bins.dtype)
        # One bin is the number itself.
        weights = bins.softmax(2) if bins.shape[2] > 1 else None
        far = bins[:, :, 0] if weights is None else (weights * steps[:, None]).sum(2)
        far = far.transpose(1, 2)
        points = self._cells(sides).flatten(0, 1) + 0.5
        boxes = self.torch.cat((points - far[..., :2], points + far[..., 2:]), -1) * stride
        return boxes, classes.flatten(2).transpose(1, 2).sigmoid(), sides


def _conv2d(twin: Twin, module: Module, x: Any) -> Any:
    weight, bias = twin.numbers(module, "weight"), twin.numbers(module, "bias")
    settings = [module.get(name) for name in ("stride", "padding", "dilation", "groups")]
    return twin.functional.conv2d(x, weight, bias, *settings)


def _norm(twin: Twin, module: Module, x: Any) -> Any:
    names = ("running_mean", "running_var", "weight", "bias")
    values = [twin.numbers(module, name) for name in names]
    return twin.functional.batch_norm(x, *values, False, 0.0, module.get("eps"))


def _conv(twin: Twin, module: Module, x: Any) -> Any:
    children = module.children()
    y = twin(children["conv"], x)
    return twin(children["act"], twin(children["bn"], y) if "bn" in children else y)


def _sequence(twin: Twin, module: Module, x: Any) -> Any:
    for child in module.listed():
        x = twin(child, x)
    return x


def _pool(twin: Twin, module: Module, x: Any) -> Any:
    settings = [module.get(name) for name in ("kernel_size", "stride", "padding")]
    return twin.functional.max_pool2d(x, *settings)


def _upsample(twin: Twin, module: Module, x: Any) -> Any:
    return twin.functional.interpolate(x, scale_factor=module.get("scale_factor"), mode="nearest")


def _focus(twin: Twin, module: Module, x: Any) -> Any:
    corners = [x[..., dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)]
    return twin.child(module, "conv", twin.torch.cat(corners, 1))


def _bottleneck(twin: Twin, module: Module, x: Any) -> Any:
    y = twin.child(module, "cv2", twin.child(module, "cv1", x))
    return x + y if module.get("add") else y


def _c3(twin: Twin, module: Module, x: Any) -> Any:
    deep = twin.child(module, "m", twin.child(module, "cv1", x))
    return twin.child(module, "cv3", twin.torch.cat((deep, twin.child(module, "cv2", x)), 1))


def _csp(twin: Twin, module: Module, x: Any) -> Any:
    deep = twin.child(module, "m", twin.child(module, "cv1", x))
    both = twin.torch.cat((twin.child(module, "cv3", deep), twin.child(module, "cv2", x)), 1)
    y = twin.child(module, "act", twin.child(module, "bn", both))
    return twin.child(module, "cv4", y)


def _spp(twin: Twin, module: Module, x: Any) -> Any:
    x = twin.child(module, "cv1", x)
    parts = [x, *(twin(pool, x) for pool in module.child("m").listed())]
    return twin.child(module, "cv2", twin.torch.cat(parts, 1))


def _sppf(twin: Twin, module: Module, x: Any) -> Any:
    parts = [twin.child(module, "cv1", x)]
    for _ in range(3):
        parts.append(twin.child(module, "m", parts[-1]))
    return twin.child(module, "cv2", twin.torch.cat(parts, 1))


def _ghost_conv(twin: Twin, module: Module, x: Any) -> Any:
    y = twin.child(module, "cv1", x)
    return twin.torch.cat((y, twin.child(module, "cv2", y)), 1)


def _c2f(twin: Twin, module: Module, x: Any) -> Any:
    parts = list(twin.child(module, "cv1", x).split(module.get("c"), 1))
    for block in module.child("m").listed():
        parts.append(twin(block, parts[-1]))
    return twin.child(module, "cv2", twin.torch.cat(parts, 1))


def _c2psa(twin: Twin, module: Module, x: Any) -> Any:
    flat, deep = twin.child(module, "cv1", x).split(module.get("c"), 1)
    return twin.child(module, "cv2", twin.torch.cat((flat, twin.child(module, "m", deep)), 1))


def _psa_block(twin: Twin, module: Module, x: Any) -> Any:
    y = twin.child(module, "attn", x)
    x = x + y if module.get("add") else y
    y = twin.child(module, "ffn", x)
    return x + y if module.get("add") else y


def _attention(twin: Twin, module: Module, x: Any) -> Any:
    heads, key, depth = (module.get(name) for name in ("num_heads", "key_dim", "head_dim"))
    parts = twin.child(module, "qkv", x).flatten(2).unflatten(1, (heads, -1))
    q, k, v = parts.split([key, key, depth], 2)
    # (N, heads, cells, values), as the function takes them.
    mixed = twin.functional.scaled_dot_product_attention(
        *(part.transpose(2, 3) for part in (q, k, v)), scale=module.get("scale")
    )
    y = mixed.transpose(2, 3).reshape(x.shape)
    return twin.child(module, "proj", y + twin.child(module, "pe", v.reshape(x.shape)))


def _activation(name: str, *attributes: str) -> Run:
    def run(twin: Twin, module: Module, x: Any) -> Any:
        function = getattr(twin.functional, name, None) or getattr(twin.torch, name)
        return function(x, *(module.get(attribute) for attribute in attributes))

    return run


_RUN: dict[str, Run] = {
    "Conv": _conv,
    "DWConv": _conv,
    "Conv2d": _conv2d,
    "BatchNorm2d": _norm,
    "Sequential": _sequence,
    "MaxPool2d": _pool,
    "Upsample": _upsample,
    "ZeroPad2d": lambda twin, module, x: twin.functional.pad(x, module.get("padding")),
    "Focus": _focus,
    "Bottleneck": _bottleneck,
    "CrossConv": _bottleneck,
    **dict.fromkeys(("C3", "C3x", "C3Ghost", "C3k"), _c3),
    "C3SPP": _c3,
    "BottleneckCSP": _csp,
    "SPP": _spp,
    "SPPF": _sppf,
    "GhostConv": _ghost_conv,
    "GhostBottleneck": lambda twin, module, x: (
        twin.child(module, "conv", x) + twin.child(module, "shortcut", x)
    ),
    **dict.fromkeys(("C2f", "C3k2"), _c2f),
    "C2PSA": _c2psa,
    "PSABlock": _psa_block,
    "Attention": _attention,
    "SiLU": _activation("silu"),
    "Mish": _activation("mish"),
    "Hardswish": _activation("hardswish"),
    "Hardsigmoid": _activation("hardsigmoid"),
    "LeakyReLU": _activation("leaky_relu", "negative_slope"),
    "ReLU": _activation("relu"),
    "ReLU6": _activation("relu6"),
    "ELU": _activation("elu", "alpha"),
    "Sigmoid": _activation("sigmoid"),
    "Tanh": _activation("tanh"),
    "Identity": lambda twin, module, x: x,
}


def _gap(ours: Array, theirs: Array) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    gap = float(np.abs(ours - theirs).max(initial=0))
    return gap if np.isfinite(gap) else float("inf")
