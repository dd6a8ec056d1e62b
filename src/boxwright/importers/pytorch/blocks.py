"""The blocks that YOLOv5, v8 and v11 are made of.

What each computes is public: residual bottlenecks (He et al. 2015), cross-stage partial
blocks (Wang et al. 2019), spatial pyramid pooling (He et al. 2014), ghost convolutions (Han
et al. 2020), focus (a space-to-depth of 2), and attention over positions (Wang et al. 2024,
YOLOv10, section 3.3). The checkpoint says which there are, how they are joined, and every
number; a block that has anything more is refused (:meth:`~.modules.Module.check`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from boxwright.importers.pytorch.modules import Module
from boxwright.importers.pytorch.writer import Value, Writer

Block = Callable[[Writer, Module, Value, str], Value]


def write_block(writer: Writer, module: Module, x: Value, name: str) -> Value:
    """Add one block and all it holds.

    Raises:
        ImportFailedError: It, or something in it, is not known, or does not fit.
    """
    block = (_BLOCKS if module.ours else _TORCH).get(module.kind)
    if block is None:
        raise module.error(
            "this block is not known here; export the network to ONNX with the program it was "
            "trained with and import that"
        )
    writer.enter(module)
    value = block(writer, module, x, name)
    writer.leave()
    return value


def write_concat(writer: Writer, module: Module, parts: list[Value], name: str) -> Value:
    """A Concat of several earlier layers' channels."""
    module.check("d", "")
    if module.get("d") != 1:
        raise module.error(f"it joins along dimension {module.get('d')!r} instead of channels")
    return writer.concat(module, parts, name)


def _conv(writer: Writer, module: Module, x: Value, name: str) -> Value:
    """Convolution, batch normalisation, activation."""
    module.check("", "conv bn act")
    children = module.children()
    y = writer.conv(module.child("conv"), children.get("bn"), x, f"{name}/conv")
    act = children.get("act")
    if act is None:
        raise module.error("it does not say which activation it has")
    return writer.activation(act, y, f"{name}/act")


def _sequence(writer: Writer, module: Module, x: Value, name: str) -> Value:
    for i, child in enumerate(module.listed()):
        x = write_block(writer, child, x, f"{name}/{i}")
    return x


def _child(writer: Writer, module: Module, child: str, x: Value, name: str) -> Value:
    return write_block(writer, module.child(child), x, f"{name}/{child}")


def _focus(writer: Writer, module: Module, x: Value, name: str) -> Value:
    """Four pixels of a square become channels: upper left, lower left, upper right, lower right."""
    module.check("", "conv")
    if x.height % 2 or x.width % 2:
        raise module.error(f"it needs even sides, got {x.height}x{x.width}")
    c, height, width = x.channels, x.height // 2, x.width // 2
    graph = writer.graph
    parts = graph.reshape(x.name, [0, c, height, 2, width, 2], f"{name}/squares")
    # (N, C, row, dy, column, dx) to (N, dx, dy, C, row, column).
    moved = graph.add("Transpose", [parts], f"{name}/moved", perm=[0, 5, 3, 1, 2, 4])
    joined = graph.reshape(moved, [0, 4 * c, height, width], f"{name}/deep")
    return _child(writer, module, "conv", Value(joined, 4 * c, height, width), name)


def _bottleneck(writer: Writer, module: Module, x: Value, name: str) -> Value:
    module.check("add", "cv1 cv2")
    y = _child(writer, module, "cv1", x, name)
    y = _child(writer, module, "cv2", y, name)
    return writer.add(module, x, y, f"{name}/add") if module.flag("add") else y


def _c3(writer: Writer, module: Module, x: Value, name: str) -> Value:
    module.check("", "cv1 cv2 cv3 m")
    deep = _child(writer, module, "cv1", x, name)
    deep = _child(writer, module, "m", deep, name)
    flat = _child(writer, module, "cv2", x, name)
    joined = writer.concat(module, [deep, flat], f"{name}/concat")
    return _child(writer, module, "cv3", joined, name)


def _csp(writer: Writer, module: Module, x: Value, name: str) -> Value:
    """C3's forerunner, which normalises both branches together after joining them."""
    module.check("", "cv1 cv2 cv3 cv4 bn act m")
    deep = _child(writer, module, "cv1", x, name)
    deep = _child(writer, module, "m", deep, name)
    deep = writer.conv(module.child("cv3"), None, deep, f"{name}/cv3")
    flat = writer.conv(module.child("cv2"), None, x, f"{name}/cv2")
    joined = writer.concat(module, [deep, flat], f"{name}/concat")
    norm = module.child("bn")
    scale, shift = writer.norm(norm, joined.channels)
    graph = writer.graph
    shape = (1, joined.channels, 1, 1)
    weight = graph.constant(f"{name}/bn/scale", scale.astype("float32").reshape(shape))
    bias = graph.constant(f"{name}/bn/shift", shift.astype("float32").reshape(shape))
    scaled = graph.add("Mul", [joined.name, weight], f"{name}/bn/scaled")
    normed = graph.add("Add", [scaled, bias], f"{name}/bn")
    y = Value(normed, joined.channels, joined.height, joined.width)
    y = writer.activation(module.child("act"), y, f"{name}/act")
    return _child(writer, module, "cv4", y, name)


def _spp(writer: Writer, module: Module, x: Value, name: str) -> Value:
    module.check("", "cv1 cv2 m")
    x = _child(writer, module, "cv1", x, name)
    pools = module.child("m").listed()
    parts = [x, *(writer.pool(p, x, f"{name}/m/{i}") for i, p in enumerate(pools))]
    return _child(writer, module, "cv2", writer.concat(module, parts, f"{name}/concat"), name)


