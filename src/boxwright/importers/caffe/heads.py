"""What a Caffe network ends in: SSD's DetectionOutput, YOLO's raw maps, or class scores.

SSD follows ``detection_output_layer.cpp`` and ``DecodeBBox`` of ``bbox_util.cpp`` in SSD's
Caffe. The usual form (centres and sizes, one box for all classes) is
:class:`boxwright.graph.heads.Priors`; the others are here.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.card import Head as CardHead
from boxwright.card import Nms
from boxwright.errors import ImportFailedError
from boxwright.graph.heads import Anchors, Priors, Raw, decode
from boxwright.importers.caffe.writer import Blob, Floats, Writer
from boxwright.importers.options import numbers

if TYPE_CHECKING:
    from boxwright.importers.caffe.network import Layer

_LOGGER = logging.getLogger("boxwright")

_CODES = {"CORNER": 1, "CENTER_SIZE": 2, "CORNER_SIZE": 3}
_MAX_CLASSES = 65_536
_MAX_SCORES = 1 << 28

HEAD_TYPES = frozenset(("DetectionOutput", "Yolov3DetectionOutput"))


@dataclass(frozen=True)
class Ending:
    """The decoded end of a network.

    Attributes:
        boxes: Tensors with boxes, head by head.
        scores: Tensors with scores.
        rows: Candidates of all heads.
        classes: Number of classes, without a background.
        background: Which class of the file's own was the background, if any.
        heads: For the card.
        nms: Suppression.
        threshold: Score threshold.
        raw: Names of blobs that enter the decoding, for comparing them with the source.
    """

    boxes: tuple[str, ...]
    scores: tuple[str, ...]
    rows: int
    classes: int
    background: int | None
    heads: tuple[CardHead, ...]
    nms: Nms
    threshold: float
    raw: tuple[str, ...]


def detection_output(writer: Writer, layer: Layer) -> Ending:
    """SSD's last layer."""
    if len(layer.bottoms) != 3:
        layer.unsupported(
            f"it takes locations, confidences and priors, got {len(layer.bottoms)} bottoms "
            "(RefineDet's five are not supported)"
        )
    location, confidence, priors = writer.bottoms(layer, 3)
    param = layer.param(
        *("detection_output_param", "num_classes", "share_location", "background_label_id"),
        *("nms_param", "save_output_param", "code_type", "variance_encoded_in_target"),
        *("keep_top_k", "confidence_threshold", "visualize", "visualize_threshold", "save_file"),
    )
    total = param.integer("num_classes", 0, 1, _MAX_CLASSES)
    shared = param.flag("share_location", True)
    if priors.value is None or len(priors.shape) != 3 or priors.shape[:2] != (1, 2):
        layer.fail("its third bottom must come from PriorBox layers")
    boxes = priors.value[0].reshape(2, -1, 4).astype(np.float64)
    count = boxes.shape[1]
    columns = 4 * (1 if shared else total)
    if location.size != count * columns or confidence.size != count * total:
        layer.fail(
            f"{count} priors and {total} classes need {count * columns} locations and "
            f"{count * total} confidences, got {location.size} and {confidence.size}"
        )
    background = param.integer("background_label_id", 0, -1)
    kept = [number for number in range(total) if number != background]
    if not kept or (not shared and count * len(kept) ** 2 > _MAX_SCORES):
        layer.fail(f"{total} classes, the background among them, cannot be")
    nms_param = param.message("nms_param")
    if nms_param.number("eta", 1.0) != 1:
        _LOGGER.warning("%s: nms_param's eta (an adaptive threshold) is not kept", param.path)
    code = param.choice("code_type", "CORNER", _CODES)
    if param.flag("variance_encoded_in_target", False):
        boxes[1] = 1.0
    ssd = _Ssd(writer, layer, count, total, kept, shared, code)
    names, scores = ssd.decode(location, confidence, boxes)
    rows = count if shared else count * len(kept)
    # The tensor as the network gives it: flat.
    tensor = writer.tensor(layer, location)
    return Ending(
        boxes=(names,),
        scores=(scores,),
        rows=rows,
        classes=len(kept),
        background=background if len(kept) < total else None,
        heads=(CardHead("priors", (1, rows), (), rows, tensor),),
        nms=Nms(iou_threshold=min(1.0, max(0.0, nms_param.number("nms_threshold", 0.3)))),
        threshold=min(1.0, max(0.0, param.number("confidence_threshold", 0.0))),
        raw=layer.bottoms[:2],
    )


