"""What each family of detectors is fed and how it is suppressed, where a file does not say.

These are the conventions of the repositories that train and export them; each names its
source. They hold for weights trained as published: options override every one. A network
gets the same whatever file it comes in, so every importer takes them from here.

Suppression is that of a family's *detection* program, for a card is about putting a
detector to work. Two families of programs differ in whether a candidate may count for
several classes (:attr:`~boxwright.card.Nms.multi_label`):

- YOLOv5 to v9, v11 and YOLOX give a candidate its best class. All but YOLOX do otherwise
  in their *validation*, because it raises AP (ultralytics/yolov5, pull request 2252: one
  label when detecting, several when validating); evaluation can be told to
  (``boxwright eval --multi-label``).
- SSD, RetinaNet, NanoDet and PP-PicoDet suppress class by class: several.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from boxwright.card import Nms, Resize
from boxwright.errors import ImportFailedError
from boxwright.graph.pixels import PixelFormat

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_NONE = Nms(kind="none", multi_label=False)
_BEST_CLASS = Nms(multi_label=False)


@dataclass(frozen=True)
class Family:
    """Conventions of a family.

    Attributes:
        name: As in ``--head``.
        title: For people.
        pixels: What it is fed.
        resize: How images are brought to its size.
        nms: Its suppression.
        score_threshold: Its usual one.
        pad_value: Of letterbox borders.
        source: Where this is written.
    """

    name: str
    title: str
    pixels: PixelFormat = field(default_factory=PixelFormat)
    resize: Resize = "letterbox"
    nms: Nms = field(default_factory=Nms)
    score_threshold: float = 0.25
    pad_value: int = 114
    source: str = ""


# GitHub owner/name of what is published; data/transforms of their inference scripts.
_ULTRALYTICS = "documentation of Ultralytics' exports"
_IMAGENET = PixelFormat(mean=_IMAGENET_MEAN, std=_IMAGENET_STD)
_NANODET = PixelFormat(
    "bgr", scale=1.0, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395)
)

_TABLE = (
    Family("yolov5", "YOLOv5, anchors and objectness", nms=_BEST_CLASS, source=_ULTRALYTICS),
    Family("yolov6", "YOLOv6", nms=_BEST_CLASS, source="meituan/YOLOv6"),
    Family(
        "yolov7",
        "YOLOv7, anchors and objectness",
        nms=_BEST_CLASS,
        source="WongKinYiu/yolov7",
    ),
    Family(
        "yolov8",
        "YOLOv8, v9, v11, v5u: no objectness",
        nms=Nms(iou_threshold=0.7, multi_label=False),
        source=_ULTRALYTICS,
    ),
    Family("yolov10", "YOLOv10, end to end", nms=_NONE, source="THU-MIG/yolov10"),
    Family(
        "yolox",
        "YOLOX",
        PixelFormat("bgr", scale=1.0),
        nms=_BEST_CLASS,
        source="Megvii-BaseDetection/YOLOX, demo/ONNXRuntime",
    ),
    Family(
        "nanodet",
        "NanoDet-Plus",
        _NANODET,
        resize="stretch",
        nms=Nms(iou_threshold=0.6),
        score_threshold=0.35,
        source="RangiLyu/nanodet",
    ),
    Family(
        "picodet",
        "PP-PicoDet without its post-processing",
        _IMAGENET,
        resize="stretch",
        nms=Nms(iou_threshold=0.6),
        score_threshold=0.4,
        source="PaddlePaddle/PaddleDetection, deploy/third_engine/demo_onnxruntime",
    ),
    Family(
        "ssd",
        "SSD whose boxes are decoded",
        PixelFormat(scale=1.0, mean=(127.0,), std=(128.0,)),
        resize="stretch",
        source="qfgaohao/pytorch-ssd and what was made of it",
    ),
    Family(
        "retinanet",
        "RetinaNet with the paper's anchors",
        _IMAGENET,
        nms=Nms(iou_threshold=0.5),
        source="Lin et al. 2017",
    ),
    Family(
        "detr",
        "DETR: queries, softmax with no-object",
        _IMAGENET,
        resize="stretch",
        nms=_NONE,
        score_threshold=0.5,
        source="facebookresearch/detr",
    ),
    Family(
        "rtdetr",
        "RT-DETR: queries, sigmoid",
        resize="stretch",
        nms=_NONE,
        score_threshold=0.5,
        source="lyuwenyu/RT-DETR",
    ),
    Family("end2end", "suppressed inside the graph", nms=_NONE, source=""),
)


FAMILIES = {family.name: family for family in _TABLE}

# Anchors of networks trained on COCO at 640, (width, height) in pixels, by level.
COCO_ANCHORS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "yolov5": (
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    ),
    "yolov7": (
        ((12, 16), (19, 36), (40, 28)),
        ((36, 75), (76, 55), (72, 146)),
        ((142, 110), (192, 243), (459, 401)),
    ),
}

# Words people use for a family that is another's.
_OTHER_NAMES = {
    "yolov9": "yolov8",
    "yolov11": "yolov8",
    "yolo11": "yolov8",
    "yolov5u": "yolov8",
    "rt-detr": "rtdetr",
    "nanodet-plus": "nanodet",
    "efficientnms": "end2end",
}


def find_family(name: str) -> Family:
    """The family called `name`.

    Raises:
        ImportFailedError: None is.
    """
    word = _OTHER_NAMES.get(name.lower(), name.lower())
    if word not in FAMILIES:
        near = difflib.get_close_matches(word, FAMILIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ImportFailedError(f"unknown head {name!r}; known: {', '.join(FAMILIES)}{hint}")
    return FAMILIES[word]