def _sppf(writer: Writer, module: Module, x: Value, name: str) -> Value:
    """The same window three times over, which makes three sizes of window."""
    module.check("", "cv1 cv2 m")
    parts = [_child(writer, module, "cv1", x, name)]
    pool = module.child("m")
    for i in range(3):
        parts.append(writer.pool(pool, parts[-1], f"{name}/m/{i}"))
    return _child(writer, module, "cv2", writer.concat(module, parts, f"{name}/concat"), name)


def _ghost_conv(writer: Writer, module: Module, x: Value, name: str) -> Value:
    module.check("", "cv1 cv2")
    y = _child(writer, module, "cv1", x, name)
    cheap = _child(writer, module, "cv2", y, name)
    return writer.concat(module, [y, cheap], f"{name}/concat")


def _ghost_bottleneck(writer: Writer, module: Module, x: Value, name: str) -> Value:
    module.check("", "conv shortcut")
    y = _child(writer, module, "conv", x, name)
    return writer.add(module, y, _child(writer, module, "shortcut", x, name), f"{name}/add")


def _c2f(writer: Writer, module: Module, x: Value, name: str) -> Value:
    module.check("c", "cv1 cv2 m")
    c = module.whole("c", 1, 1 << 16)
    y = _child(writer, module, "cv1", x, name)
    parts = writer.split(module, y, [c, c], f"{name}/split")
    for i, block in enumerate(module.child("m").listed()):
        parts.append(write_block(writer, block, parts[-1], f"{name}/m/{i}"))
    return _child(writer, module, "cv2", writer.concat(module, parts, f"{name}/concat"), name)


def _c2psa(writer: Writer, module: Module, x: Value, name: str) -> Value:
    module.check("c", "cv1 cv2 m")
    c = module.whole("c", 1, 1 << 16)
    y = _child(writer, module, "cv1", x, name)
    flat, deep = writer.split(module, y, [c, c], f"{name}/split")
    deep = _child(writer, module, "m", deep, name)
    joined = writer.concat(module, [flat, deep], f"{name}/concat")
    return _child(writer, module, "cv2", joined, name)


def _psa_block(writer: Writer, module: Module, x: Value, name: str) -> Value:
    module.check("add", "attn ffn")
    residual = module.flag("add")
    y = _child(writer, module, "attn", x, name)
    x = writer.add(module, x, y, f"{name}/attn_sum") if residual else y
    y = _child(writer, module, "ffn", x, name)
    return writer.add(module, x, y, f"{name}/ffn_sum") if residual else y


def _attention(writer: Writer, module: Module, x: Value, name: str) -> Value:
    """Multi-head attention over positions, its values also through a depthwise convolution."""
    module.check("num_heads head_dim key_dim scale", "qkv proj pe")
    heads, depth, key = (
        module.whole(attribute, 1, 1 << 12) for attribute in ("num_heads", "head_dim", "key_dim")
    )
    scale = module.number("scale", 0.0, 1.0)
    if not math.isclose(scale, key**-0.5, rel_tol=1e-3):
        raise module.error(f"its scale should be {key**-0.5:.4f}, got {scale}")
    qkv = _child(writer, module, "qkv", x, name)
    cells, channels = x.height * x.width, heads * depth
    if qkv.channels != heads * (2 * key + depth) or channels != x.channels:
        raise module.error(f"its {heads} heads do not fit {qkv.channels} channels")
    writer.sized(module, Value("", heads, cells, cells))
    graph = writer.graph
    parts = graph.reshape(qkv.name, [0, heads, 2 * key + depth, cells], f"{name}/heads")
    q, k, v = graph.split(parts, [key, key, depth], 2, f"{name}/split")
    q = graph.add("Transpose", [q], f"{name}/q", perm=[0, 1, 3, 2])
    logits = graph.add("MatMul", [q, k], f"{name}/qk")
    logits = graph.add("Mul", [logits, graph.scalar(scale)], f"{name}/scaled")
    weights = graph.add("Softmax", [logits], f"{name}/softmax", axis=3)
    weights = graph.add("Transpose", [weights], f"{name}/weights", perm=[0, 1, 3, 2])
    mixed = graph.add("MatMul", [v, weights], f"{name}/mixed")
    maps = [
        Value(
            graph.reshape(part, [0, channels, x.height, x.width], f"{name}/{label}"),
            *(channels, x.height, x.width),
        )
        for part, label in ((mixed, "map"), (v, "values"))
    ]
    position = _child(writer, module, "pe", maps[1], name)
    return _child(
        writer, module, "proj", writer.add(module, maps[0], position, f"{name}/add"), name
    )


_BLOCKS: dict[str, Block] = {
    "Conv": _conv,
    "DWConv": _conv,
    "Focus": _focus,
    "Bottleneck": _bottleneck,
    "CrossConv": _bottleneck,
    "BottleneckCSP": _csp,
    "C3": _c3,
    "C3x": _c3,
    "C3SPP": _c3,
    "C3Ghost": _c3,
    "C3k": _c3,
    "SPP": _spp,
    "SPPF": _sppf,
    "GhostConv": _ghost_conv,
    "GhostBottleneck": _ghost_bottleneck,
    "C2f": _c2f,
    "C3k2": _c2f,
    "C2PSA": _c2psa,
    "PSABlock": _psa_block,
    "Attention": _attention,
}

_TORCH: dict[str, Block] = {
    "Sequential": _sequence,
    "Conv2d": lambda writer, module, x, name: writer.conv(module, None, x, name),
    "MaxPool2d": Writer.pool,
    "Upsample": Writer.upsample,
    "ZeroPad2d": Writer.pad,
    **dict.fromkeys(
        ("SiLU", "ReLU", "LeakyReLU", "Hardswish", "Mish", "Sigmoid", "Identity"),
        Writer.activation,
    ),
}