@dataclass(frozen=True)
class _Ssd:
    """The decoding of one DetectionOutput layer."""

    writer: Writer
    layer: Layer
    count: int
    total: int
    kept: list[int]
    shared: bool
    code: str

    def decode(self, location: Blob, confidence: Blob, priors: Floats) -> tuple[str, str]:
        """Names of boxes and scores; `priors` are boxes and variances, ``(2, A, 4)``."""
        writer, layer, graph = self.writer, self.layer, self.writer.graph
        _, _, height, width = writer.network.image.shape
        extent = np.array([width, height] * 2, np.float64)
        scores = graph.reshape(
            writer.tensor(layer, confidence), [-1, self.count, self.total], "decode/ssd/classes"
        )
        if len(self.kept) < self.total:
            index = graph.constant("decode/ssd/kept", np.array(self.kept, np.int64))
            scores = graph.add("Gather", [scores, index], "decode/ssd/foreground", axis=2)
        boxes, variances = priors[0] * extent, priors[1]
        usual = self.code == "CENTER_SIZE" and self.shared
        if usual and (variances == variances[0]).all():
            rows = graph.reshape(
                writer.tensor(layer, location), [-1, self.count, 4], "decode/ssd/locations"
            )
            head = Priors(
                classes=len(self.kept),
                activation="none",
                background="none",
                variances=tuple(variances[0].tolist()),
            )
            form = _cxcywh(boxes)
            done = decode(
                *(graph, head, Raw((rows,), (scores,)), (height, width)),
                priors=form,
                name="ssd/priors",
            )
            return done.boxes, done.scores
        return self._general(location, boxes, variances, extent), self._own_rows(scores)

    def _general(self, location: Blob, priors: Floats, variances: Floats, extent: Floats) -> str:
        """Boxes of any code, ``(N, A, 4)``, or of each class: ``(N, A * classes, 4)``."""
        graph, groups = self.writer.graph, 1 if self.shared else self.total
        raw = graph.reshape(
            self.writer.tensor(self.layer, location),
            [-1, self.count, groups, 4],
            "decode/ssd/locations",
        )
        if not self.shared and len(self.kept) < self.total:
            index = graph.constant("decode/ssd/kept", np.array(self.kept, np.int64))
            raw = graph.add("Gather", [raw, index], "decode/ssd/foreground_boxes", axis=2)
        centred = _cxcywh(priors)
        sizes = np.concatenate([centred[:, 2:]] * 2, 1)
        if self.code == "CENTER_SIZE":
            first, second = graph.split(raw, [2, 2], 3, "decode/ssd/box")
            centre = self._affine(
                first, centred[:, 2:] * variances[:, :2], centred[:, :2], "centre"
            )
            power = self._affine(second, variances[:, 2:], None, "power")
            factor = graph.add("Exp", [power], "decode/ssd/exp")
            half = self._affine(factor, centred[:, 2:] / 2, None, "half")
            corners = [
                graph.add(operator, [centre, half], f"decode/ssd/{operator.lower()}")
                for operator in ("Sub", "Add")
            ]
            boxes = graph.add("Concat", corners, "decode/ssd/xyxy", axis=3)
        else:
            # CORNER moves corners by fractions of the image, CORNER_SIZE by those of the prior.
            by = extent[None] if self.code == "CORNER" else sizes
            boxes = self._affine(raw, variances * by, priors, "xyxy")
        rows = self.count * (1 if self.shared else len(self.kept))
        return graph.reshape(boxes, [-1, rows, 4], "decode/ssd/boxes")

    def _own_rows(self, scores: str) -> str:
        """Where each class has a box of its own, each box has a score in one column only."""
        if self.shared:
            return scores
        graph, classes = self.writer.graph, len(self.kept)
        spread = graph.reshape(scores, [-1, self.count, classes, 1], "decode/ssd/spread")
        own = graph.constant("decode/ssd/own", np.eye(classes, dtype=np.float32))
        single = graph.add("Mul", [spread, own], "decode/ssd/single")
        return graph.reshape(single, [-1, self.count * classes, classes], "decode/ssd/scores")

    def _affine(self, x: str, factor: Floats, offset: Floats | None, name: str) -> str:
        graph, name = self.writer.graph, f"decode/ssd/{name}"
        constant = graph.constant(f"{name}/factor", factor[:, None].astype(np.float32))
        if offset is None:
            return graph.add("Mul", [x, constant], name)
        scaled = graph.add("Mul", [x, constant], f"{name}/scaled")
        shift = graph.constant(f"{name}/offset", offset[:, None].astype(np.float32))
        return graph.add("Add", [scaled, shift], name)


