"""One reader for each kind of section: its options, defaults, geometry, and what it refuses.

Defaults and geometry follow ``src/parser.c`` and the ``make_*_layer`` functions of
AlexeyAB's Darknet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from boxwright.darknet import heads
from boxwright.darknet.activations import ACTIVATIONS
from boxwright.darknet.cfg import Section
from boxwright.darknet.layers import (
    MAX_CHANNELS,
    MAX_SIDE,
    Activation,
    BatchNorm,
    Blur,
    Connected,
    Convolutional,
    Crop,
    GlobalAverage,
    Identity,
    Inert,
    Layer,
    Local,
    MaxPoolDepth,
    Pool,
    Reorg,
    Route,
    Scale,
    Shape,
    Shortcut,
    Upsample,
)

if TYPE_CHECKING:
    from boxwright.darknet.network import NetworkBuilder


def _activation(section: Section, default: str) -> str:
    name = section.text("activation", default).lower()
    if name not in ACTIVATIONS:
        section.unsupported(
            f"unknown activation {name[:40]!r}; known: {', '.join(sorted(ACTIVATIONS))}",
            "activation",
        )
    return name


def _strides(section: Section) -> tuple[int, int]:
    stride = section.integer("stride", 1, 1, MAX_SIDE)
    return (
        section.integer("stride_x", stride, 1, MAX_SIDE),
        section.integer("stride_y", stride, 1, MAX_SIDE),
    )


def _blur(section: Section, stride_x: int, stride_y: int) -> Blur | None:
    kind = section.integer("antialiasing", 0)
    if kind == 0:
        return None
    return Blur(2, stride_x, stride_y, 0) if kind == 2 else Blur(3, stride_x, stride_y, 1)


def _blurred(shape: Shape, blur: Blur | None) -> Shape:
    if blur is None:
        return shape
    return Shape(
        shape.channels,
        (shape.height + 2 * blur.padding - blur.size) // blur.stride_y + 1,
        (shape.width + 2 * blur.padding - blur.size) // blur.stride_x + 1,
    )


def _convolutional(builder: NetworkBuilder, section: Section) -> Layer:
    for key in ("xnor", "binary", "bin_output"):
        if section.flag(key):
            section.unsupported(
                f"{key}=1: a binarised convolution has no faithful standard form", key
            )
    if section.flag("coordconv"):
        section.unsupported(
            "coordconv=1: Darknet's CPU and GPU compute it differently", "coordconv"
        )
    common = builder.common(section)
    filters = section.integer("filters", 1, 1, MAX_CHANNELS)
    size = section.integer("size", 1, 1, MAX_SIDE)
    stride_x, stride_y = _strides(section)
    blur = _blur(section, stride_x, stride_y)
    if blur is not None:
        stride_x = stride_y = 1
    dilation = section.integer("dilation", 1, 1, MAX_SIDE) if size > 1 else 1
    padding = size // 2 if section.flag("pad") else section.integer("padding", 0, 0, MAX_SIDE)
    if dilation > 1 and 2 * padding != size - 1:
        section.unsupported("dilation is only defined with padding of half the kernel", "dilation")
    groups = section.integer("groups", 1, 1, MAX_CHANNELS)
    source: Shape = common["input_shape"]
    if source.channels % groups or filters % groups:
        section.fail(
            f"groups={groups} must divide its {source.channels} input channels "
            f"and its {filters} filters",
            "groups",
        )
    reach = dilation * (size - 1) + 1
    shape = Shape(
        filters,
        (source.height + 2 * padding * dilation - reach) // stride_y + 1,
        (source.width + 2 * padding * dilation - reach) // stride_x + 1,
    )
    layer = Convolutional(
        **common,
        shape=_blurred(shape, blur),
        size=size,
        stride_x=stride_x,
        stride_y=stride_y,
        dilation=dilation,
        padding=padding,
        groups=groups,
        batch_normalize=section.flag("batch_normalize"),
        activation=_activation(section, "logistic"),
        share=_share(builder, section),
        flipped=section.flag("flipped"),
        blur=blur,
    )
    if layer.share is not None:
        _check_share(section, layer, builder.layers[layer.share])
    return layer


def _share(builder: NetworkBuilder, section: Section) -> int | None:
    if not section.has("share_index"):
        return None
    (index,) = builder.resolve(section, "share_index")
    # A layer that shares with a sharing layer uses the weights of the first one.
    layer = builder.layers[index]
    return layer.share if isinstance(layer, Convolutional) and layer.share is not None else index


def _check_share(section: Section, layer: Convolutional, other: Layer) -> None:
    if (
        not isinstance(other, Convolutional)
        or other.kernel_shape != layer.kernel_shape
        or other.batch_normalize != layer.batch_normalize
    ):
        section.fail(
            f"share_index= names layer {other.index}, whose weights do not fit this layer",
            "share_index",
        )


def _connected(builder: NetworkBuilder, section: Section) -> Layer:
    outputs = section.integer("output", 1, 1, MAX_CHANNELS)
    return Connected(
        **builder.common(section),
        shape=Shape(outputs, 1, 1),
        batch_normalize=section.flag("batch_normalize"),
        activation=_activation(section, "logistic"),
    )


def _local(builder: NetworkBuilder, section: Section) -> Layer:
    common = builder.common(section)
    size = section.integer("size", 1, 1, MAX_SIDE)
    stride = section.integer("stride", 1, 1, MAX_SIDE)
    padding = section.integer("pad", 0, 0, 1)
    source: Shape = common["input_shape"]
    # local_out_height in src/local_layer.c: its padding is 1 whatever the size.
    reach = 1 if padding else size
    height, width = (
        (extent - reach) // stride + 1 if extent >= reach else 0
        for extent in (source.height, source.width)
    )
    if padding and size != 3:
        section.unsupported(f"pad=1 is only defined with size=3, got size={size}", "pad")
    return Local(
        **common,
        shape=Shape(section.integer("filters", 1, 1, MAX_CHANNELS), height, width),
        size=size,
        stride=stride,
        padding=padding,
        activation=_activation(section, "logistic"),
    )


def _batchnorm(builder: NetworkBuilder, section: Section) -> Layer:
    common = builder.common(section)
    return BatchNorm(**common, shape=common["input_shape"])


def _maxpool(builder: NetworkBuilder, section: Section) -> Layer:
    if section.flag("maxpool_depth"):
        common = builder.common(section)
        source: Shape = common["input_shape"]
        channels = section.integer("out_channels", 1, 1, MAX_CHANNELS)
        if channels > source.channels:
            section.fail(f"out_channels={channels} exceeds its {source.channels} inputs")
        return MaxPoolDepth(**common, shape=source._replace(channels=channels))
    return _pool(builder, section, "max")


def _local_avgpool(builder: NetworkBuilder, section: Section) -> Layer:
    return _pool(builder, section, "average")


def _pool(builder: NetworkBuilder, section: Section, kind: str) -> Layer:
    common = builder.common(section)
    stride = section.integer("stride", 1, 1, MAX_SIDE)
    stride_x, stride_y = _strides(section)
    size = section.integer("size", stride, 1, MAX_SIDE)
    padding = section.integer("padding", size - 1, 0, MAX_SIDE)
    # With more, a window could lie wholly outside the image.
    if padding > 2 * (size - 1):
        section.fail(f"padding={padding} must be below twice the window of {size}", "padding")
    blur = _blur(section, stride_x, stride_y)
    if blur is not None:
        stride_x = stride_y = 1
    source: Shape = common["input_shape"]
    shape = Shape(
        source.channels,
        (source.height + padding - size) // stride_y + 1,
        (source.width + padding - size) // stride_x + 1,
    )
    return Pool(
        **common,
        shape=_blurred(shape, blur),
        kind="max" if kind == "max" else "average",
        size=size,
        stride_x=stride_x,
        stride_y=stride_y,
        padding=padding,
        blur=blur,
    )


def _avgpool(builder: NetworkBuilder, section: Section) -> Layer:
    common = builder.common(section)
    return GlobalAverage(**common, shape=Shape(common["input_shape"].channels, 1, 1))


def _route(builder: NetworkBuilder, section: Section) -> Layer:
    inputs = builder.resolve(section, "layers")
    groups = section.integer("groups", 1, 1, MAX_CHANNELS)
    group_id = section.integer("group_id", 0, 0, MAX_CHANNELS)
    if group_id >= groups:
        section.fail(f"group_id={group_id} must be below groups={groups}", "group_id")
    shapes = [builder.output_of(index, section) for index in inputs]
    channels = 0
    for index, shape in zip(inputs, shapes, strict=True):
        if (shape.height, shape.width) != (shapes[0].height, shapes[0].width):
            section.fail(
                f"layer {index} is {shape}, layer {inputs[0]} is {shapes[0]}: "
                "their heights and widths must agree",
                "layers",
            )
        if shape.channels % groups:
            section.fail(f"groups={groups} must divide layer {index}'s {shape.channels} channels")
        channels += shape.channels // groups
    return Route(
        **builder.common(section, inputs),
        shape=shapes[0]._replace(channels=channels),
        groups=groups,
        group_id=group_id,
    )


def _shortcut(builder: NetworkBuilder, section: Section) -> Layer:
    sources = builder.resolve(section, "from")
    inputs = (builder.index - 1, *sources)
    common = builder.common(section, inputs)
    shape: Shape = common["input_shape"]
    for index in sources:
        other = builder.output_of(index, section)
        if (other.height, other.width) != (shape.height, shape.width):
            section.fail(
                f"layer {index} is {other}, its own input is {shape}: "
                "their heights and widths must agree",
                "from",
            )
    kinds = {"none": 0, "per_feature": 1, "per_layer": 1, "per_channel": shape.channels}
    kind = section.text("weights_type", "none")
    if kind not in kinds:
        section.fail(f"weights_type must be one of {sorted(kinds)}, got {kind[:40]!r}")
    names = {"none": "none", "relu": "relu", "avg_relu": "relu", "softmax": "softmax"}
    normalization = section.text("weights_normalization", "none")
    if normalization not in names:
        section.fail(
            f"weights_normalization must be one of {sorted(names)}, got {normalization[:40]!r}"
        )
    return Shortcut(
        **common,
        shape=shape,
        weights_per_layer=kinds[kind],
        normalization=names[normalization],  # type: ignore[arg-type]
        channels=tuple(builder.output_of(index, section).channels for index in sources),
        activation=_activation(section, "linear"),
    )


def _upsample(builder: NetworkBuilder, section: Section) -> Layer:
    common = builder.common(section)
    stride = section.integer("stride", 2, -MAX_SIDE, MAX_SIDE)
    if stride == 0:
        section.fail("stride must not be 0", "stride")
    source: Shape = common["input_shape"]
    if stride > 0:
        shape = Shape(source.channels, source.height * stride, source.width * stride)
    else:
        if source.height % -stride or source.width % -stride:
            section.unsupported(f"stride={stride} must divide its input of {source}", "stride")
        shape = Shape(source.channels, source.height // -stride, source.width // -stride)
    return Upsample(
        **common,
        shape=shape,
        stride=abs(stride),
        reverse=stride < 0,
        scale=section.number("scale", 1.0),
    )


def _reorg(builder: NetworkBuilder, section: Section) -> Layer:
    common = builder.common(section)
    stride = section.integer("stride", 1, 1, MAX_SIDE)
    reverse = section.flag("reverse")
    source: Shape = common["input_shape"]
    block = stride * stride
    # [reorg] reads its input as if it were the enlarged image (see onnx.py).
    divides = source.channels % block == 0 or (section.name == "reorg3d" and not reverse)
    if not reverse:
        divides = divides and source.height % stride == 0 and source.width % stride == 0
    if not divides:
        section.fail(f"stride={stride} does not divide its input of {source}", "stride")
    shape = (
        Shape(source.channels // block, source.height * stride, source.width * stride)
        if reverse
        else Shape(source.channels * block, source.height // stride, source.width // stride)
    )
    return Reorg(
        **common, shape=shape, stride=stride, reverse=reverse, three_d=section.name == "reorg3d"
    )


def _scale(builder: NetworkBuilder, section: Section) -> Layer:
    sources = builder.resolve(section, "from")
    if len(sources) != 1:
        section.fail(f"from= must name one layer, got {len(sources)}", "from")
    common = builder.common(section, (builder.index - 1, *sources))
    shape = builder.output_of(sources[0], section)
    own: Shape = common["input_shape"]
    if section.name == "sam":
        expected = shape
    elif section.flag("scale_wh"):
        expected = shape._replace(channels=1)
    else:
        expected = Shape(shape.channels, 1, 1)
    if own != expected:
        section.fail(f"its input is {own}; to scale layer {sources[0]} it must be {expected}")
    return Scale(**common, shape=shape, activation=_activation(section, "linear"))


def _crop(builder: NetworkBuilder, section: Section) -> Layer:
    common = builder.common(section)
    source: Shape = common["input_shape"]
    shape = Shape(
        source.channels,
        section.integer("crop_height", 1, 1, MAX_SIDE),
        section.integer("crop_width", 1, 1, MAX_SIDE),
    )
    if shape.height > source.height or shape.width > source.width:
        section.fail(f"cannot crop {shape} out of {source}")
    return Crop(**common, shape=shape, noadjust=section.flag("noadjust"))


def _activation_layer(builder: NetworkBuilder, section: Section) -> Layer:
    common = builder.common(section)
    return Activation(
        **common, shape=common["input_shape"], activation=_activation(section, "linear")
    )


def _identity(builder: NetworkBuilder, section: Section) -> Layer:
    common = builder.common(section)
    return Identity(**common, shape=common["input_shape"])


def _inert(builder: NetworkBuilder, section: Section) -> Layer:
    # It may follow a head, whose output it uses in training only.
    shape = builder.previous
    return Inert(builder.index, section, (builder.index - 1,), shape, shape)


def _head(builder: NetworkBuilder, section: Section) -> Layer:
    return heads.read_head(section, builder.common(section), builder.shape)


READERS: dict[str, Callable[[NetworkBuilder, Section], Layer]] = {
    "convolutional": _convolutional,
    "conv": _convolutional,
    "connected": _connected,
    "conn": _connected,
    "local": _local,
    "batchnorm": _batchnorm,
    "maxpool": _maxpool,
    "max": _maxpool,
    "local_avgpool": _local_avgpool,
    "local_avg": _local_avgpool,
    "avgpool": _avgpool,
    "avg": _avgpool,
    "route": _route,
    "shortcut": _shortcut,
    "upsample": _upsample,
    "reorg": _reorg,
    "reorg3d": _reorg,
    "scale_channels": _scale,
    "sam": _scale,
    "crop": _crop,
    "activation": _activation_layer,
    "dropout": _identity,
    "empty": _identity,
    "silence": _identity,
    "contrastive": _inert,
    "yolo": _head,
    "gaussian_yolo": _head,
    "region": _head,
    "detection": _head,
}

_RECURRENT = "a recurrent layer carries state from frame to frame, which an image model cannot"
_CLASSIFIER = "a classifier's layer; only detectors are imported"
REFUSED: dict[str, str] = {
    "crnn": _RECURRENT,
    "rnn": _RECURRENT,
    "gru": _RECURRENT,
    "lstm": _RECURRENT,
    "conv_lstm": _RECURRENT,
    "history": _RECURRENT,
    "softmax": _CLASSIFIER,
    "soft": _CLASSIFIER,
    "cost": _CLASSIFIER,
    "normalization": "local response normalisation is not supported",
    "lrn": "local response normalisation is not supported",
    "deconvolutional": "removed from Darknet; its weights order is not defined",
    "deconv": "removed from Darknet; its weights order is not defined",
    "implicit": "implicit knowledge (YOLOR) is not supported",
}
