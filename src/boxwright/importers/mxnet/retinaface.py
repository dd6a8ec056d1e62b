"""RetinaFace: faces, each with five points, at three strides.

Which outputs there are, the anchors and the decoding are those of insightface's
``RetinaFace`` (``detection/retinaface``, MIT): square anchors of two sizes at each cell,
sizes as pixels from the first to the last inclusive (hence the ones), offsets without
variances.
"""

from __future__ import annotations

import re

import numpy as np

from boxwright.card import Head, Nms
from boxwright.importers.mxnet.heads import Decoded, Family, Pixels
from boxwright.importers.mxnet.symbol import Entry, Symbol
from boxwright.importers.mxnet.values import BATCH, Value, described
from boxwright.importers.mxnet.writer import Writer

LANDMARKS = "landmarks"
# Sides of the anchors at a cell of each stride, largest first as the network orders them.
_SIDES = {32: (512, 256), 16: (128, 64), 8: (32, 16)}
_BASE = 16
_OUTPUT = re.compile(r"(?P<kind>cls_prob_reshape|bbox_pred|landmark_pred)_stride(?P<stride>\d+)$")


def retinaface(symbol: Symbol) -> Family | None:
    """Recognised by the names of its outputs."""
    found: dict[tuple[int, str], Entry] = {}
    for entry in symbol.heads:
        match = _OUTPUT.search(symbol.nodes[entry.node].name)
        if match is None:
            return None
        found[int(match["stride"]), match["kind"]] = entry
    strides = sorted({stride for stride, _ in found}, reverse=True)
    if not set(strides) <= set(_SIDES):
        raise symbol.error(
            f"a RetinaFace of strides {strides}: only those of 32, 16 and 8 have known anchors"
        )
    kinds = ["cls_prob_reshape", "bbox_pred"]
    if all((stride, "landmark_pred") in found for stride in strides):
        kinds.append("landmark_pred")
    missing = [(s, k) for s in strides for k in kinds if (s, k) not in found]
    if missing:
        stride, kind = missing[0]
        raise symbol.error(f"a RetinaFace without its output {kind}_stride{stride}")

    def decode(writer: Writer, values: list[Value], size: tuple[int, int]) -> Decoded:
        return _decode(writer, strides, values, len(kinds))

    return Family(
        "retinaface",
        tuple(found[stride, kind] for stride in strides for kind in kinds),
        decode,
        Pixels(),
        Nms(iou_threshold=0.4, multi_label=False),
        size=(640, 640),
        names=("face",),
        multiple=32,
        resize="letterbox",
    )


def _decode(writer: Writer, strides: list[int], values: list[Value], kinds: int) -> Decoded:
    parts: dict[str, list[Value]] = {"boxes": [], "scores": [], LANDMARKS: []}
    heads = []
    for i, stride in enumerate(strides):
        scores, boxes, *points = values[i * kinds : (i + 1) * kinds]
        name, sides = f"decode/stride{stride}", _SIDES[stride]
        rows, columns = boxes.shape[2:]
        count, cells = len(sides), rows * columns
        if boxes.shape[1] != 4 * count or scores.shape[1] != 2 * count:
            raise writer.symbol.error(
                f"at stride {stride}, scores {described(scores.shape)} and boxes "
                f"{described(boxes.shape)} are not those of {count} anchors a cell"
            )
        total = cells * count
        # Of each anchor's two probabilities, all of the background's come first.
        face = writer.slice(scores, 1, count, 2 * count, f"{name}/face")
        face = writer.transpose(face, (0, 2, 3, 1), f"{name}/face_rows")
        parts["scores"].append(writer.reshape(face, (BATCH, total, 1), f"{name}/scores"))
        centre, side = _anchors(stride, sides, rows, columns)
        deltas = _rows(writer, boxes, total, 4, f"{name}/deltas")
        parts["boxes"].append(_boxes(writer, deltas, centre, side, f"{name}/boxes"))
        if points:
            offsets = _rows(writer, points[0], total, 10, f"{name}/points")
            moved = writer.binary("Mul", offsets, writer.floats(f"{name}/side", side), f"{name}/by")
            at = writer.floats(f"{name}/at", np.tile(centre, 5))
            parts[LANDMARKS].append(writer.binary("Add", moved, at, f"{name}/landmarks"))
        squares = tuple((float(s), float(s)) for s in sides)
        heads.append(Head("retinaface", (rows, columns), squares, total, boxes.name))
    joined = {
        key: writer.concat(values, 1, f"decode/{key}") for key, values in parts.items() if values
    }
    extra = {LANDMARKS: joined[LANDMARKS]} if LANDMARKS in joined else {}
    return Decoded(joined["boxes"], joined["scores"], tuple(heads), extra)


def _rows(writer: Writer, x: Value, total: int, columns: int, name: str) -> Value:
    """``[N, anchors * columns, H, W]`` as ``[N, H * W * anchors, columns]``."""
    last = writer.transpose(x, (0, 2, 3, 1), f"{name}/last")
    return writer.reshape(last, (BATCH, total, columns), name)


def _anchors(
    stride: int, sides: tuple[int, ...], rows: int, columns: int
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], ...]:
    """Centres ``[1, A, 2]`` and sides ``[1, A, 1]``, cell by cell."""
    # The base anchor covers the pixels 0 to 15: its centre is at 7.5, whatever the stride.
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    centre = np.stack([x, y], -1).reshape(-1, 1, 2) * stride + (_BASE - 1) / 2
    centre = np.repeat(centre, len(sides), axis=1).reshape(1, -1, 2)
    side = np.tile(np.array(sides, np.float32), rows * columns).reshape(1, -1, 1)
    return centre.astype(np.float32), side


def _boxes(writer: Writer, deltas: Value, centre: object, side: object, name: str) -> Value:
    constants = {
        key: writer.floats(f"{name}/{key}", value)
        for key, value in (("centres", centre), ("sides", side))
    }
    move = writer.slice(deltas, 2, 0, 2, f"{name}/move")
    move = writer.binary("Mul", move, constants["sides"], f"{name}/offset")
    middle = writer.binary("Add", move, constants["centres"], f"{name}/centre")
    grow = writer.slice(deltas, 2, 2, 4, f"{name}/grow")
    grow = writer.op("Exp", [grow], f"{name}/exp", grow.shape)
    extent = writer.binary("Mul", grow, constants["sides"], f"{name}/extent")
    # From the centre of the first pixel to the centre of the last.
    half = writer.scaled("Mul", extent, 0.5, f"{name}/halved")
    half = writer.scaled("Sub", half, 0.5, f"{name}/half")
    low = writer.binary("Sub", middle, half, f"{name}/low")
    high = writer.binary("Add", middle, half, f"{name}/high")
    return writer.concat([low, high], 2, name)
