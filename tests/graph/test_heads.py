"""Decodes against the families' formulas, written down here once more in numpy."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from boxwright.errors import ModelError
from boxwright.graph.builder import GraphBuilder
from boxwright.graph.heads import (
    Anchors,
    Distances,
    Grid,
    Head,
    Priors,
    Raw,
    Rows,
    Selected,
    anchor_boxes,
    decode,
    head_from_json,
    head_to_json,
)

Array = NDArray[Any]
SIZE = (64, 96)
STRIDES = (8, 16, 32)
GRIDS = ((8, 12), (4, 6), (2, 3))
RANDOM = np.random.default_rng(0)


def run(
    head: Head, raw: Raw, feed: dict[str, Array], size: tuple[int, int] = SIZE, **given: Any
) -> tuple[Array, Array]:
    graph = GraphBuilder("head")
    for name, value in feed.items():
        kind = TensorProto.INT32 if value.dtype == np.int32 else TensorProto.FLOAT
        graph.input(name, kind, ["N", *value.shape[1:]])
    decoded = decode(graph, head, raw, size, **given)
    graph.detections([decoded.boxes], [decoded.scores], classes=head.classes)
    onnx.checker.check_model(graph.model, full_check=True)
    assert all(n.name.startswith("decode/") for n in graph.graph.node[:-2])
    outputs = cast("list[Any]", ReferenceEvaluator(graph.model).run(["boxes", "scores"], feed))
    boxes, scores = np.asarray(outputs[0]), np.asarray(outputs[1])
    assert boxes.dtype == scores.dtype == np.float32
    if decoded.rows is not None:
        assert boxes.shape[1] == scores.shape[1] == decoded.rows
        assert sum(h.rows for h in decoded.heads) == decoded.rows
    return boxes, scores


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))))


def softmax(x: Array) -> Array:
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def normal(*shape: int) -> Array:
    return RANDOM.normal(0, 1.5, shape).astype(np.float32)


def close(got: Array, expected: Any, within: float = 2e-4) -> None:
    """Within `within` of pixels or score: float32 against float64."""
    np.testing.assert_allclose(got, np.asarray(expected), rtol=2e-5, atol=within)


def to_corners(cx: float, cy: float, w: float, h: float) -> list[float]:
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


ANCHORS = (((10, 13), (16, 30)), ((30, 61), (62, 45)), ((116, 90), (156, 198)))


@pytest.mark.parametrize("size_rule", ["square", "exp"])
@pytest.mark.parametrize("layout", ["maps", "anchor_maps", "pixels"])
def test_anchors(layout: Any, size_rule: Any) -> None:
    head = Anchors(
        classes=3,
        anchors=ANCHORS,
        strides=STRIDES,
        layout=layout,
        size=size_rule,
        scale=2.0 if size_rule == "square" else 1.0,
    )
    whole = [normal(2, 2, r, c, 8) for r, c in GRIDS]
    boxes, scores = [], []
    for values, anchors, stride in zip(whole, ANCHORS, STRIDES, strict=True):
        for (n, a, y, x), _ in np.ndenumerate(values[..., 0]):
            t = values[n, a, y, x]
            s = sigmoid(t)
            if size_rule == "square":
                cx, cy = (s[0] * 2 - 0.5 + x) * stride, (s[1] * 2 - 0.5 + y) * stride
                w, h = (2 * s[2]) ** 2 * anchors[a][0], (2 * s[3]) ** 2 * anchors[a][1]
            else:
                cx, cy = (s[0] + x) * stride, (s[1] + y) * stride
                w, h = np.exp(t[2:4].astype(float)) * anchors[a]
            # Key to sort by: image, level, and the order that the layout promises.
            place = (y, x, a) if layout == "pixels" else (a, y, x)
            key = (n, STRIDES.index(stride), *place)
            boxes.append((key, to_corners(cx, cy, w, h)))
            scores.append((key, s[4] * s[5:]))
    feed = {}
    for i, values in enumerate(whole):
        n, a, r, c, k = values.shape
        if layout == "maps":
            values = values.transpose(0, 1, 4, 2, 3).reshape(n, a * k, r, c)
        elif layout == "pixels":
            values = values.transpose(0, 2, 3, 1, 4).reshape(n, r, c, a * k)
        feed[f"level{i}"] = values
    got_boxes, got_scores = run(head, Raw(tuple(feed)), feed)
    expected = np.array([v for _, v in sorted(boxes, key=lambda p: p[0])])
    close(got_boxes, expected.reshape(2, -1, 4))
    close(
        got_scores, np.array([v for _, v in sorted(scores, key=lambda p: p[0])]).reshape(2, -1, 3)
    )


def points() -> Any:
    for (rows, columns), stride in zip(GRIDS, STRIDES, strict=True):
        for y in range(rows):
            for x in range(columns):
                yield x, y, stride


@pytest.mark.parametrize("activation", ["none", "sigmoid"])
def test_grid(activation: Any) -> None:
    total = sum(r * c for r, c in GRIDS)
    values = normal(2, total, 4 + 1 + 3)
    head = Grid(classes=3, strides=STRIDES, activation=activation)
    boxes, scores = run(head, Raw(("raw",)), {"raw": values}, rows=total)
    for i, (x, y, stride) in enumerate(points()):
        for n in range(2):
            t = values[n, i].astype(float)
            corners = to_corners(
                (t[0] + x) * stride, (t[1] + y) * stride, *(np.exp(t[2:4]) * stride)
            )
            close(boxes[n, i], corners)
            rest = sigmoid(values[n, i, 4:]) if activation == "sigmoid" else t[4:]
            close(scores[n, i], rest[0] * rest[1:])


@pytest.mark.parametrize(
    ("layout", "offset", "bins", "columns"),
    [
        ("maps", 0.5, 16, ("boxes", "classes")),  # YOLOv8 and 11, raw
        ("columns", 0.5, 16, ("boxes", "classes")),  # the same, levels joined
        ("rows", 0.0, 8, ("classes", "boxes")),  # NanoDet-Plus
        ("rows", 0.5, 8, ("classes", "boxes")),  # PicoDet
        ("maps", 0.5, 1, ("boxes", "classes")),  # YOLOv6 without distribution
    ],
)
def test_distances(layout: Any, offset: float, bins: int, columns: Any) -> None:
    head = Distances(
        classes=3, strides=STRIDES, layout=layout, offset=offset, bins=bins, columns=columns
    )
    joined = {"boxes": [], "classes": []}  # type: dict[str, list[Array]]
    feed = {}
    for i, (r, c) in enumerate(GRIDS):
        box, cls = normal(2, r * c, 4 * bins), normal(2, r * c, 3)
        joined["boxes"].append(box)
        joined["classes"].append(cls)
        value = np.concatenate([box, cls] if columns[0] == "boxes" else [cls, box], axis=2)
        if layout == "maps":
            value = value.transpose(0, 2, 1).reshape(2, -1, r, c)
        feed[f"level{i}"] = value.transpose(0, 2, 1) if layout == "columns" else value
    if layout == "columns":
        feed = {"raw": np.concatenate(list(feed.values()), axis=2)}
    boxes, scores = run(head, Raw(tuple(feed)), feed)
    raw = np.concatenate(joined["boxes"], 1)
    close(scores, sigmoid(np.concatenate(joined["classes"], 1)))
    for i, (x, y, stride) in enumerate(points()):
        for n in range(2):
            t = raw[n, i].reshape(4, bins)
            d = (softmax(t) * np.arange(bins)).sum(-1) if bins > 1 else t[:, 0].astype(float)
            cx, cy = (x + offset) * stride, (y + offset) * stride
            left, top, right, bottom = d * stride
            close(boxes[n, i], [cx - left, cy - top, cx + right, cy + bottom])


def test_fcos_centerness_and_exponential() -> None:
    head = Distances(
        classes=2,
        strides=(16,),
        bins=1,
        exponential=True,
        geometric=True,
        columns=("boxes", "objectness", "classes"),
    )
    feed = {"b": normal(1, 4, 4, 6), "k": normal(1, 2, 4, 6), "o": normal(1, 1, 4, 6)}
    boxes, scores = run(head, Raw(("b",), ("k",), ("o",)), feed)
    k, o = (sigmoid(feed[n]).reshape(-1, 24).T for n in "ko")
    close(scores[0], np.sqrt(k * o))
    y, x = 2, 5
    d = np.exp(feed["b"][0, :, y, x].astype(float)) * 16
    cx, cy = (x + 0.5) * 16, (y + 0.5) * 16
    close(boxes[0, y * 6 + x], [cx - d[0], cy - d[1], cx + d[2], cy + d[3]])


@pytest.mark.parametrize(("order", "background"), [("xywh", "first"), ("yxhw", "last")])
def test_priors(order: Any, background: Any) -> None:
    priors = anchor_boxes(SIZE, (32,), [[(20, 30), (50, 10)]])
    assert priors.shape == (12, 4)
    np.testing.assert_array_equal(priors[2], [48, 16, 20, 30])
    head = Priors(classes=2, order=order, background=background, limit=1.0)
    feed = {"loc": normal(2, 12, 4), "conf": normal(2, 12, 3)}
    boxes, scores = run(head, Raw(("loc",), ("conf",)), feed, priors=priors)
    chances = softmax(feed["conf"])
    close(scores, chances[..., 1:] if background == "first" else chances[..., :2])
    for (n, i), _ in np.ndenumerate(feed["loc"][..., 0]):
        t = feed["loc"][n, i].astype(float)
        if order == "yxhw":
            t = t[[1, 0, 3, 2]]
        px, py, pw, ph = priors[i]
        w, h = np.exp(np.minimum(t[2:] * 0.2, 1.0)) * [pw, ph]
        close(boxes[n, i], to_corners(px + t[0] * 0.1 * pw, py + t[1] * 0.1 * ph, w, h))


def test_retinanet_is_priors_with_a_sigmoid() -> None:
    priors = anchor_boxes(SIZE, (32,), [[(20, 30)]])
    head = Priors(classes=3, activation="sigmoid", background="none", variances=(1, 1, 1, 1))
    feed = {"loc": normal(1, 6, 4), "conf": normal(1, 6, 3)}
    boxes, scores = run(head, Raw(("loc",), ("conf",)), feed, priors=priors)
    close(scores, sigmoid(feed["conf"]))
    t = feed["loc"][0, 4].astype(float)
    px, py, pw, ph = priors[4]
    w, h = np.exp(t[2]) * pw, np.exp(t[3]) * ph
    close(boxes[0, 4], to_corners(px + t[0] * pw, py + t[1] * ph, w, h))


def test_detr_drops_its_no_object() -> None:
    head = Rows(classes=4, activation="softmax", background="last", normalised=True)
    feed = {"boxes_": RANDOM.random((2, 5, 4), np.float32), "logits": normal(2, 5, 5)}
    boxes, scores = run(head, Raw(("boxes_",), ("logits",)), feed)
    close(scores, softmax(feed["logits"])[..., :4])
    cx, cy, w, h = feed["boxes_"][1, 3] * [96, 64, 96, 64]
    close(boxes[1, 3], to_corners(cx, cy, w, h))


@pytest.mark.parametrize(
    ("box", "values"),
    [
        ("xyxy", [10, 20, 30, 60]),
        ("yxyx", [20, 10, 60, 30]),
        ("xywh", [10, 20, 20, 40]),
        ("cxcywh", [20, 40, 20, 40]),
    ],
)
def test_box_formats(box: Any, values: list[float]) -> None:
    head = Rows(classes=1, box=box, layout="columns")
    feed = {"raw": np.array([*values, 0.5], np.float32).reshape(1, 5, 1)}
    boxes, scores = run(head, Raw(("raw",)), feed, rows=1)
    np.testing.assert_array_equal(boxes, [[[10, 20, 30, 60]]])
    np.testing.assert_array_equal(scores, [[[0.5]]])


def test_selected_detections_become_one_hot() -> None:
    rows = [[1, 2, 3, 4, 0.9, 2], [5, 6, 7, 8, 0.4, 0], [0, 0, 0, 0, 0.7, -1]]
    boxes, scores = run(Selected(classes=3), Raw(("d",)), {"d": np.array([rows], np.float32)})
    np.testing.assert_array_equal(boxes[0, 0], [1, 2, 3, 4])
    np.testing.assert_array_equal(
        scores[0], np.array([[0, 0, 0.9], [0.4, 0, 0], [0, 0, 0]], np.float32)
    )


@pytest.mark.parametrize("rows", [3, None])
def test_rows_beyond_the_count_score_nothing(rows: int | None) -> None:
    feed = {
        "b": normal(2, 3, 4),
        "s": np.full((2, 3), 0.5, np.float32),
        "c": np.array([[1, 2, 1], [2, 1, 2]], np.float32),
        "n": np.array([[1], [3]], np.float32),
    }
    head = Selected(classes=2, first_class=1)
    raw = Raw(("b",), ("c",), ("s",), count="n")
    _, scores = run(head, raw, feed, rows=rows)
    np.testing.assert_array_equal(scores[0], [[0.5, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(scores[1], [[0, 0.5], [0.5, 0], [0, 0.5]])


HEADS: list[Head] = [
    Rows(classes=3),
    Anchors(classes=80, anchors=ANCHORS),
    Grid(classes=1, activation="sigmoid"),
    Distances(classes=80, bins=8, offset=0.0),
    Priors(classes=20, limit=4.1),
    Selected(classes=5, normalised=True),
]


@pytest.mark.parametrize("head", HEADS, ids=lambda h: str(h.kind))
def test_descriptions_go_through_json(head: Head) -> None:
    assert head_from_json(json.loads(json.dumps(head_to_json(head)))) == head


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"kind": "nothing", "classes": 3},
        {"kind": "rows"},
        {"kind": "rows", "classes": 0},
        {"kind": "rows", "classes": True},
        {"kind": "rows", "classes": 3, "box": "polar"},
        {"kind": "rows", "classes": 3, "unheard": 1},
        {"kind": "rows", "classes": 3, "columns": ["boxes"]},
        {"kind": "rows", "classes": 3, "columns": 7},
        {"kind": "grid", "classes": 3, "strides": []},
        {"kind": "grid", "classes": 3, "strides": [0]},
        {"kind": "anchors", "classes": 3, "anchors": [[[1, 2]]]},
        {"kind": "anchors", "classes": 3, "strides": [8], "anchors": [[[1]]]},
        {"kind": "anchors", "classes": 3, "strides": [8], "anchors": [[["a", "b"]]]},
        {"kind": "distances", "classes": 3, "bins": 1 << 40},
        {"kind": "priors", "classes": 3, "variances": [1, 1, 1]},
        {"kind": "priors", "classes": 3, "variances": [1, 1, 1, float("nan")]},
        {"kind": "selected", "classes": 3, "columns": ["boxes"]},
    ],
)
def test_malformed_descriptions_are_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        head_from_json(content)


def test_levels_that_do_not_fit_are_refused() -> None:
    graph = GraphBuilder("head")
    with pytest.raises(ModelError, match=r"3549 candidates|network gives 3549"):
        decode(graph, Grid(classes=80), Raw(("raw",)), (640, 640), rows=3549)
    with pytest.raises(ModelError, match="levels need"):
        decode(graph, Anchors(classes=3, anchors=ANCHORS), Raw(("a", "b")), SIZE)
    with pytest.raises(ModelError, match="prior boxes"):
        decode(graph, Priors(classes=3), Raw(("a",), ("b",)), SIZE, rows=3)
