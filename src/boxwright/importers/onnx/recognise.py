"""Which head a graph ends in, told from its outputs' names, shapes and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.card import Nms
from boxwright.errors import ImportFailedError
from boxwright.graph.heads import Head, Raw, Rows
from boxwright.importers.families import FAMILIES, Family, find_family
from boxwright.importers.onnx import heads
from boxwright.importers.onnx.metadata import Metadata
from boxwright.importers.onnx.surgery import original_name

Array = NDArray[Any]


@dataclass(frozen=True)
class Seen:
    """What is known of a graph before its head is.

    Attributes:
        tensors: Its outputs on made-up images, by name, in the graph's order.
        size: ``(height, width)`` of its input.
        metadata: What the file says about itself.
        options: What the user says.
    """

    tensors: Mapping[str, Array]
    size: tuple[int, int]
    metadata: Metadata
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How a graph's outputs become the contract's.

    Attributes:
        family: Gives what a file does not say.
        head: What the tensors mean.
        raw: Which tensors.
        rows: How many candidates.
        reason: How that was told, for people.
        priors: Prior boxes, `cxcywh` in pixels, where the head has some.
    """

    family: Family
    head: Head
    raw: Raw
    rows: int | None
    reason: str
    priors: NDArray[np.float64] | None = None


def recognise_head(seen: Seen, head: str | None, origin: str) -> Plan:
    """The head of a graph.

    Args:
        seen: What the graph gives.
        head: The family that the user says it is.
        origin: Names the graph in messages.

    Raises:
        ImportFailedError: It is none that is known, or not the one the user says; the
            message lists what the graph gives and what can be said.
    """
    if head is not None:
        family = find_family(head)
        made = heads.MAKERS[family.name](seen.tensors, seen.size, seen.options)
        if made is None:
            raise ImportFailedError(
                f"{origin}: its outputs do not look like those of {family.name}: "
                f"{describe(seen.tensors)}; {heads.EXPECTED[family.name]}"
            )
        return _plan(family, made, "as you say")
    return _by_metadata(seen) or _by_outputs(seen, origin)


def plan_of_plugin(seen: Seen, plugin: Mapping[str, Any], head: str | None, origin: str) -> Plan:
    """What TensorRT's suppressing plugin said of its inputs: boxes in pixels, and scores.

    Raises:
        ImportFailedError: It leaves out a background, or its inputs have another form.
    """
    names = [f"source/{plugin[key]}" for key in ("boxes", "scores")]
    box, score = (n if n in seen.tensors else original_name(n) for n in names)
    boxes, scores = seen.tensors[box], seen.tensors[score]
    if plugin["background_class"] >= 0 or boxes.ndim != 3 or boxes.shape[2] != 4:
        raise ImportFailedError(
            f"{origin}: what its suppressing plugin reads is not boxes (N, A, 4) and scores "
            f"without a background, but {describe(seen.tensors)}; export it without suppression"
        )
    family = find_family(head or "end2end")
    overlap = min(max(float(plugin["iou_threshold"]), 0.0), 1.0)
    family = dataclasses.replace(family, nms=Nms(iou_threshold=overlap))
    record = Rows(
        classes=scores.shape[2],
        activation="sigmoid" if plugin["score_activation"] == 1 else "none",
        box="cxcywh" if plugin["box_coding"] == 1 else "xyxy",
    )
    reason = "what its suppressing plugin reads; the plugin is cut off"
    return Plan(family, record, Raw((box,), (score,)), boxes.shape[1], reason)


def describe(tensors: Mapping[str, Array]) -> str:
    """Names, types and shapes, for messages."""
    shown = [f"{n[:60]!r} {v.dtype} {list(v.shape)}" for n, v in list(tensors.items())[:12]]
    return ", ".join(shown) + (", ..." if len(tensors) > 12 else "")


def _plan(family: Family, made: heads.Made, reason: str) -> Plan:
    return Plan(family, made.head, made.raw, made.rows, reason, made.priors)