def _cxcywh(boxes: Floats) -> Floats:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


@dataclass(frozen=True)
class YoloLevel:
    """One raw map: its blob, the anchors of its cells and how far centres may leave them."""

    blob: str
    anchors: tuple[tuple[float, float], ...]
    scale: float


def yolov3_output(writer: Writer, layer: Layer) -> Ending:
    """``Yolov3DetectionOutput`` of MobileNet-YOLO's Caffe: anchors by masks, level by level."""
    param = layer.param(
        *("yolov3_detection_output_param", "num_classes", "num_box", "confidence_threshold"),
        *("nms_threshold", "biases", "anchors_scale", "mask_group_num", "mask"),
    )
    biases, masks = param.numbers("biases"), param.integers("mask", 0, 4096)
    per_level, levels = param.integer("num_box", 3, 1, 64), len(layer.bottoms)
    pairs = list(zip(biases[::2], biases[1::2], strict=False))
    masks = masks or list(range(len(pairs)))
    scales = param.integers("anchors_scale", 1, 4096)
    if len(masks) != per_level * levels or len(biases) % 2 or max(masks) >= len(pairs):
        param.fail(
            f"{levels} bottoms of num_box {per_level} do not fit {len(masks)} masks of "
            f"{len(pairs)} anchors"
        )
    if scales and len(scales) != levels:
        param.fail(f"{levels} bottoms need as many anchors_scale, got {len(scales)}")
    found = []
    for number, name in enumerate(layer.bottoms):
        own = masks[number * per_level : (number + 1) * per_level]
        _, _, rows, columns = writer.planes(layer, writer.blob(layer, name))
        _, _, height, width = writer.network.image.shape
        # Sizes are fractions of anchors_scale * grid, which is the input's size.
        grown = (
            (width / (scales[number] * columns), height / (scales[number] * rows))
            if scales
            else (1.0, 1.0)
        )
        anchors = tuple((pairs[i][0] * grown[0], pairs[i][1] * grown[1]) for i in own)
        found.append(YoloLevel(name, anchors, 1.0))
    ending = yolo(writer, found, f"{param.path}: {layer.name}")
    if ending.classes != param.integer("num_classes", 20, 1, _MAX_CLASSES):
        param.fail(f"its bottoms have values for {ending.classes} classes", "num_classes")
    return dataclasses.replace(
        ending,
        nms=Nms(iou_threshold=min(1.0, max(0.0, param.number("nms_threshold", 0.45)))),
        threshold=min(1.0, max(0.0, param.number("confidence_threshold", 0.01))),
    )


