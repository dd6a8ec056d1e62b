"""What a TensorFlow network ends in: post-processing that is cut off and described instead.

TensorFlow Lite's ``TFLite_Detection_PostProcess`` decodes and suppresses in one operation
(``tensorflow/lite/kernels/detection_postprocess.cc``): boxes are ``(y, x, h, w)`` offsets
from anchors ``(y, x, h, w)``, fractions of the image, divided by a scale each. OpenCV's
``.pbtxt`` files describe Caffe's ``PriorBox`` and ``DetectionOutput`` (Liu et al. 2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.card import Nms
from boxwright.errors import ImportFailedError
from boxwright.files import open_regular
from boxwright.graph.heads import Priors
from boxwright.importers.tensorflow.lowering import Lowering, Tensor
from boxwright.importers.tensorflow.network import Network, Node, refusal, short
from boxwright.importers.tensorflow.ops_math import reshape
from boxwright.importers.tensorflow.proto import parse_text
from boxwright.importers.tensorflow.tflite import POST_PROCESS

_MAX_TEXT = 8 << 20
_MAX_NESTING = 64
_MAX_PRIORS = 1 << 20


@dataclass(frozen=True)
class Ending:
    """A head in the words of :mod:`boxwright.graph.heads`, and its suppression.

    Attributes:
        boxes: The value with the offsets.
        scores: The value with the class values.
        head: What they mean.
        nms: Suppression for the card.
        score_threshold: For the card, or ``None`` where the file sets none.
    """

    boxes: str
    scores: str
    head: Priors
    nms: Nms
    score_threshold: float | None


def find_post_process(network: Network) -> Node | None:
    """The node that decodes and suppresses, if there is one."""
    return next((node for node in network.nodes if node.kind == POST_PROCESS), None)


def post_process(network: Network, node: Node, lowering: Lowering) -> tuple[Ending, Any]:
    """What the operation's options say, and its anchors as `cxcywh`, fractions of the image."""
    if len(node.inputs) != 3:
        network.fail(node, f"expected boxes, scores and anchors, got {len(node.inputs)} inputs")
    options = node.attributes
    scales = [_positive(network, node, f"{axis}_scale") for axis in "xywh"]
    anchors = lowering.floats(node, lowering.tensor(node.inputs[2]), "anchors")
    if anchors.ndim != 2 or anchors.shape[1] != 4 or not len(anchors):
        network.fail(node, f"expected anchors (A, 4), got {list(anchors.shape)}")
    scores = lowering.tensor(node.inputs[1]).shape
    classes = int(_positive(network, node, "num_classes"))
    if len(scores) != 3 or scores[1] != len(anchors) or scores[2] - classes not in (0, 1):
        network.fail(node, f"{len(anchors)} anchors, {classes} classes, scores {list(scores)}")
    regular = bool(options.get("use_regular_nms"))
    threshold = float(options.get("nms_score_threshold", 0.0))
    ending = Ending(
        boxes=node.inputs[0],
        scores=node.inputs[1],
        head=Priors(
            classes=classes,
            activation="none",
            background="first" if scores[2] > classes else "none",
            variances=(1 / scales[0], 1 / scales[1], 1 / scales[2], 1 / scales[3]),
            order="yxhw",
        ),
        nms=Nms(
            iou_threshold=min(_positive(network, node, "nms_iou_threshold"), 1.0),
            # The fast variant keeps each candidate's best class and suppresses across classes.
            class_agnostic=not regular,
            multi_label=regular,
        ),
        score_threshold=threshold if 0 < threshold < 1 else None,
    )
    return ending, anchors.astype(np.float64)[:, [1, 0, 3, 2]]


def _positive(network: Network, node: Node, name: str) -> float:
    value = node.attributes.get(name)
    if not isinstance(value, (int, float)) or not (math.isfinite(value) and 0 < value < 1e6):
        network.fail(node, f"its option {name} must be a positive number, got {value!r}")
    return float(value)


