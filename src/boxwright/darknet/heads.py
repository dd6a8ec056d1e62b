"""Reading the detection heads of a cfg: their boxes, classes, anchors and class tree."""

from __future__ import annotations

import logging
from typing import Any, Literal

from boxwright.card import Nms
from boxwright.darknet.cfg import Section
from boxwright.darknet.layers import Head, Shape, Tree
from boxwright.files import open_regular
from boxwright.mentions import find_mentioned

_LOGGER = logging.getLogger("boxwright")

_MAX_CLASSES = 65_536
_MAX_ANCHORS = 4_096
_MAX_TREE_BYTES = 16 << 20

_NMS_KINDS = {
    "default": "iou",
    # diounms_sort in src/box.c averages no boxes any more: cornersnms only suppresses.
    "cornersnms": "iou",
    "greedynms": "diou",
    "diounms": "diou",
}
_GREEDY_BETA = 0.6


def read_head(section: Section, common: dict[str, Any], net: Shape) -> Head:
    """One head from its section.

    Args:
        section: The section.
        common: Fields of :class:`~boxwright.darknet.layers.Layer` but for the shape.
        net: Shape of the network's input.

    Raises:
        CfgError: Its options contradict each other or the layer before it.
    """
    classes = section.integer("classes", 20 if section.name != "detection" else 1, 1, _MAX_CLASSES)
    if section.name == "detection":
        return _read_detection(section, common, classes)
    if section.name == "region":
        return _read_region(section, common, classes)
    return _read_yolo(section, common, classes)


def read_nms(section: Section, iou_threshold: float = 0.45) -> Nms:
    """The suppression that Darknet applies when `section` is the network's last head."""
    kind = section.text("nms_kind", "default").lower()
    if kind not in _NMS_KINDS:
        section.fail(f"nms_kind must be one of {sorted(_NMS_KINDS)}, got {kind[:40]!r}", "nms_kind")
    beta = section.number("beta_nms", _GREEDY_BETA) if kind == "diounms" else _GREEDY_BETA
    if beta <= 0:
        section.fail(f"beta_nms must be above 0, got {beta}", "beta_nms")
    return Nms(
        kind="diou" if _NMS_KINDS[kind] == "diou" else "iou",
        iou_threshold=iou_threshold,
        beta=beta,
    )


def _read_yolo(section: Section, common: dict[str, Any], classes: int) -> Head:
    total = section.integer("num", 1, 1, _MAX_ANCHORS)
    mask = section.integers("mask", tuple(range(total)))
    if not mask or len(mask) > _MAX_ANCHORS:
        section.fail("mask= names no anchor", "mask")
    for item in mask:
        if not 0 <= item < total:
            section.unsupported(
                f"mask={item} must be below num={total}: Darknet reads beyond its anchors", "mask"
            )
    anchors = _read_anchors(section, total)
    gaussian = section.name == "gaussian_yolo"
    per_box = (9 if gaussian else 5) + classes
    source: Shape = common["input_shape"]
    _check_channels(section, source, len(mask), per_box)
    return Head(
        **common,
        shape=source,
        kind="gaussian_yolo" if gaussian else "yolo",
        classes=classes,
        anchors=tuple(anchors[item] for item in mask),
        scale_x_y=section.number("scale_x_y", 1.0),
        # [Gaussian_yolo] does not know new_coords.
        new_coords=section.flag("new_coords") and not gaussian,
        point=_read_point(section) if gaussian else "center",
    )


def _read_point(section: Section) -> Literal["center", "left_top", "right_bottom"]:
    value = section.text("yolo_point", "center")
    if value == "left_top":
        return "left_top"
    if value == "right_bottom":
        return "right_bottom"
    if value != "center":
        section.fail(f"yolo_point must be center, left_top or right_bottom, got {value[:40]!r}")
    return "center"


