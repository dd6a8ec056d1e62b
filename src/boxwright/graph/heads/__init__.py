"""Detection heads: what a network's last tensors mean, and the nodes that decode them.

A head is described by one of six frozen records (:data:`Head`), which the card keeps as
JSON; :func:`decode` adds its decoding to a graph, under ``decode/`` and in float32.
Families of detectors differ in the numbers of such a record, not in code:

====================  ==========================================================
record                families
====================  ==========================================================
:class:`Rows`         boxes already decoded: YOLOv5/6/7/8/9/11 as exported, DETR, RT-DETR
:class:`Anchors`      raw levels of YOLOv3/4/5/7
:class:`Grid`         raw YOLOX
:class:`Distances`    FCOS, YOLOv6, and with bins GFL, NanoDet, PicoDet, raw YOLOv8/9/11
:class:`Priors`       SSD, RetinaNet, RetinaFace, EfficientDet
:class:`Selected`     suppressed already: YOLOv10, EfficientNMS-like exports
====================  ==========================================================
"""

from __future__ import annotations

from boxwright.graph.heads.decode import Decoded, Raw, decode
from boxwright.graph.heads.describe import (
    Anchors,
    Distances,
    Grid,
    Head,
    Priors,
    Rows,
    Selected,
    head_from_json,
    head_to_json,
)
from boxwright.graph.heads.priors import anchor_boxes, cells, grid_sizes

__all__ = [
    "Anchors",
    "Decoded",
    "Distances",
    "Grid",
    "Head",
    "Priors",
    "Raw",
    "Rows",
    "Selected",
    "anchor_boxes",
    "cells",
    "decode",
    "grid_sizes",
    "head_from_json",
    "head_to_json",
]
