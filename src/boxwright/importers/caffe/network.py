"""The layers of a prototxt that run when a network detects, in their order.

Which layers those are is Caffe's ``Net::FilterNet`` and ``StateMeetsRule``: phase TEST,
level 0, and the stages that the file's own ``state`` names. Files of 2013 (``layers`` with
``type: CONVOLUTION``) and of today (``layer`` with ``type: "Convolution"``) become the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from boxwright.importers.caffe.text import Message

_MAX_LAYERS = 20_000
_MAX_AXES = 32
_MAX_EXTENT = 1 << 20

_PHASES = {"TRAIN": 0, "TEST": 1}

# V1LayerParameter.LayerType (number) and the name that type has today.
_OLD_TYPES = {
    "NONE": (0, ""),
    "ACCURACY": (1, "Accuracy"),
    "BNLL": (2, "BNLL"),
    "CONCAT": (3, "Concat"),
    "CONVOLUTION": (4, "Convolution"),
    "DATA": (5, "Data"),
    "DROPOUT": (6, "Dropout"),
    "EUCLIDEAN_LOSS": (7, "EuclideanLoss"),
    "FLATTEN": (8, "Flatten"),
    "HDF5_DATA": (9, "HDF5Data"),
    "HDF5_OUTPUT": (10, "HDF5Output"),
    "IM2COL": (11, "Im2col"),
    "IMAGE_DATA": (12, "ImageData"),
    "INFOGAIN_LOSS": (13, "InfogainLoss"),
    "INNER_PRODUCT": (14, "InnerProduct"),
    "LRN": (15, "LRN"),
    "MULTINOMIAL_LOGISTIC_LOSS": (16, "MultinomialLogisticLoss"),
    "POOLING": (17, "Pooling"),
    "RELU": (18, "ReLU"),
    "SIGMOID": (19, "Sigmoid"),
    "SOFTMAX": (20, "Softmax"),
    "SOFTMAX_LOSS": (21, "SoftmaxWithLoss"),
    "SPLIT": (22, "Split"),
    "TANH": (23, "TanH"),
    "WINDOW_DATA": (24, "WindowData"),
    "ELTWISE": (25, "Eltwise"),
    "POWER": (26, "Power"),
    "SIGMOID_CROSS_ENTROPY_LOSS": (27, "SigmoidCrossEntropyLoss"),
    "HINGE_LOSS": (28, "HingeLoss"),
    "MEMORY_DATA": (29, "MemoryData"),
    "ARGMAX": (30, "ArgMax"),
    "THRESHOLD": (31, "Threshold"),
    "DUMMY_DATA": (32, "DummyData"),
    "SLICE": (33, "Slice"),
    "MVN": (34, "MVN"),
    "ABSVAL": (35, "AbsVal"),
    "SILENCE": (36, "Silence"),
    "CONTRASTIVE_LOSS": (37, "ContrastiveLoss"),
    "EXP": (38, "Exp"),
    "DECONVOLUTION": (39, "Deconvolution"),
}

DATA_TYPES = frozenset(
    (
        *("Data", "AnnotatedData", "ImageData", "HDF5Data", "WindowData", "MemoryData"),
        *("DummyData", "DetectionData", "VideoData"),
    )
)
# They measure or report; nothing that detects depends on them.
_MEASURING = frozenset(
    ["Accuracy", "DetectionEvaluate", "Silence", "HDF5Output", "MultiBoxLoss", "YoloSegLoss"]
)


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        index: Its number among the layers that run.
        name: Its name, by which it finds its blobs.
        kind: Its type.
        bottoms: Names of what it takes.
        tops: Names of what it gives.
        message: All that the prototxt says of it.
    """

    index: int
    name: str
    kind: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    message: Message

    def param(self, name: str, *known: str) -> Message:
        """Its parameters, with no other field than those `known`."""
        found = self.message.message(name)
        found.where = self.message.where
        found.only(*known)
        return found

    def fail(self, reason: str) -> NoReturn:
        """Refuse the layer as wrong."""
        self.message.fail(reason)

    def unsupported(self, reason: str) -> NoReturn:
        """Refuse the layer as one that cannot be converted faithfully."""
        self.message.unsupported(reason)


@dataclass(frozen=True)
class Input:
    """The image that the network takes.

    Attributes:
        name: The blob's name.
        shape: ``(N, C, H, W)``; the batch is what the file says.
        transform: Its ``transform_param``, where it has one.
    """

    name: str
    shape: tuple[int, int, int, int]
    transform: Message | None


@dataclass(frozen=True)
class Network:
    """A network as it detects.

    Attributes:
        name: Its name.
        image: Its input.
        layers: Its layers, each after those it needs.
        transforms: ``transform_param`` of data layers of either phase.
    """

    name: str
    image: Input
    layers: tuple[Layer, ...]
    transforms: tuple[Message, ...]


