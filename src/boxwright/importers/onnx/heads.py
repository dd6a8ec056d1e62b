"""Head records of each family, made from the shapes and values of a graph's outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import ImportFailedError, ModelError
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
    cells,
    grid_sizes,
)
from boxwright.importers.families import COCO_ANCHORS
from boxwright.importers.options import head_fields, words

Array = NDArray[Any]
Tensors = Mapping[str, Array]
Options = Mapping[str, Any]
Size = tuple[int, int]


@dataclass(frozen=True)
class Made:
    """A head, its tensors, and the number of candidates if it is known."""

    head: Head
    raw: Raw
    rows: int | None
    priors: NDArray[np.float64] | None = None


def with_classes(made: Made, classes: int) -> Made:
    """The same head for another number of classes."""
    return dataclasses.replace(made, head=dataclasses.replace(made.head, classes=classes))


def count_cells(size: Size, strides: Sequence[int]) -> int:
    """Cells of all levels together."""
    return sum(rows * columns for rows, columns in grid_sizes(size, strides))


def is_decoded(tensors: Tensors, made: Made, size: Size) -> bool:
    """Whether the first two values of a row follow its cell across the image.

    Decoded centres do, to within a few cells; raw ones are offsets within the cell.
    """
    values = np.asarray(tensors[made.raw.boxes[0]], np.float64)
    grid = grid_sizes(size, (8, 16, 32))[0]
    place = cells(*grid)
    if values.ndim != 3 or values.shape[1] < len(place) or len(place) < 8:
        return False
    first = values[0, : len(place), :2]
    return all(
        np.ptp(place[:, axis]) == 0 or _correlation(first[:, axis], place[:, axis]) > 0.9
        for axis in (0, 1)
    )


def _correlation(one: Array, two: Array) -> float:
    if not np.isfinite(one).all() or one.std() == 0 or two.std() == 0:
        return 0.0
    return float(np.corrcoef(one, two)[0, 1])


def _within_unit(values: Array) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def _record(kind: type[Any], options: Options, **fields: Any) -> Any:
    """A record, options first."""
    try:
        return kind(**(fields | head_fields(options, kind)))
    except (ModelError, TypeError) as error:
        raise ImportFailedError(f"the head and the options do not fit: {error}") from error


def _raw(tensors: Tensors, options: Options) -> Raw | None:
    """The tensors that the user names."""
    if "boxes" not in options:
        if "scores" in options or "objectness" in options:
            raise ImportFailedError("option scores or objectness needs option boxes beside it")
        return None
    groups = {key: words(options.get(key, "")) for key in ("boxes", "scores", "objectness")}
    for name in (name for names in groups.values() for name in names):
        if name not in tensors:
            raise ImportFailedError(f"the graph has no tensor {name!r}")
    return Raw(groups["boxes"], groups["scores"], groups["objectness"])


def _joint(tensors: Tensors, options: Options) -> tuple[Raw, Array] | None:
    """One tensor ``(N, A, values)`` or ``(N, values, A)``; the largest where there are more."""
    given = _raw(tensors, options)
    if given is not None:
        single = len(given.boxes) == 1 and not given.classes
        value = tensors[given.boxes[0]]
        return (given, value) if single and value.ndim == 3 else None
    three = {n: v for n, v in tensors.items() if v.ndim == 3 and v.shape[1] > 1 < v.shape[2]}
    others = [v for v in tensors.values() if v.ndim != 3 and v.ndim != 5]
    if not three or others:
        return None
    name = max(three, key=lambda n: three[n].size)
    if len(three) > 1 and any(v.size * 2 > three[name].size for n, v in three.items() if n != name):
        # YOLOv9 gives its auxiliary head too, of the same shape; the first is the main one.
        same = [n for n, v in three.items() if v.shape == three[name].shape]
        if len(same) != len(three):
            return None
        name = same[0]
    return Raw((name,)), three[name]


def _yolov5(tensors: Tensors, size: Size, options: Options, family: str = "yolov5") -> Made | None:
    """Rows with objectness; or raw levels ``(N, anchors, H, W, values)`` or of maps."""
    joint = _joint(tensors, options)
    if joint is not None:
        raw, value = joint
        if value.shape[2] > value.shape[1] or value.shape[2] < 6:
            return None
        columns = ("boxes", "objectness", "classes")
        head = _record(Rows, options, classes=value.shape[2] - 5, columns=columns)
        return Made(head, raw, value.shape[1])
    given = _raw(tensors, options)
    levels = given.boxes if given else tuple(n for n, v in tensors.items() if v.ndim in (4, 5))
    ranks = {tensors[name].ndim for name in levels}
    if not levels or len(ranks) != 1 or (given and given.classes):
        return None
    # From fine to coarse, as strides are.
    levels = tuple(sorted(levels, key=lambda n: -tensors[n].size))
    first = tensors[levels[0]]
    rank = ranks.pop()
    anchors = head_fields(options, Anchors).get("anchors", COCO_ANCHORS.get(family))
    if rank == 5:
        layout, each, values = "anchor_maps", first.shape[1], first.shape[4]
        grids = [tensors[n].shape[2:4] for n in levels]
    else:
        layout, each = "maps", len(anchors[0]) if anchors else 3
        values, grids = first.shape[1] // each, [tensors[n].shape[2:4] for n in levels]
    strides = tuple(max(round(size[0] / grid[0]), 1) for grid in grids)
    if values < 6 or anchors is None or len(anchors) != len(levels) or len(anchors[0]) != each:
        return None
    head = _record(
        *(Anchors, options), classes=values - 5, layout=layout, anchors=anchors, strides=strides
    )
    return Made(head, Raw(levels), each * sum(int(np.prod(grid)) for grid in grids))


def _yolov7(tensors: Tensors, size: Size, options: Options) -> Made | None:
    return _yolov5(tensors, size, options, "yolov7")


def _yolov6(tensors: Tensors, size: Size, options: Options) -> Made | None:
    made = _yolov5(tensors, size, options)
    return made if made is not None and made.head.kind == "rows" else None


def _yolox(tensors: Tensors, size: Size, options: Options) -> Made | None:
    joint = _joint(tensors, options)
    if joint is None or joint[1].shape[2] < 6 or joint[1].shape[2] > joint[1].shape[1]:
        return None
    raw, value = joint
    fields: dict[str, Any] = {
        "classes": value.shape[2] - 5,
        "columns": ("boxes", "objectness", "classes"),
    }
    made = Made(Rows(**fields), raw, value.shape[1])
    if is_decoded(tensors, made, size):
        return Made(_record(Rows, options, **fields), raw, value.shape[1])
    activation = "none" if _within_unit(value[..., 4:]) else "sigmoid"
    head = _record(Grid, options, activation=activation, **fields)
    return Made(head, raw, value.shape[1])


def _yolov8(tensors: Tensors, size: Size, options: Options) -> Made | None:
    """Decoded columns, or 4 x 16 bins and classes: as columns or as maps."""
    joint = _joint(tensors, options)
    if joint is None:
        return _yolov8_levels(tensors, size, options)
    raw, value = joint
    layout = "columns" if value.shape[1] < value.shape[2] else "rows"
    values, rows = (1, 2) if layout == "columns" else (2, 1)
    if value.shape[values] < 5 or (layout == "rows" and "layout" not in options):
        return None
    classes = value[:, 4:] if layout == "columns" else value[..., 4:]
    if _within_unit(classes):
        fields = {"classes": value.shape[values] - 4, "layout": layout}
        return Made(_record(Rows, options, **fields), raw, value.shape[rows])
    if value.shape[values] <= 64:
        return None
    head = _record(Distances, options, classes=value.shape[values] - 64, layout=layout)
    return Made(head, raw, value.shape[rows])


def _yolov8_levels(tensors: Tensors, size: Size, options: Options) -> Made | None:
    given = _raw(tensors, options)
    levels = given.boxes if given else tuple(tensors)
    if not levels or any(tensors[n].ndim != 4 for n in levels):
        return None
    levels = tuple(sorted(levels, key=lambda n: -int(np.prod(tensors[n].shape[2:]))))
    grids = [tensors[n].shape[2:] for n in levels]
    bins = head_fields(options, Distances).get("bins", 16)
    if given and given.classes:
        scores = tuple(sorted(given.classes, key=lambda n: -int(np.prod(tensors[n].shape[2:]))))
        classes = tensors[scores[0]].shape[1]
    else:
        scores, classes = (), tensors[levels[0]].shape[1] - 4 * bins
    if classes < 1 or len({tensors[n].shape[1] for n in levels}) != 1:
        return None
    strides = tuple(max(round(size[0] / grid[0]), 1) for grid in grids)
    head = _record(Distances, options, classes=classes, strides=strides, layout="maps")
    return Made(head, Raw(levels, scores), sum(int(np.prod(grid)) for grid in grids))


def _nanodet(tensors: Tensors, size: Size, options: Options) -> Made | None:
    joint = _joint(tensors, options)
    if joint is None:
        return None
    raw, value = joint
    bins = head_fields(options, Distances).get("bins", 8)
    classes = value.shape[2] - 4 * bins
    if classes < 1 or value.shape[2] > value.shape[1]:
        return None
    activation = "none" if _within_unit(value[..., :classes]) else "sigmoid"
    head = _record(
        *(Distances, options),
        classes=classes,
        layout="rows",
        columns=("classes", "boxes"),
        strides=(8, 16, 32, 64),
        bins=bins,
        # NanoDet-Plus puts a cell's point in its upper left corner.
        offset=0.0,
        activation=activation,
    )
    return Made(head, raw, value.shape[1])


def _picodet(tensors: Tensors, size: Size, options: Options) -> Made | None:
    strides = (8, 16, 32, 64)
    counts = [count_cells(size, (stride,)) for stride in strides]
    three = {n: v for n, v in tensors.items() if v.ndim == 3}
    if len(three) != 2 * len(strides) or len(three) != len(tensors):
        return None
    by_count = [[n for n, v in three.items() if v.shape[1] == count] for count in counts]
    if any(len(names) != 2 for names in by_count) or len(set(counts)) != len(counts):
        return None
    bins = head_fields(options, Distances).get("bins", 8)
    # Names come as all scores and then all distributions.
    scores, boxes = zip(*by_count, strict=True)
    widths = {three[n].shape[2] for n in boxes}
    classes = {three[n].shape[2] for n in scores}
    if widths != {4 * bins} or len(classes) != 1:
        return None
    within = all(_within_unit(three[n]) for n in scores)
    head = _record(
        *(Distances, options),
        classes=classes.pop(),
        layout="rows",
        strides=strides,
        bins=bins,
        activation="none" if within else "sigmoid",
    )
    return Made(head, Raw(tuple(boxes), tuple(scores)), sum(counts))


def _pair(tensors: Tensors, options: Options) -> tuple[Raw, Array, Array] | None:
    """Boxes ``(N, A, 4)`` and scores ``(N, A, values)``, one of each."""
    given = _raw(tensors, options)
    if given is not None:
        if len(given.boxes) != 1 or len(given.classes) != 1:
            return None
        box, score = given.boxes[0], given.classes[0]
    else:
        three = {n: v for n, v in tensors.items() if v.ndim == 3}
        named = [n for n, v in three.items() if v.shape[2] == 4 and "box" in n.lower()]
        boxes = named or [n for n, v in three.items() if v.shape[2] == 4]
        if len(three) != 2 or len(boxes) != 1:
            return None
        box, score = boxes[0], next(n for n in three if n not in boxes)
    first, second = tensors[box], tensors[score]
    if first.ndim != 3 or second.ndim != 3 or first.shape[:2] != second.shape[:2]:
        return None
    return Raw((box,), (score,)), first, second


def _ssd(tensors: Tensors, size: Size, options: Options) -> Made | None:
    """Decoded boxes beside scores; a softmax shows by adding up to 1."""
    pair = _pair(tensors, options)
    if pair is None or not _within_unit(pair[2]):
        return None
    raw, boxes, scores = pair
    chances = bool(np.allclose(scores.sum(-1), 1, atol=1e-3)) and scores.shape[2] > 1
    corners = (boxes[..., 2:] >= boxes[..., :2]).mean() > 0.99
    head = _record(
        *(Rows, options),
        classes=scores.shape[2] - chances,
        background="first" if chances else "none",
        box="xyxy" if corners else "cxcywh",
        normalised=bool(np.abs(boxes).max(initial=0) < 8),
    )
    return _fitting_background(head, raw, scores.shape[2], boxes.shape[1])


def _fitting_background(head: Rows, raw: Raw, values: int, rows: int) -> Made:
    """Classes are what is left when an option says whether there is a background."""
    return Made(dataclasses.replace(head, classes=values - (head.background != "none")), raw, rows)


def _retinanet(tensors: Tensors, size: Size, options: Options) -> Made | None:
    pair = _pair(tensors, options)
    if pair is None:
        return None
    raw, boxes, scores = pair
    fields = head_fields({k: v for k, v in options.items() if k == "strides"}, Grid)
    strides = fields.get("strides", (8, 16, 32, 64, 128))
    # Lin et al. 2017, section 4: three scales times three aspect ratios (height / width).
    shapes = [
        [
            (4 * s * 2 ** (octave / 3) / ratio**0.5, 4 * s * 2 ** (octave / 3) * ratio**0.5)
            for ratio in (0.5, 1.0, 2.0)
            for octave in range(3)
        ]
        for s in strides
    ]
    priors = anchor_boxes(size, strides, shapes, offset=0.0)
    if len(priors) != boxes.shape[1]:
        return None
    head = _record(
        *(Priors, {k: v for k, v in options.items() if k != "strides"}),
        classes=scores.shape[2],
        activation="none" if _within_unit(scores) else "sigmoid",
        background="none",
        variances=(1.0, 1.0, 1.0, 1.0),
        limit=float(np.log(1000 / 16)),
    )
    return Made(head, raw, len(priors), priors)


def _detr(tensors: Tensors, size: Size, options: Options) -> Made | None:
    pair = _pair(tensors, options)
    if pair is None or not _within_unit(pair[1]):
        return None
    raw, boxes, scores = pair
    head = _record(
        *(Rows, options),
        classes=scores.shape[2] - 1,
        activation="softmax",
        background="last",
        normalised=True,
    )
    return _fitting_background(head, raw, scores.shape[2], boxes.shape[1])


def _rtdetr(tensors: Tensors, size: Size, options: Options) -> Made | None:
    """Boxes beside class values, or both in rows (Ultralytics)."""
    pair = _pair(tensors, options)
    if pair is not None:
        raw, boxes, scores = pair
    else:
        joint = _joint(tensors, options)
        if joint is None or joint[1].shape[2] < 5:
            return None
        raw, value = joint
        boxes, scores = value[..., :4], value[..., 4:]
    if not _within_unit(boxes):
        return None
    head = _record(
        *(Rows, options),
        classes=scores.shape[2],
        activation="none" if _within_unit(scores) else "sigmoid",
        normalised=True,
    )
    return Made(head, raw, boxes.shape[1])


_MOST_SELECTED = 4_096


def _selected(tensors: Tensors, size: Size, options: Options) -> Made | None:
    """Rows of box, score and class; or three tensors, and perhaps a count."""
    normalised = {"normalised": False}
    if len(tensors) == 1 and not options.get("boxes"):
        name, value = next(iter(tensors.items()))
        if value.ndim != 3 or value.shape[2] != 6 or value.shape[1] > _MOST_SELECTED:
            return None
        label, box = value[..., 5], value[..., :4]
        if not np.array_equal(label, np.round(label)) or not _within_unit(value[..., 4]):
            return None
        normalised["normalised"] = bool(value.size) and _looks_normalised(box)
        head = _record(Selected, options, classes=int(label.max(initial=0)) + 1, **normalised)
        return Made(head, Raw((name,)), value.shape[1])
    roles: dict[str, str] = {}
    for name, value in tensors.items():
        role = _role(name.lower(), value)
        if role is None or role in roles:
            return None
        roles[role] = name
    if not {"boxes", "scores", "labels"} <= set(roles):
        return None
    boxes, labels = tensors[roles["boxes"]], tensors[roles["labels"]]
    if boxes.shape[:2] != labels.shape or boxes.shape[1] > _MOST_SELECTED:
        return None
    normalised["normalised"] = _looks_normalised(boxes)
    head = _record(Selected, options, classes=int(labels.max(initial=0)) + 1, **normalised)
    raw = Raw((roles["boxes"],), (roles["labels"],), (roles["scores"],), roles.get("count"))
    return Made(head, raw, boxes.shape[1])


def _looks_normalised(boxes: Array) -> bool:
    return bool(boxes.size and boxes.any() and np.abs(boxes).max() <= 2)


def _role(name: str, value: Array) -> str | None:
    if value.ndim == 3 and value.shape[2] == 4:
        return "boxes"
    if "num" in name and value.ndim <= 2:
        return "count"
    if value.ndim == 2 and "score" in name:
        return "scores"
    if value.ndim == 2 and ("class" in name or "label" in name):
        return "labels"
    return None


Maker = Callable[[Tensors, Size, Options], Made | None]

MAKERS: Mapping[str, Maker] = {
    "yolov5": cast("Maker", _yolov5),
    "yolov6": _yolov6,
    "yolov7": _yolov7,
    "yolov8": _yolov8,
    "yolov10": _selected,
    "yolox": _yolox,
    "nanodet": _nanodet,
    "picodet": _picodet,
    "ssd": _ssd,
    "retinanet": _retinanet,
    "detr": _detr,
    "rtdetr": _rtdetr,
    "end2end": _selected,
}
"""For each family, its head for the tensors given, or ``None`` where they are not its own."""

_ROWS = "expected (N, A, 5 + classes)"
EXPECTED: Mapping[str, str] = {
    "yolov5": f"{_ROWS}, or raw levels and their anchors: --option anchors=",
    "yolov6": _ROWS,
    "yolov7": f"{_ROWS}, or raw levels and their anchors: --option anchors=",
    "yolov8": "expected (N, 4 + classes, A), or raw levels (N, 64 + classes, H, W)",
    "yolov10": "expected (N, K, 6)",
    "yolox": _ROWS,
    "nanodet": "expected (N, A, classes + 32)",
    "picodet": "expected scores (N, A, classes) and distributions (N, A, 32) of four levels",
    "ssd": "expected decoded boxes (N, A, 4) and scores of 0 to 1 (N, A, classes)",
    "retinanet": "expected (N, A, 4) and (N, A, classes), nine anchors in each cell",
    "detr": "expected boxes of 0 to 1 (N, A, 4) and class values (N, A, classes + 1)",
    "rtdetr": "expected boxes of 0 to 1 (N, A, 4) and class values (N, A, classes)",
    "end2end": "expected (N, K, 6), or boxes, scores and classes, and perhaps their number",
}