def _read_region(section: Section, common: dict[str, Any], classes: int) -> Head:
    count = section.integer("num", 1, 1, _MAX_ANCHORS)
    coords = section.integer("coords", 4)
    if coords != 4:
        section.unsupported(f"coords={coords}: a box has 4 coordinates", "coords")
    source: Shape = common["input_shape"]
    _check_channels(section, source, count, 5 + classes)
    tree = _read_tree(section, classes) if section.has("tree") else None
    return Head(
        **common,
        shape=source,
        kind="region",
        classes=classes,
        anchors=tuple(_read_anchors(section, count)),
        softmax=section.flag("softmax"),
        # get_region_boxes in src/region_layer.c.
        objectness_floor=0.5 if section.integer("classfix", 0) == -1 else 0.0,
        tree=tree,
    )


def _read_detection(section: Section, common: dict[str, Any], classes: int) -> Head:
    side = section.integer("side", 7, 1, 1024)
    count = section.integer("num", 1, 1, _MAX_ANCHORS)
    coords = section.integer("coords", 1)
    if coords != 4:
        section.unsupported(f"coords={coords}: a box has 4 coordinates", "coords")
    source: Shape = common["input_shape"]
    expected = side * side * (5 * count + classes)
    if source.size != expected:
        section.fail(
            f"its input holds {source.size} values; side={side}, num={count} and "
            f"classes={classes} need {expected}"
        )
    return Head(
        **common,
        shape=Shape(5 * count + classes, side, side),
        kind="detection",
        classes=classes,
        anchors=((0.0, 0.0),) * count,
        softmax=section.flag("softmax"),
        square_root=section.flag("sqrt"),
    )


def _check_channels(section: Section, source: Shape, count: int, per_box: int) -> None:
    if source.channels != count * per_box:
        section.fail(
            f"the layer before it has {source.channels} channels (filters=); "
            f"{count} anchors with {per_box} values each need {count * per_box}"
        )


def _read_anchors(section: Section, total: int) -> list[tuple[float, float]]:
    """The first `total` anchors; what is not given is 0.5, as Darknet has it."""
    values = list(section.numbers("anchors", ()))[: 2 * total]
    if section.has("anchors") and len(values) < 2 * total:
        _LOGGER.warning(
            "%s:%d: num=%d needs %d anchor values, got %d; the others are 0.5, as in Darknet",
            *(section.path, section.options["anchors"].line, total, 2 * total, len(values)),
        )
    values += [0.5] * (2 * total - len(values))
    return list(zip(values[::2], values[1::2], strict=True))


def _read_tree(section: Section, classes: int) -> Tree:
    """The class tree file (``read_tree`` in ``src/tree.c``): a name and a parent per line.

    Consecutive lines with the same parent are one group of siblings.
    """
    name = section.text("tree")
    path, outside = find_mentioned(section.path, name)
    if outside is not None:
        section.fail(
            f"its class tree {name[:80]!r} lies outside of the cfg's own folders, and is not "
            "read for a file that may come from anywhere; put a copy beside the cfg",
            "tree",
        )
    if path is None:
        section.fail(f"its class tree {name[:80]!r} is not there; put it beside the cfg", "tree")
    try:
        with open_regular(path) as stream:
            data = stream.read(_MAX_TREE_BYTES + 1)
    except OSError as error:
        section.fail(f"its class tree {path} cannot be read: {error.strerror}", "tree")
    if len(data) > _MAX_TREE_BYTES:
        section.fail(f"its class tree {path} is too large", "tree")
    lines = data.decode("utf-8", errors="replace").splitlines()
    parents: list[int] = []
    sizes: list[int] = []
    for line in (line.split() for line in lines if line.strip()):
        try:
            parent = int(line[1])
        except (IndexError, ValueError):
            section.fail(f"{path}: expected 'name parent', got {' '.join(line)[:40]!r}", "tree")
        if not -1 <= parent < len(parents):
            section.fail(f"{path}: parent {parent} must stand before its child", "tree")
        if parents and parents[-1] == parent:
            sizes[-1] += 1
        else:
            sizes.append(1)
        parents.append(parent)
    if len(parents) != classes:
        section.fail(f"{path} holds {len(parents)} classes, classes={classes}", "tree")
    return Tree(tuple(parents), tuple(sizes))