def read_network(root: Message) -> Network:
    """The network of a parsed prototxt.

    Raises:
        CfgError: It is no deployable network: no input, or layers that contradict it.
    """
    new, old = root.messages("layer"), root.messages("layers")
    if new and old:
        root.fail("it has both layer { } and layers { }; Caffe takes one kind", "layers")
    if len(new) + len(old) > _MAX_LAYERS:
        root.fail(f"it has {len(new) + len(old)} layers, more than {_MAX_LAYERS}")
    layers: list[Layer] = []
    inputs = _legacy_inputs(root)
    transforms = []
    state = root.message("state")
    for message in new or old:
        layer = _read_layer(message, len(layers), old=bool(old))
        if layer.kind in DATA_TYPES and message.has("transform_param"):
            transforms.append(message.message("transform_param"))
        if not _runs(message, state):
            continue
        if layer.kind == "Input":
            inputs += _input_layer(layer)
        elif layer.kind in DATA_TYPES:
            layer.unsupported(
                "it reads training data; give the deploy prototxt, whose input is an Input "
                'layer or input: "data"'
            )
        elif layer.kind not in _MEASURING and not layer.kind.endswith("Loss"):
            layers.append(layer)
    image = _the_image(root, inputs, layers)
    return Network(root.text("name"), image, tuple(layers), tuple(transforms))


def _read_layer(message: Message, index: int, old: bool) -> Layer:
    name = message.text("name")
    message.where = name[:80]
    if old:
        kind = _OLD_TYPES[
            message.choice("type", "NONE", {key: n for key, (n, _) in _OLD_TYPES.items()})
        ][1]
    else:
        kind = message.text("type")
    if not kind:
        message.fail("the layer has no type")
    message.where = f"{name[:80]} ({kind[:40]})"
    bottoms, tops = message.texts("bottom"), message.texts("top")
    # "SoftmaxWithLoss" has an end of its own.
    kind = "SoftmaxLoss" if kind == "SoftmaxWithLoss" else kind
    return Layer(index, name, kind, tuple(bottoms), tuple(tops), message)


def _runs(message: Message, state: Message) -> bool:
    """``Net::FilterNet``: any include rule that is met, or no exclude rule that is."""
    include, exclude = message.messages("include"), message.messages("exclude")
    if include and exclude:
        message.fail("it has include and exclude rules; Caffe takes one kind", "exclude")
    if include:
        return any(_meets(rule, state) for rule in include)
    return not any(_meets(rule, state) for rule in exclude)


def _meets(rule: Message, state: Message) -> bool:
    """``Net::StateMeetsRule``."""
    rule.only("phase", "min_level", "max_level", "stage", "not_stage")
    level = state.integer("level", 0, -1 << 30)
    stages = set(state.texts("stage"))
    return (
        rule.choice("phase", "TEST", _PHASES) == "TEST"
        and rule.integer("min_level", level, -1 << 30) <= level
        and rule.integer("max_level", level, -1 << 30) >= level
        and stages.issuperset(rule.texts("stage"))
        and not stages.intersection(rule.texts("not_stage"))
    )


def _legacy_inputs(root: Message) -> list[Input]:
    """``input: "data"`` with ``input_dim`` (four each) or ``input_shape``."""
    names = root.texts("input")
    shapes = [shape.integers("dim", 1, _MAX_EXTENT) for shape in root.messages("input_shape")]
    dims = root.integers("input_dim", 1, _MAX_EXTENT)
    if dims and shapes:
        root.fail("it has input_dim and input_shape; Caffe takes one of them", "input_dim")
    if len(dims) % 4:
        root.fail(f"input_dim comes four times for each input, got {len(dims)}", "input_dim")
    shapes = shapes or [dims[at : at + 4] for at in range(0, len(dims), 4)]
    if len(shapes) != len(names):
        root.fail(f"it has {len(names)} inputs and {len(shapes)} shapes for them", "input")
    return [_input(root, name, shape, None) for name, shape in zip(names, shapes, strict=True)]


def _input_layer(layer: Layer) -> list[Input]:
    param = layer.param("input_param", "shape")
    shapes = [shape.integers("dim", 1, _MAX_EXTENT) for shape in param.messages("shape")]
    if len(shapes) == 1:
        shapes *= len(layer.tops)
    if len(shapes) != len(layer.tops):
        layer.fail(f"it gives {len(layer.tops)} blobs and {len(shapes)} shapes for them")
    message = layer.message
    transform = message.message("transform_param") if message.has("transform_param") else None
    return [
        _input(message, top, shape, transform)
        for top, shape in zip(layer.tops, shapes, strict=True)
    ]


def _input(message: Message, name: str, shape: list[int], transform: Message | None) -> Input:
    # im_info of Faster R-CNN has two axes: not an image, refused later by its use.
    padded = ([*shape] + [0] * 4)[:4]
    if len(shape) > _MAX_AXES:
        message.fail(f"input {name[:60]!r} has {len(shape)} axes")
    if len(shape) != 4:
        padded[1] = 0
    return Input(name, (padded[0], padded[1], padded[2], padded[3]), transform)


def _the_image(root: Message, inputs: list[Input], layers: list[Layer]) -> Input:
    used = {name for layer in layers for name in layer.bottoms}
    inputs = [item for item in inputs if item.name in used]
    if not inputs:
        root.fail(
            "it declares no input that a layer uses; give the deploy prototxt, whose input is "
            'an Input layer or input: "data"'
        )
    if len(inputs) > 1:
        names = ", ".join(item.name[:40] for item in inputs[:8])
        root.unsupported(f"it takes {len(inputs)} inputs ({names}); a detector takes one image")
    image = inputs[0]
    if image.shape[1] not in (1, 3):
        root.unsupported(
            f"its input {image.name[:60]!r} must be (N, 1 or 3, height, width), got {image.shape}"
        )
    return image
