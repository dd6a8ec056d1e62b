"""Compare imported detectors with a compiled Darknet, candidate by candidate.

Darknet's C code is the reference for what a cfg means. This script loads the same cfg and
weights into a Darknet shared library and into Boxwright, feeds both the same pixels and
compares every candidate's box and scores.

The library is pjreddie's Darknet, which Debian still carries as source::

    apt-get source darknet && cd darknet-0.0.0+git20180914.61c9d02e
    make OPENMP=0 GPU=0 OPENCV=0 OPTS=-O2 libdarknet.so

    python benchmarks/darknet_library.py --library ./libdarknet.so \
        --image dog.png yolov2-tiny.cfg:yolov2-tiny.weights

It knows YOLOv1, v2, 9000 and v3 (not route groups, mish, swish, scale_x_y or new_coords, which it
ignores without a word). It adds its batch-norm epsilon of 1e-6 outside the root, AlexeyAB's
Darknet 1e-5 inside, so agreement is to about 1e-3 in scores, not to the last bit.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright import backends
from boxwright.card import ModelCard
from boxwright.images import load_image
from boxwright.importers import import_model

Floats = NDArray[np.float32]


class Box(ctypes.Structure):
    """``box`` in darknet.h: centre and size."""

    _fields_ = [(name, ctypes.c_float) for name in "xywh"]


class Detection(ctypes.Structure):
    """``detection`` in darknet.h."""

    _fields_ = [
        ("box", Box),
        ("classes", ctypes.c_int),
        ("prob", ctypes.POINTER(ctypes.c_float)),
        ("mask", ctypes.POINTER(ctypes.c_float)),
        ("objectness", ctypes.c_float),
        ("sort_class", ctypes.c_int),
    ]


class Darknet:
    """One network in a Darknet library."""

    def __init__(self, library: Path, cfg: Path, weights: Path) -> None:
        self.c = ctypes.CDLL(str(library.resolve()))
        self.c.load_network.restype = ctypes.c_void_p
        self.c.load_network.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
        self.c.set_batch_network.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self.c.network_predict.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_float)]
        self.c.network_predict.restype = ctypes.POINTER(ctypes.c_float)
        self.c.get_network_boxes.restype = ctypes.POINTER(Detection)
        self.c.get_network_boxes.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_float,
            ctypes.c_float,
            ctypes.POINTER(ctypes.c_int),
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_int),
        ]
        self.network = self.c.load_network(str(cfg).encode(), str(weights).encode(), 0)
        self.c.set_batch_network(self.network, 1)

    def candidates(
        self, image: NDArray[np.uint8], classes: int, threshold: float
    ) -> tuple[Floats, Floats]:
        """Boxes ``(n, 4)`` (relative `cxcywh`) and scores ``(n, classes)`` above a threshold."""
        planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / np.float32(255)
        self.c.network_predict(self.network, planes.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
        height, width = image.shape[:2]
        count = ctypes.c_int(0)
        found = self.c.get_network_boxes(
            self.network, width, height, threshold, 0.5, None, 1, ctypes.byref(count)
        )
        rows = [found[i] for i in range(count.value)]
        boxes = np.array([[getattr(row.box, name) for name in "xywh"] for row in rows], np.float32)
        # Only [yolo] fills in the number of classes; the array always has that length.
        scores = np.array(
            [np.ctypeslib.as_array(row.prob, (classes,)).copy() for row in rows], np.float32
        )
        return boxes.reshape(-1, 4), scores.reshape(len(rows), -1)


def compare(
    library: Path, cfg: Path, weights: Path, picture: Path, threshold: float
) -> dict[str, Any]:
    """Largest differences over all candidates that either side finds."""
    model = import_model(weights, cfg=cfg)
    height, width = model.card.input_size
    pixels: NDArray[np.uint8] = np.asarray(
        cv2.resize(load_image(picture), (width, height)), np.uint8
    )
    with backends.load(model, backend="onnxruntime") as runner:
        out = runner.infer({"images": pixels[None]})
    boxes, scores = out["boxes"][0], out["scores"][0].copy()
    scores[scores <= threshold] = 0
    side = np.array([width, height] * 2, np.float32)
    low, high = boxes[:, :2] / side[:2], boxes[:, 2:] / side[2:]
    ours = np.concatenate([(low + high) / 2, high - low], axis=1)
    darknet = Darknet(library, cfg, weights)
    their_boxes, their_scores = darknet.candidates(pixels, scores.shape[1], threshold)
    their_boxes, their_scores = _in_our_order(model.card, their_boxes, their_scores)
    if len(their_boxes) != len(ours):
        # YOLOv3 heads only list candidates whose objectness exceeds the threshold, and the
        # scores say which those are as long as some class exceeds it too.
        their_boxes, their_scores = _drop_empty(their_boxes, their_scores)
        ours, scores = _drop_empty(ours, scores)
    result: dict[str, Any] = {"cfg": cfg.name, "ours": len(ours), "darknet": len(their_boxes)}
    if len(ours) == len(their_boxes):
        kept = their_scores.max(axis=1, initial=0) > 0
        result["candidates"] = int((their_scores > 0).sum())
        result["score_error"] = float(np.abs(scores - their_scores).max(initial=0))
        result["box_error"] = float(np.abs(ours - their_boxes)[kept].max(initial=0))
    return result


def _in_our_order(card: ModelCard, boxes: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """YOLOv1 boxes come in pixels; YOLOv2's come anchor by anchor instead of cell by cell."""
    head, (height, width) = card.heads[0], card.input_size
    if head.kind == "detection":
        side = np.array([width, height] * 2, np.float32)
        return np.divide(boxes, side, dtype=np.float32), scores
    if head.kind == "region":
        order = np.arange(len(boxes)).reshape(len(head.anchors), -1).T.ravel()
        return boxes[order], scores[order]
    return boxes, scores


def _drop_empty(boxes: Floats, scores: Floats) -> tuple[Floats, Floats]:
    kept = scores.max(axis=1, initial=0) > 0
    return boxes[kept], scores[kept]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, required=True, help="path of libdarknet.so")
    parser.add_argument("--image", type=Path, required=True, help="a picture, any size")
    parser.add_argument("--threshold", type=float, default=0.005)
    parser.add_argument("networks", nargs="+", metavar="CFG:WEIGHTS")
    arguments = parser.parse_args()
    for item in arguments.networks:
        cfg, _, weights = item.partition(":")
        result = compare(
            arguments.library, Path(cfg), Path(weights), arguments.image, arguments.threshold
        )
        print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
