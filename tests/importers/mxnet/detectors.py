"""Small detectors as MXNet's SSD example and GluonCV put them together, run by MXNet.

As ``symbols.py``, for whole detectors: their last operators are those that suppress, and
what these keep is what ours must detect.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 64
CLASSES = 3
BATCH = 2


def _backbone(s: Any) -> tuple[Any, Any]:
    """Planes at strides 8 and 16."""
    x = s.var("data", shape=(0, 3, SIZE, SIZE))
    for i in range(3):
        x = s.Convolution(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_filter=8)
        x = s.Activation(s.BatchNorm(x, fix_gamma=False), act_type="relu", name=f"relu{i}")
    deep = s.Convolution(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_filter=8, name="deep")
    return x, s.Activation(deep, act_type="relu")


def _flat(s: Any, x: Any, filters: int, name: str) -> Any:
    head = s.Convolution(x, kernel=(3, 3), pad=(1, 1), num_filter=filters, name=name)
    return s.flatten(s.transpose(head, axes=(0, 2, 3, 1)))


def mxnet_ssd(s: Any) -> Any:
    """As ``example/ssd/symbol/common.py``."""
    scores, boxes, anchors = [], [], []
    for i, x in enumerate(_backbone(s)):
        scores.append(_flat(s, x, 4 * (CLASSES + 1), f"scores{i}"))
        boxes.append(_flat(s, x, 4 * 4, f"boxes{i}"))
        anchors.append(
            s.flatten(
                s.contrib.MultiBoxPrior(x, sizes=(0.2 + i / 4, 0.3 + i / 4), ratios=(1, 2, 0.5))
            )
        )
    classes = s.reshape(s.concat(*scores, dim=1), shape=(0, -1, CLASSES + 1))
    classes = s.SoftmaxActivation(s.transpose(classes, axes=(0, 2, 1)), mode="channel")
    return s.contrib.MultiBoxDetection(
        classes,
        s.concat(*boxes, dim=1),
        s.reshape(s.concat(*anchors, dim=1), shape=(0, -1, 4)),
        name="detection",
        nms_threshold=0.45,
        threshold=0.01,
        variances=(0.1, 0.1, 0.2, 0.2),
    )


def gluoncv_ssd(s: Any) -> Any:
    """As ``gluoncv/model_zoo/ssd/ssd.py``."""
    scores, boxes, anchors = [], [], []
    for i, x in enumerate(_backbone(s)):
        scores.append(_flat(s, x, 2 * (CLASSES + 1), f"scores{i}"))
        boxes.append(_flat(s, x, 2 * 4, f"boxes{i}"))
        grid = s.var(f"anchors{i}", shape=(1, 1, 16, 16 * 8))
        grid = s.slice_like(
            s.reshape(grid, shape=(1, 16, 16, 8)),
            s.transpose(x * 0, axes=(0, 2, 3, 1)),
            axes=(1, 2),
        )
        anchors.append(s.reshape(grid, shape=(1, -1)))
    table = s.softmax(s.reshape(s.concat(*scores, dim=1), shape=(0, -1, CLASSES + 1)), axis=-1)
    deltas = s.reshape(s.concat(*boxes, dim=1), shape=(0, -1, 4))
    priors = s.reshape(s.concat(*anchors, dim=1), shape=(1, -1, 4))
    corners = s.contrib.box_decode(deltas, priors, 0.1, 0.1, 0.2, 0.2, format="center")
    final = s.slice_axis(table, axis=-1, begin=1, end=None)
    template = s.zeros_like(s.slice_axis(final, axis=-1, begin=0, end=1))
    ids = s.concat(*[template + i for i in range(CLASSES)], dim=-1)
    mask = final > 0.01
    ids = s.where(mask, ids, s.ones_like(ids) * -1)
    kept = s.where(mask, final, s.zeros_like(final))
    rows = [
        s.concat(
            s.slice_axis(ids, axis=-1, begin=i, end=i + 1),
            s.slice_axis(kept, axis=-1, begin=i, end=i + 1),
            corners,
            dim=-1,
        )
        for i in range(CLASSES)
    ]
    return _suppressed(s, s.concat(*rows, dim=1))


def gluoncv_yolo3(s: Any) -> Any:
    """As ``gluoncv/model_zoo/yolo/yolo3.py``, in two heads."""
    parts = []
    for i, (x, stride) in enumerate(zip(_backbone(s), (8, 16))):  # noqa: B905 - older Pythons
        values = 5 + CLASSES
        raw = s.Convolution(x, kernel=(1, 1), num_filter=2 * values, name=f"head{i}")
        raw = s.transpose(s.reshape(raw, shape=(0, 2 * values, -1)), axes=(0, 2, 1))
        raw = s.reshape(raw, shape=(0, -1, 2, values))
        offsets = s.slice_like(s.var(f"offsets{i}", shape=(1, 1, 16, 16, 2)), x * 0, axes=(2, 3))
        offsets = s.reshape(offsets, shape=(1, -1, 1, 2))
        centre = s.sigmoid(s.slice_axis(raw, axis=-1, begin=0, end=2))
        centre = s.broadcast_add(centre, offsets) * stride
        extent = s.exp(s.slice_axis(raw, axis=-1, begin=2, end=4))
        extent = s.broadcast_mul(extent, s.var(f"sides{i}", shape=(1, 1, 2, 2)))
        objectness = s.sigmoid(s.slice_axis(raw, axis=-1, begin=4, end=5))
        classes = s.sigmoid(s.slice_axis(raw, axis=-1, begin=5, end=None))
        classes = s.broadcast_mul(classes, objectness)
        boxes = s.concat(centre - extent / 2, centre + extent / 2, dim=-1)
        tiled = s.tile(boxes, reps=(CLASSES, 1, 1, 1, 1))
        scores = s.expand_dims(s.transpose(classes, axes=(3, 0, 1, 2)), axis=-1)
        numbers = s.reshape(s.arange(0, CLASSES), shape=(0, 1, 1, 1, 1))
        ids = s.broadcast_add(scores * 0, numbers)
        joined = s.concat(ids, scores, tiled, dim=-1)
        parts.append(s.reshape(s.transpose(joined, axes=(1, 0, 2, 3, 4)), shape=(0, -1, 6)))
    return _suppressed(s, s.concat(*parts, dim=1))


def _suppressed(s: Any, rows: Any) -> Any:
    kept = s.contrib.box_nms(
        rows,
        overlap_thresh=0.45,
        valid_thresh=0.01,
        topk=-1,
        id_index=0,
        score_index=1,
        coord_start=2,
    )
    return s.Group(
        [s.slice_axis(kept, axis=-1, begin=a, end=b) for a, b in ((0, 1), (1, 2), (2, 6))]
    )


DETECTORS = {"mxnet_ssd": mxnet_ssd, "gluoncv_ssd": gluoncv_ssd, "gluoncv_yolo3": gluoncv_yolo3}


def _weight(name: str, size: tuple[int, ...], chance: Any) -> Any:
    if name.startswith("offsets"):
        x, y = np.meshgrid(np.arange(16), np.arange(16))
        return np.stack([x, y], -1).reshape(size)
    if name.startswith("anchors"):
        x, y = np.meshgrid(np.arange(16) * 8.0 + 4, np.arange(16) * 8.0 + 4)
        cells = [np.stack([x, y, x * 0 + side, y * 0 + side / 2], -1) for side in (12, 25)]
        return np.concatenate(cells, -1).reshape(size)
    if name.startswith("sides"):
        return chance.uniform(8, 30, size)
    if name.endswith(("var", "gamma")):
        return chance.uniform(0.5, 1.5, size)
    if len(size) < 4:
        return chance.normal(0, 0.1, size)
    # Small where pixels enter and where boxes leave, so that nothing saturates.
    scale = 0.005 if size[1] == 3 else 0.1 if name.startswith(("boxes", "head")) else 0.25
    return chance.normal(0, scale, size)


def main(worker_path: str, folder: str) -> None:
    """Write every detector."""
    spec = importlib.util.spec_from_file_location("worker", worker_path)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    mxnet = worker.load_mxnet()
    for name, make in DETECTORS.items():
        symbol = make(mxnet.sym)
        chance = np.random.default_rng(5)
        shapes, _, auxiliary = symbol.infer_shape(data=(BATCH, 3, SIZE, SIZE))
        named = [("arg", *pair) for pair in zip(symbol.list_arguments(), shapes)]  # noqa: B905
        named += [("aux", *pair) for pair in zip(symbol.list_auxiliary_states(), auxiliary)]  # noqa: B905
        weights = {
            f"{kind}:{key}": mxnet.nd.array(_weight(key, size, chance))
            for kind, key, size in named
            if key != "data"
        }
        pixels = chance.integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype(np.uint8)
        mean, std = np.array([123.0, 117, 104]), np.ones(3)
        if name.startswith("gluoncv"):
            mean, std = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])
        planes = ((pixels - mean) / std).transpose(0, 3, 1, 2)
        outputs = worker.run(mxnet, symbol, weights, {"data": planes.astype(np.float32)})
        symbol.save(f"{folder}/{name}-symbol.json")
        mxnet.nd.save(f"{folder}/{name}-0000.params", weights)
        np.savez(Path(folder, f"{name}.npz"), pixels, *outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