class OpenCvText:
    """OpenCV's description of a detector, beside a frozen graph.

    Of it are read the nodes that the graph itself does not have.

    Raises:
        ImportFailedError: It is no such description.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        graph = parse_text("GraphDef", _read_text(path), path)
        self.nodes = {node.name: node for node in graph.node}
        outputs = [node for node in graph.node if node.op == "DetectionOutput"]
        if len(outputs) != 1:
            raise refusal(path, f"expected one DetectionOutput node, got {len(outputs)}")
        self.output = outputs[0]
        if len(self.output.input) != 3:
            raise refusal(path, "DetectionOutput must have boxes, scores and priors")

    def ending(self) -> Ending:
        """The head that it describes."""
        attributes = self.output.attr
        classes = int(attributes["num_classes"].i)
        background = int(attributes["background_label_id"].i)
        code = attributes["code_type"].s.decode("utf-8", "replace") or "CENTER_SIZE"
        if code != "CENTER_SIZE" or background != 0 or not 2 <= classes <= 10_000:
            raise refusal(
                self.path,
                f"DetectionOutput with {classes} classes, background {background} and code type "
                f"{short(code)!r}; CENTER_SIZE with background 0 is supported",
            )
        variances = [_numbers(node.attr["variance"]) for node in self._prior_nodes()]
        if len({tuple(v) for v in variances}) != 1 or len(variances[0]) != 4:
            raise refusal(self.path, "its PriorBox nodes must share four variances")
        x, y, w, h = variances[0]
        iou = float(attributes["nms_threshold"].f)
        threshold = float(attributes["confidence_threshold"].f)
        return Ending(
            boxes=self.output.input[0],
            scores=self.output.input[1],
            head=Priors(
                classes=classes - 1, activation="none", background="first", variances=(x, y, w, h)
            ),
            nms=Nms(iou_threshold=iou if 0 < iou <= 1 else 0.45),
            score_threshold=threshold if 0 < threshold < 1 else None,
        )

    def feature_maps(self) -> list[str]:
        """The values whose sizes the priors follow."""
        return [node.input[0] for node in self._prior_nodes()]

    def priors(self, grids: list[tuple[int, int]], size: tuple[int, int]) -> NDArray[np.float64]:
        """`cxcywh` in pixels, ``(A, 4)``, on the grids ``(rows, columns)`` of the feature maps."""
        levels = [
            _prior_boxes(self.path, node, grid, size)
            for node, grid in zip(self._prior_nodes(), grids, strict=True)
        ]
        return np.concatenate(levels)

    def _prior_nodes(self) -> list[Any]:
        joined = self.nodes.get(self.output.input[2])
        names = [] if joined is None else list(joined.input)
        nodes = [joined] if joined is not None and joined.op == "PriorBox" else []
        nodes += [
            self.nodes[n] for n in names if n in self.nodes and self.nodes[n].op == "PriorBox"
        ]
        if not nodes or any(not node.input for node in nodes):
            raise refusal(self.path, "DetectionOutput has no PriorBox nodes")
        return nodes


def _prior_boxes(
    path: Path, node: Any, grid: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.float64]:
    """One level of Caffe's ``PriorBox``: a square, the next larger one, and the ratios."""
    smallest, largest = _numbers(node.attr["min_size"]), _numbers(node.attr["max_size"])
    ratios = _numbers(node.attr["aspect_ratio"])
    steps = _numbers(node.attr["step"])
    offset = _numbers(node.attr["offset"]) or [0.5]
    known = all(math.isfinite(x) and x > 0 for x in (*smallest, *largest, *ratios, *steps))
    if len(smallest) != 1 or len(largest) > 1 or len(ratios) > 32 or not known:
        raise refusal(path, f"PriorBox {short(node.name)!r} has sizes or ratios out of range")
    if node.attr["clip"].b:
        raise refusal(path, f"PriorBox {short(node.name)!r} clips its boxes: not supported")
    side = smallest[0]
    shapes = [(side, side)]
    if largest:
        middle = math.sqrt(side * largest[0])
        shapes.append((middle, middle))
    for ratio in ratios:
        for r in (ratio, 1 / ratio) if node.attr["flip"].b else (ratio,):
            if abs(r - 1) > 1e-6:
                shapes.append((side * math.sqrt(r), side / math.sqrt(r)))
    rows, columns = grid
    if rows * columns * len(shapes) > _MAX_PRIORS:
        raise refusal(path, f"PriorBox {short(node.name)!r} has too many boxes")
    step_y = steps[0] if steps else size[0] / rows
    step_x = steps[0] if steps else size[1] / columns
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    centre = np.stack([(x + offset[0]) * step_x, (y + offset[0]) * step_y], -1).reshape(-1, 1, 2)
    extent = np.array(shapes, np.float64)[None]
    both = np.broadcast_arrays(centre, extent)
    return np.concatenate(both, axis=2).reshape(-1, 4)


def _numbers(attribute: Any) -> list[float]:
    """An attribute that OpenCV writes as a number, a list or a tensor."""
    for field, content in attribute.ListFields():
        if field.name in ("i", "f"):
            return [float(content)]
        if field.name == "list":
            return [float(x) for x in (*content.f, *content.i)]
        if field.name == "tensor":
            return [float(x) for x in (*content.float_val, *content.int_val)]
    return []


def _read_text(path: Path) -> str:
    try:
        with open_regular(path) as stream:
            data = stream.read(_MAX_TEXT + 1)
    except OSError as error:
        raise ImportFailedError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > _MAX_TEXT or b"\0" in data:
        raise refusal(path, "no text description of a graph: too large, or no text")
    depth = 0
    for byte in data:
        # The parser recurses; strings in such files hold no braces that would matter here.
        depth += (byte in b"{<") - (byte in b"}>")
        if depth > _MAX_NESTING:
            raise refusal(path, f"messages are nested more than {_MAX_NESTING} deep")
    return data.decode("utf-8", "replace")


def rows_of(lowering: Lowering, tensor: Tensor, columns: int, name: str) -> Tensor:
    """A tensor as ``(N, rows, columns)``, whatever its shape was."""
    node = Node("Reshape", name, (), ())
    return reshape(lowering, node, tensor, [tensor.shape[0], -1, columns])