def _by_metadata(seen: Seen) -> Plan | None:
    """Exports that carry class names and who made them."""
    metadata = seen.metadata
    if not metadata.names:
        return None
    count = len(metadata.names)
    who = metadata.exporter or "its exporter"
    candidates = ["yolov10", "yolov8", "yolov5"]
    if "rtdetr" in metadata.description.lower().replace("-", ""):
        candidates.insert(0, "rtdetr")
    for name in candidates:
        made = heads.MAKERS[name](seen.tensors, seen.size, seen.options)
        if made is None:
            continue
        # Whoever selects inside the network does not show how many classes there are.
        if name == "yolov10":
            made = heads.with_classes(made, count)
        if made.head.classes == count:
            return _plan(FAMILIES[name], made, f"told from the metadata of {who}")
    return None


def _by_outputs(seen: Seen, origin: str) -> Plan:
    found: list[Plan] = []
    for name, certain in _RULES.items():
        made = heads.MAKERS[name](seen.tensors, seen.size, seen.options)
        if made is not None and (reason := certain(seen, made)):
            found.append(_plan(FAMILIES[name], made, reason))
    if len(found) == 1:
        return found[0]
    shown = describe(seen.tensors)
    if found:
        listed = "; ".join(f"{plan.family.name} ({plan.reason})" for plan in found)
        raise ImportFailedError(
            f"{origin}: its outputs {shown} could be of {listed}; say which with --head"
        )
    raise ImportFailedError(
        f"{origin}: no known head ends in {shown}; say which it is with --head "
        f"{'|'.join(FAMILIES)}, and name its tensors with --option boxes=... scores=... "
        "if these are not its outputs"
    )


def _names(seen: Seen) -> set[str]:
    return {name.lower() for name in seen.tensors}


def _yolov5(seen: Seen, made: heads.Made) -> str | None:
    if made.head.kind != "rows" or made.rows is None:
        return None
    cells = heads.count_cells(seen.size, (8, 16, 32))
    larger = heads.count_cells(seen.size, (8, 16, 32, 64))
    if made.rows in (3 * cells, 3 * larger):
        return f"{made.rows} rows are three anchors in each cell, decoded"
    return None


def _cells(seen: Seen, made: heads.Made) -> bool:
    return made.rows == heads.count_cells(seen.size, (8, 16, 32))


def _yolov6(seen: Seen, made: heads.Made) -> str | None:
    if _cells(seen, made) and heads.is_decoded(seen.tensors, made, seen.size):
        return "one decoded row with objectness for each cell"
    return None


def _yolox(seen: Seen, made: heads.Made) -> str | None:
    if not _cells(seen, made):
        return None
    if made.head.kind == "rows":
        return "one decoded row with objectness for each cell"
    return "one row for each cell of strides 8, 16 and 32, centres in cells"


def _yolov8(seen: Seen, made: heads.Made) -> str | None:
    if made.head.kind == "distances":
        return "64 values of four distributions before the classes"
    if made.rows in (
        heads.count_cells(seen.size, (8, 16, 32)),
        heads.count_cells(seen.size, (8, 16, 32, 64)),
        heads.count_cells(seen.size, (4, 8, 16, 32)),
    ):
        return "one decoded column for each cell, boxes and then classes"
    return None


def _nanodet(seen: Seen, made: heads.Made) -> str | None:
    if made.rows == heads.count_cells(seen.size, (8, 16, 32, 64)):
        return "one row for each cell of strides 8 to 64, classes and then 32 values"
    return None


def _always(reason: str) -> Callable[[Seen, heads.Made], str | None]:
    return lambda _seen, _made: reason


def _detr(seen: Seen, made: heads.Made) -> str | None:
    if "pred_boxes" not in _names(seen):
        return None
    # COCO's 91 category numbers and no-object.
    return "pred_boxes, and 91 classes with no-object" if made.head.classes == 91 else None


def _rtdetr(seen: Seen, made: heads.Made) -> str | None:
    named = "pred_boxes" in _names(seen) and _detr(seen, made) is None
    return "pred_boxes, and classes without no-object" if named and made.rows == 300 else None


_RULES: dict[str, Callable[[Seen, heads.Made], str | None]] = {
    "yolov5": _yolov5,
    "yolov6": _yolov6,
    "yolov8": _yolov8,
    "yolox": _yolox,
    "nanodet": _nanodet,
    "picodet": _always("scores and distributions of four levels"),
    "ssd": _always("boxes, and scores that are chances"),
    "detr": _detr,
    "rtdetr": _rtdetr,
    "end2end": _always("few rows of a box, a score and a class each"),
}
