"""Whole exports of random weights, one for each family and form that the ONNX importer reads."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tests.importers.exports import (
    CLASSES,
    GRIDS,
    SIZE,
    Export,
    ultralytics,
)


def yolov5_decoded() -> Export:
    export = ultralytics(Export(), "YOLOv5n")
    del export.metadata["task"], export.metadata["description"], export.metadata["author"]
    parts = [
        export.op(
            "Reshape",
            export.op(
                "Transpose",
                export.op(
                    "Reshape",
                    export.op("Sigmoid", export.level(s, 3 * 8)),
                    export.constant([1, 3, 8, *GRIDS[s]], np.int64),
                ),
                perm=[0, 1, 3, 4, 2],
            ),
            export.constant([1, -1, 8], np.int64),
        )
        for s in (8, 16, 32)
    ]
    joined = export.joined(parts, 1)
    export.op("Mul", joined, export.constant([96, 64, 50, 50, 1, 1, 1, 1]), output="output0")
    export.give("output0")
    return export


def yolov5_levels(form: str) -> Export:
    """`form` is maps or anchor_maps."""
    export = Export()
    for stride in (32, 8, 16):  # in no order
        maps = export.level(stride, 2 * 8)
        if form == "anchor_maps":
            shape = export.constant([1, 2, 8, *GRIDS[stride]], np.int64)
            maps = export.op("Reshape", maps, shape)
            maps = export.op("Transpose", maps, perm=[0, 1, 3, 4, 2])
        export.give(export.op("Identity", maps, output=f"out{stride}"))
    return export


def yolov8_decoded(metadata: bool) -> Export:
    export = ultralytics(Export()) if metadata else Export()
    joined = export.joined([export.columns(export.level(s, 7), 7) for s in (8, 16, 32)], 2)
    scaled = export.op("Mul", export.op("Sigmoid", joined), export.constant(
        np.array([96, 64, 50, 50, 1, 1, 1])[None, :, None]))  # fmt: skip
    export.op("Identity", scaled, output="output0")
    export.give("output0")
    return export


def yolov8_distributions(form: str) -> tuple[Export, dict[str, str]]:
    """`form` is levels, columns or apart; with the options that the import needs."""
    export = Export()
    boxes = {s: export.level(s, 64) for s in (8, 16, 32)}
    classes = {s: export.level(s, CLASSES) for s in (8, 16, 32)}
    options = {}
    if form == "apart":
        export.give(*boxes.values(), *classes.values())
        options = {"boxes": ",".join(boxes.values()), "scores": ",".join(classes.values())}
    else:
        whole = [export.joined([boxes[s], classes[s]], 1) for s in (8, 16, 32)]
        if form == "columns":
            whole = [export.joined([export.columns(maps, 67) for maps in whole], 2)]
        export.give(*whole)
    return export, options


def nanodet(export: Export, strides: tuple[int, ...]) -> list[str]:
    parts = []
    for stride in strides:
        classes = export.op("Sigmoid", export.level(stride, CLASSES))
        parts.append(export.columns(export.joined([classes, export.level(stride, 32)], 1), 35))
    return parts


def nanodet_plus() -> Export:
    export = Export(image="data")
    joined = export.joined(nanodet(export, (8, 16, 32, 64)), 2)
    export.give(export.op("Transpose", joined, perm=[0, 2, 1], output="output"))
    return export


def picodet() -> Export:
    export = Export(image="image")
    strides = (8, 16, 32, 64)
    scores = [export.rows(export.op("Sigmoid", export.level(s, CLASSES)), CLASSES) for s in strides]
    boxes = [export.rows(export.level(s, 32), 32) for s in strides]
    export.give(*scores, *boxes)
    return export


def ssd() -> Export:
    export = Export(image="input")
    logits = export.rows(export.level(8, CLASSES + 1), CLASSES + 1)
    export.op("Softmax", logits, axis=2, output="scores")
    low = export.op("Sigmoid", export.rows(export.level(8, 2), 2))
    high = export.op("Add", low, export.op("Sigmoid", export.rows(export.level(8, 2), 2)))
    export.joined([low, high], 2, output="boxes")
    export.give("scores", "boxes")
    return export


def retinanet() -> Export:
    export = Export()
    strides = (8, 16, 32, 64)

    def rows(stride: int, values: int) -> str:
        maps = export.level(stride, 9 * values)
        cells = export.op("Transpose", maps, perm=[0, 2, 3, 1])
        return export.op("Reshape", cells, export.constant([1, -1, values], np.int64))

    export.joined([rows(s, CLASSES) for s in strides], 1, output="cls_logits")
    export.joined([rows(s, 4) for s in strides], 1, output="bbox_regression")
    export.give("cls_logits", "bbox_regression")
    return export


def queries(family: str) -> Export:
    """`family` is detr or rtdetr."""
    export = Export(image="pixel_values")
    extra = family == "detr"
    export.op(
        "Identity", export.rows(export.level(8, CLASSES + extra), CLASSES + extra), output="logits"
    )
    export.op("Sigmoid", export.rows(export.level(8, 4), 4), output="pred_boxes")
    export.give("logits", "pred_boxes")
    if extra:
        export.inputs.append(
            helper.make_tensor_value_info("pixel_mask", TensorProto.INT64, [1, *SIZE])
        )
        # Used, and of no influence: all of the image is there.
        ones = export.op("Cast", "pixel_mask", to=TensorProto.FLOAT)
        largest = export.op("ReduceMax", ones, keepdims=0)
        boxes = export.op("Mul", "pred_boxes", largest, output="masked_boxes")
        del export.outputs[1]
        export.give(boxes)
    return export


def rtdetr_ultralytics() -> Export:
    export = ultralytics(Export(), "Ultralytics RT-DETR-l model")
    export.give(export.op("Sigmoid", export.rows(export.level(8, 7), 7), output="output0"))
    return export


def selected(export: Export) -> tuple[str, str, str]:
    """Boxes, scores and classes of 24 rows."""
    low = export.op(
        "Mul", export.op("Sigmoid", export.rows(export.level(16, 2), 2)), export.constant(50)
    )
    high = export.op("Add", low, export.constant(30))
    boxes = export.joined([low, high], 2)
    chances = export.op("Sigmoid", export.rows(export.level(16, CLASSES), CLASSES))
    score = export.op("ReduceMax", chances, axes=[2], keepdims=1)
    label = export.op(
        "Cast", export.op("ArgMax", chances, axis=2, keepdims=1), to=TensorProto.FLOAT
    )
    return boxes, score, label


def yolov10() -> Export:
    export = ultralytics(Export())
    export.give(export.joined([*selected(export)], 2, output="output0"))
    return export


def four_outputs() -> Export:
    export = Export()
    boxes, score, label = selected(export)
    shape = export.constant([1, -1], np.int64)
    export.op("Identity", boxes, output="det_boxes")
    export.op("Reshape", score, shape, output="det_scores")
    export.op(
        "Cast", export.op("Reshape", label, shape), to=TensorProto.INT32, output="det_classes"
    )
    # Seven rows count, whatever the image is.
    axes = export.constant([1, 2], np.int64)
    few = export.op("ReduceSum", export.op("Mul", score, export.constant(0)), axes, keepdims=1)
    seven = export.op("Add", export.op("Reshape", few, shape), export.constant(7))
    export.op("Cast", seven, to=TensorProto.INT32, output="num_dets")
    export.give("det_boxes", "det_scores")
    export.give("det_classes", "num_dets", element=TensorProto.INT32)
    return export


def plugin() -> tuple[Export, Export]:
    """An export that ends in TensorRT's plugin, and what it is fed as an export by itself."""
    export = Export()
    low = export.op("Mul", export.rows(export.level(8, 2), 2), export.constant(20))
    boxes = export.joined([low, export.op("Add", low, export.constant(9))], 2)
    logits = export.rows(export.level(8, CLASSES), CLASSES)
    names = ["num_dets", "det_boxes", "det_scores", "det_classes"]
    twin = Export()
    twin.nodes, twin.weights = list(export.nodes), export.weights
    twin.give(boxes, logits)
    export.nodes.append(
        helper.make_node(
            *("EfficientNMS_TRT", [boxes, logits], names),
            domain="TRT",
            score_activation=1,
            box_coding=0,
            background_class=-1,
        )
    )
    export.domains.append(helper.make_opsetid("TRT", 1))
    export.give(*names)
    return export, twin
