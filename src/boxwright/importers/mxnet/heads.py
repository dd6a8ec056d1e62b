"""From a network's own outputs to the contract's: what each kind of detector ends in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.card import Head, Interpolation, Nms, Resize
from boxwright.graph.heads import Priors, Raw
from boxwright.graph.heads import decode as decode_head
from boxwright.importers.mxnet.symbol import Entry, Node, Symbol
from boxwright.importers.mxnet.values import BATCH, Value, described
from boxwright.importers.mxnet.writer import Writer

_IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


@dataclass(frozen=True)
class Pixels:
    """What the source does to an image before the network: ``(pixel - mean) / std``.

    Attributes:
        mean: In the network's order of channels, 0 to 255.
        std: Likewise.
        bgr: Whether the network's first channel is blue.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    bgr: bool = False


@dataclass(frozen=True)
class Decoded:
    """A detector's outputs in the graph.

    Attributes:
        boxes: ``[N, A, 4]``, `xyxy` in input pixels.
        scores: ``[N, A, C]``.
        heads: For the card.
        extra: Further outputs by name.
    """

    boxes: Value
    scores: Value
    heads: tuple[Head, ...] = ()
    extra: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A kind of detector, recognised in a symbol.

    Attributes:
        name: For the card.
        entries: The outputs of the symbol that are decoded.
        decode: Makes the contract's outputs of those tensors, for an input of
            ``(height, width)``.
        pixels: What the source does to an image.
        nms: How the source suppresses.
        size: Input size ``(height, width)`` where the files state none.
        names: Class names, where the kind has its own.
        multiple: What the sides of the input must be multiples of.
        resize: How the source resizes.
        score_threshold: What the source's own programs show from.
        landmarks: Names of the points that it gives of each box.
    """

    name: str
    entries: tuple[Entry, ...]
    decode: Callable[[Writer, list[Value], tuple[int, int]], Decoded]
    pixels: Pixels
    nms: Nms
    size: tuple[int, int] | None = None
    names: tuple[str, ...] = ()
    multiple: int = 1
    resize: Resize = "stretch"
    interpolation: Interpolation = "opencv"
    pad_value: int = 0
    score_threshold: float = 0.5
    landmarks: tuple[str, ...] = ()


def decode_priors(
    writer: Writer,
    head: Priors,
    deltas: Value,
    scores: Value,
    corners: NDArray[Any],
    size: tuple[int, int],
) -> Decoded:
    """Boxes and scores of a head with prior boxes.

    Args:
        writer: The graph.
        head: What the tensors mean.
        deltas: ``[N, A, 4]``.
        scores: ``[N, A, C]``, with the background's column where `head` has one.
        corners: The priors, ``(A, 4)``, `xyxy` in input pixels.
        size: ``(height, width)`` of the input.
    """
    centres = np.concatenate(
        [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1
    ).astype(np.float64)
    raw = Raw((writer.read(deltas),), (writer.read(scores),))
    done = decode_head(writer.graph, head, raw, size, priors=centres)
    rows = len(corners)
    return Decoded(
        Value(done.boxes, (BATCH, rows, 4)),
        Value(done.scores, (BATCH, rows, head.classes)),
        done.heads,
    )


def _array(writer: Writer, value: Value) -> NDArray[Any]:
    if value.array is None:
        raise writer.symbol.error(
            f"{value.name!r} must be constant: anchors that are computed "
            "from the image cannot be imported"
        )
    return value.array


def multibox(symbol: Symbol) -> Family | None:
    """MXNet's own SSD: the only output is ``MultiBoxDetection``'s, which is taken apart."""
    node = symbol.nodes[symbol.heads[0].node]
    if len(symbol.heads) != 1 or not node.operator.endswith("MultiBoxDetection"):
        return None
    settings = node.settings
    if settings.whole("background_id", 0) != 0:
        raise settings.error("background_id must be 0, where MXNet itself looks for it")
    scales = list(settings.numbers("variances", (0.1, 0.1, 0.2, 0.2)))
    if len(node.inputs) != 3 or len(scales) != 4:
        raise settings.error("it must have three inputs and four variances")

    def decode(writer: Writer, values: list[Value], size: tuple[int, int]) -> Decoded:
        scores, deltas, anchors = values
        count = anchors.shape[1]
        if scores.shape[::2] != (BATCH, count) or deltas.shape != (BATCH, count * 4):
            raise settings.error(
                f"{described(scores.shape)}, {described(deltas.shape)} and "
                f"{described(anchors.shape)} are not scores, offsets and anchors of one head"
            )
        table = writer.transpose(scores, (0, 2, 1), "decode/classes")
        rows = writer.reshape(deltas, (BATCH, count, 4), "decode/offsets")
        head = Priors(
            classes=scores.shape[1] - 1,
            layout="rows",
            activation="none",
            variances=(scales[0], scales[1], scales[2], scales[3]),
        )
        extent = np.array([size[1], size[0]] * 2, np.float64)
        corners = _array(writer, anchors).reshape(-1, 4) * extent
        done = decode_priors(writer, head, rows, table, corners, size)
        if settings.truth("clip", True):
            zero = writer.floats("decode/zero", 0.0)
            boxes = writer.binary("Max", done.boxes, zero, "decode/inside")
            limit = writer.floats("decode/extent", extent)
            done = replace(done, boxes=writer.binary("Min", boxes, limit, "decode/clipped"))
        return done

    nms = Nms(
        iou_threshold=settings.number("nms_threshold", 0.5),
        class_agnostic=settings.truth("force_suppress"),
        multi_label=False,
    )
    # Of the images in MXNet's SSD example (example/ssd), the mean is taken and no more.
    pixels = Pixels(mean=(123.0, 117.0, 104.0))
    return Family("mxnet-ssd", node.inputs, decode, pixels, nms)


def gluoncv(symbol: Symbol) -> Family | None:
    """GluonCV's SSD and YOLOv3, whose outputs are columns of what ``box_nms`` keeps.

    Its rows repeat every box once a class. The boxes and the scores that they were put
    together from are taken instead.
    """
    found = {_above(symbol, entry) for entry in symbol.heads}
    node = next(iter(found))
    if len(found) != 1 or node is None:
        return None
    settings = node.settings
    table = symbol.nodes[node.inputs[0].node]
    parts = [table]
    if _is_concat(table, 1):
        parts = [symbol.nodes[entry.node] for entry in table.inputs]
    pairs = _ssd_parts(symbol, parts) or _yolo_parts(symbol, parts)
    if not pairs:
        raise settings.error(
            "the rows it suppresses are put together in a way that is neither GluonCV's SSD "
            "nor its YOLOv3; other detectors cannot be imported from MXNet"
        )
    kind = "ssd" if len(pairs) == 1 and len(parts) > 1 else "yolo3"

    def decode(writer: Writer, values: list[Value], size: tuple[int, int]) -> Decoded:
        boxes, scores, heads = [], [], []
        for i, (box, score) in enumerate(zip(values[::2], values[1::2], strict=True)):
            if box.shape[-1] != 4 or box.shape[:-1] != score.shape[:-1] or box.shape[0] != BATCH:
                raise settings.error(
                    f"{described(box.shape)}, {described(score.shape)} don't match"
                )
            rows = abs(int(np.prod(box.shape[1:-1])))
            boxes.append(writer.reshape(box, (BATCH, rows, 4), f"decode/{i}/boxes"))
            classes = score.shape[-1]
            scores.append(writer.reshape(score, (BATCH, rows, classes), f"decode/{i}/scores"))
            heads.append(Head(kind, (1, 1), (), rows, score.name))
        if len(boxes) == 1:
            return Decoded(boxes[0], scores[0], tuple(heads))
        joined = [
            writer.concat(p, 1, f"decode/{n}") for p, n in ((boxes, "boxes"), (scores, "scores"))
        ]
        return Decoded(joined[0], joined[1], tuple(heads))

    nms = Nms(
        iou_threshold=min(max(settings.number("overlap_thresh", 0.5), 0.0), 1.0),
        class_agnostic=settings.truth("force_suppress"),
    )
    entries = tuple(entry for pair in pairs for entry in pair)
    pixels = Pixels(_IMAGENET_MEAN, _IMAGENET_STD)
    return Family(f"gluoncv-{kind}", entries, decode, pixels, nms)


def _above(symbol: Symbol, entry: Entry) -> Node | None:
    """The ``box_nms`` that an output is cut from."""
    node = symbol.nodes[entry.node]
    while node.operator in ("slice_axis", "identity", "_copy", "BlockGrad", "slice", "Reshape"):
        if not node.inputs:
            return None
        node = symbol.nodes[node.inputs[0].node]
    is_nms = node.operator in ("_contrib_box_nms", "_contrib_box_non_maximum_suppression")
    return node if is_nms and node.inputs else None


def _is_concat(node: Node, *axes: int) -> bool:
    return node.operator in ("Concat", "concat") and node.settings.whole("dim", 1) in axes


def _ssd_parts(symbol: Symbol, parts: list[Node]) -> list[tuple[Entry, Entry]]:
    """A part for each class: its number, its column of the scores, all boxes."""
    boxes, scores = set(), set()
    for number, part in enumerate(parts):
        if not _is_concat(part, -1, 2) or len(part.inputs) != 3:
            return []
        column = symbol.nodes[part.inputs[1].node]
        settings = column.settings
        if column.operator != "slice_axis" or settings.whole("axis") not in (-1, 2):
            return []
        if (settings.whole("begin"), settings.whole("end", -1)) != (number, number + 1):
            return []
        boxes.add(part.inputs[2])
        scores.add(column.inputs[0])
    if len(boxes) != 1 or len(scores) != 1:
        return []
    return [(boxes.pop(), _unfiltered(symbol, scores.pop()))]


def _unfiltered(symbol: Symbol, entry: Entry) -> Entry:
    """Scores before those below a hundredth are set to 0: the card's threshold does that."""
    node = symbol.nodes[entry.node]
    if node.operator != "where" or len(node.inputs) != 3:
        return entry
    mask = symbol.nodes[node.inputs[0].node]
    filters = mask.operator == "_greater_scalar" and mask.inputs == node.inputs[1:2]
    return node.inputs[1] if filters else entry


def _yolo_parts(symbol: Symbol, parts: list[Node]) -> list[tuple[Entry, Entry]]:
    """A part for each head: ``YOLOOutputV3`` repeats the boxes and turns the scores."""
    pairs = []
    for part in parts:
        joined = _below(symbol, part, "Reshape", "transpose")
        if joined is None or not _is_concat(joined, -1, 4) or len(joined.inputs) != 3:
            return []
        turned = _below(symbol, symbol.nodes[joined.inputs[1].node], "expand_dims")
        tiled = symbol.nodes[joined.inputs[2].node]
        if turned is None or turned.operator != "transpose" or tiled.operator != "tile":
            return []
        if turned.settings.wholes("axes", ()) != (3, 0, 1, 2):
            return []
        pairs.append((tiled.inputs[0], turned.inputs[0]))
    return pairs


def _below(symbol: Symbol, node: Node, *operators: str) -> Node | None:
    """What is read at the end of a chain of such operators."""
    for operator in operators:
        if node.operator.lower() != operator.lower() or not node.inputs:
            return None
        node = symbol.nodes[node.inputs[0].node]
    return node
