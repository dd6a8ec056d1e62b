"""RetinaFace: faces, each with five points, at three strides.

Which outputs there are, the anchors and the decoding are those of insightface's
``RetinaFace`` (``detection/retinaface``, MIT): square anchors of two sizes at each cell,
sizes as pixels from the first to the last inclusive (hence the ones), offsets without
variances.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from boxwright.card import Head, Nms
from boxwright.graph.heads import Priors, cells
from boxwright.importers.mxnet.heads import Decoded, Family, Pixels, decode_priors
from boxwright.importers.mxnet.symbol import Entry, Symbol
from boxwright.importers.mxnet.values import BATCH, Value, described
from boxwright.importers.mxnet.writer import Writer
from boxwright.model import LANDMARKS

Floats = NDArray[np.float64]

POINTS = ("left_eye", "right_eye", "nose", "left_mouth_corner", "right_mouth_corner")
"""The five points in their order; left and right as in the image."""
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
        return _decode(writer, strides, values, len(kinds), size)

    return Family(
        "retinaface",
        tuple(found[stride, kind] for stride in strides for kind in kinds),
        decode,
        Pixels(),
        Nms(iou_threshold=0.4, multi_label=False),
        size=(640, 640),
        names=("face",),
        multiple=32,
        landmarks=POINTS if "landmark_pred" in kinds else (),
        resize="letterbox",
    )


def _decode(
    writer: Writer,
    strides: list[int],
    values: list[Value],
    kinds: int,
    size: tuple[int, int],
) -> Decoded:
    columns: dict[str, list[Value]] = {"scores": [], "deltas": [], "points": []}
    anchors, heads = [], []
    for i, stride in enumerate(strides):
        scores, boxes, *points = values[i * kinds : (i + 1) * kinds]
        name, sides = f"decode/stride{stride}", _SIDES[stride]
        grid = (boxes.shape[2], boxes.shape[3])
        rows = grid[0] * grid[1] * len(sides)
        if boxes.shape[1] != 4 * len(sides) or scores.shape[1] != 2 * len(sides):
            raise writer.symbol.error(
                f"at stride {stride}, scores {described(scores.shape)} and boxes "
                f"{described(boxes.shape)} are not those of {len(sides)} anchors a cell"
            )
        # Of the anchors' probabilities, all of the background's come first.
        face = writer.slice(scores, 1, len(sides), 2 * len(sides), f"{name}/face")
        columns["scores"].append(_rows(writer, face, rows, 1, f"{name}/scores"))
        columns["deltas"].append(_rows(writer, boxes, rows, 4, f"{name}/deltas"))
        for tensor in points:
            columns["points"].append(_rows(writer, tensor, rows, 2 * len(POINTS), f"{name}/points"))
        anchors.append(_anchors(stride, sides, grid))
        squares = tuple((float(side), float(side)) for side in sides)
        heads.append(Head("retinaface", grid, squares, rows, boxes.name))
    corners = np.concatenate(anchors)
    joined = {
        key: writer.concat(parts, 1, f"decode/{key}") for key, parts in columns.items() if parts
    }
    head = Priors(
        classes=1, layout="rows", activation="none", background="none", variances=(1, 1, 1, 1)
    )
    done = decode_priors(writer, head, joined["deltas"], joined["scores"], corners, size)
    # The decoded corners are centres of the box's first and last pixels: half a pixel inside.
    inward = writer.floats("decode/inward", [0.5, 0.5, -0.5, -0.5])
    boxes = writer.binary("Add", done.boxes, inward, "decode/first_to_last")
    extra = {}
    if "points" in joined:
        extra[LANDMARKS] = _landmarks(writer, joined["points"], corners)
    return Decoded(boxes, done.scores, tuple(heads), extra)


def _landmarks(writer: Writer, points: Value, corners: Floats) -> Value:
    """``[N, A, 5, 2]``: x and y of five points in input pixels."""
    side = corners[None, :, 2:3] - corners[None, :, :1]
    centre = (corners[None, :, :2] + corners[None, :, 2:]) / 2
    moved = writer.binary("Mul", points, writer.floats("decode/sides", side), "decode/moved")
    # insightface counts from the first pixel's centre, the contract from its edge.
    at = writer.floats("decode/centres", np.tile(centre + 0.5, len(POINTS)))
    flat = writer.binary("Add", moved, at, "decode/points_in_pixels")
    shape = (BATCH, len(corners), len(POINTS), 2)
    return writer.reshape(flat, shape, "decode/landmarks")


def _rows(writer: Writer, x: Value, rows: int, columns: int, name: str) -> Value:
    """``[N, anchors * columns, H, W]`` as ``[N, H * W * anchors, columns]``."""
    last = writer.transpose(x, (0, 2, 3, 1), f"{name}/last")
    return writer.reshape(last, (BATCH, rows, columns), name)


def _anchors(stride: int, sides: tuple[int, ...], grid: tuple[int, int]) -> Floats:
    """`xyxy` in input pixels ``(A, 4)``, cell by cell, the last pixel's far edge included."""
    # The base anchor covers the pixels 0 to 15, so that its centre is at 7.5, whatever the
    # stride.
    centre = cells(*grid)[:, None] * stride + (_BASE - 1) / 2
    half = np.array(sides, np.float64)[None, :, None] / 2
    return np.concatenate([centre - half, centre + half], axis=2).reshape(-1, 4)