def yolo(writer: Writer, levels: list[YoloLevel], origin: str) -> Ending:
    """YOLOv3's formulas on raw maps.

    Raises:
        ImportFailedError: A map's channels or grid do not fit its anchors.
    """
    _, _, height, width = writer.network.image.shape
    boxes: list[str] = []
    scores: list[str] = []
    heads: list[CardHead] = []
    classes = rows = 0
    last = writer.network.layers[-1]
    for number, level in enumerate(levels):
        blob = writer.blob(last, level.blob)
        shape = blob.shape
        each = shape[1] // len(level.anchors) if len(shape) == 4 else 0
        if len(shape) != 4 or shape[1] % len(level.anchors) or each < 6:
            raise ImportFailedError(
                f"{origin}: {len(level.anchors)} anchors of 5 values and classes do not fit "
                f"{level.blob[:60]!r} of shape {list(shape)}"
            )
        if classes not in (0, each - 5):
            raise ImportFailedError(f"{origin}: levels of {classes} and {each - 5} classes")
        stride = width // shape[3]
        if (height, width) != (stride * shape[2], stride * shape[3]):
            raise ImportFailedError(
                f"{origin}: a grid of {shape[2]}x{shape[3]} is no even part of {height}x{width}"
            )
        classes = each - 5
        head = Anchors(
            classes=classes,
            anchors=(level.anchors,),
            strides=(stride,),
            size="exp",
            scale=level.scale,
        )
        tensor = writer.tensor(last, blob)
        done = decode(writer.graph, head, Raw((tensor,)), (height, width), name=f"yolo{number}")
        boxes.append(done.boxes)
        scores.append(done.scores)
        heads.extend(done.heads)
        rows += done.rows or 0
    return Ending(
        *(tuple(boxes), tuple(scores), rows, classes, None, tuple(heads)),
        nms=Nms(iou_threshold=0.45),
        threshold=0.25,
        raw=tuple(level.blob for level in levels),
    )


def levels_of_cfg(writer: Writer, blobs: list[str], path: Path) -> tuple[list[YoloLevel], Nms]:
    """The heads of the Darknet cfg that a network was made from, in the order of its maps.

    Raises:
        ImportFailedError: The cfg has other heads, or another input size.
    """
    from boxwright.darknet.heads import read_nms
    from boxwright.darknet.network import read_network

    _, _, height, width = writer.network.image.shape
    network = read_network(path, (height, width))
    heads = network.heads
    if len(heads) != len(blobs):
        raise ImportFailedError(
            f"{path} has {len(heads)} heads, the prototxt {len(blobs)} outputs "
            f"({', '.join(blobs[:8])})"
        )
    levels = []
    for head, blob in zip(heads, blobs, strict=True):
        if head.kind != "yolo" or head.new_coords:
            raise ImportFailedError(
                f"{path}: heads of kind [{head.kind}], or with new_coords, are not supported "
                "behind Caffe; import the Darknet files themselves"
            )
        levels.append(YoloLevel(blob, head.anchors, head.scale_x_y))
    return levels, read_nms(heads[-1].section)


def levels_of_options(blobs: list[str], options: dict[str, Any]) -> list[YoloLevel]:
    """Anchors and scales that the user gave, in the order of the network's outputs.

    Raises:
        ImportFailedError: They are not as many as there are outputs.
    """
    levels = []
    parts = str(options["anchors"]).split("/")
    scales = numbers("scale_xy", options.get("scale_xy", 1))
    if len(parts) != len(blobs) or len(scales) not in (1, len(blobs)):
        raise ImportFailedError(
            f"option anchors has {len(parts)} levels (parted by /) and scale_xy {len(scales)}, "
            f"for {len(blobs)} outputs: {', '.join(blobs[:8])}"
        )
    for number, (part, blob) in enumerate(zip(parts, blobs, strict=True)):
        values = numbers("anchors", part.replace(";", ",").replace(" ", ","))
        if len(values) % 2 or not values or min(values) <= 0:
            raise ImportFailedError(f"option anchors: {part[:60]!r} are no pairs above 0")
        scale = scales[number] if len(scales) > 1 else scales[0]
        if scale <= 0:
            raise ImportFailedError(f"option scale_xy must be above 0, got {scale:g}")
        pairs = tuple(zip(values[::2], values[1::2], strict=True))
        levels.append(YoloLevel(blob, pairs, scale))
    return levels
