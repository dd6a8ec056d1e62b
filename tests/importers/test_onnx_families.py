"""Every family's exports: the file run as it is, and decoded here in numpy once more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from boxwright.backends import registry
from boxwright.backends.base import BuildSpec
from boxwright.errors import ImportFailedError
from boxwright.importers import choose, import_model, make_request
from boxwright.model import Model
from tests.importers import families
from tests.importers.exports import (
    CELLS,
    CLASSES,
    GRIDS,
    SIZE,
    picture,
    places,
    yolox,
)

Array = NDArray[Any]
NAMES = ("cat", "dog", "cow")
IMAGES = np.stack([picture(seed) for seed in range(3)])
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def unit(image: Array) -> Array:
    return np.asarray(image / 255)


def imagenet(image: Array) -> Array:
    return np.asarray((image / 255 - MEAN) / STD)


def bgr(image: Array) -> Array:
    return np.asarray(image[..., ::-1], np.float64)


def raw(path: Path, fed: Any, outputs: list[str] | None = None) -> list[list[Array]]:
    """The file's own outputs, image by image, on pixels prepared here."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    results = []
    for image in IMAGES:
        feed = np.ascontiguousarray(fed(image).transpose(2, 0, 1)[None].astype(np.float32))
        results.append([np.asarray(v)[0] for v in session.run(outputs, {name: feed})])
    return results


def ours(model: Model, name: str) -> tuple[Array, Array]:
    with registry.get(name).load(model, BuildSpec()) as runner:
        found = runner.infer({"images": IMAGES})
    return found["boxes"], found["scores"]


def same(path: Path, model: Model, boxes: Any, scores: Any) -> None:
    """Within what float32 rounds, through exponentials; and verified against the file."""
    expected = np.asarray(boxes)
    assert np.ptp(expected) > 1, "the test shows nothing"
    for name in ("onnxruntime", "reference", "openvino"):
        if registry.get(name).unavailable() is not None:
            continue
        got_boxes, got_scores = ours(model, name)
        np.testing.assert_allclose(got_boxes, expected, rtol=1e-4, atol=5e-3, err_msg=name)
        np.testing.assert_allclose(got_scores, np.asarray(scores), rtol=1e-4, atol=1e-5)
    request = make_request(path)
    verification = choose(request).verify(request, model)  # type: ignore[attr-defined]
    assert verification.passed, verification


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))))


def softmax(x: Array) -> Array:
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def corners(centred: Array) -> Array:
    cxcy, wh = centred[..., :2], centred[..., 2:4]
    return np.concatenate([cxcy - wh / 2, cxcy + wh / 2], -1)


def expectation(t: Array, bins: int) -> Array:
    return np.asarray((softmax(t.reshape(-1, 4, bins)) * np.arange(bins)).sum(-1))


def around(point: Array, sides: Array) -> Array:
    return np.concatenate([point - sides[:, :2], point + sides[:, 2:]], -1)


def test_yolov5_decoded_with_metadata(tmp_path: Path) -> None:
    path = families.yolov5_decoded().save(tmp_path / "v5.onnx")
    model = import_model(path)
    assert model.card.family == "yolov5"
    assert model.card.class_names == ("cat", "dog", "cow's")
    assert model.card.licence is not None
    assert model.card.licence.startswith("AGPL-3.0")
    values = np.array([v for (v,) in raw(path, unit)], float)
    assert values.shape[1] == 3 * CELLS
    same(path, model, corners(values), values[..., 4:5] * values[..., 5:])


ANCHORS = {8: [(10, 13), (16, 30)], 16: [(30, 61), (62, 45)], 32: [(116, 90), (156, 198)]}
ANCHOR_OPTION = "10,13;16,30/30,61;62,45/116,90;156,198"


@pytest.mark.parametrize("form", ["maps", "anchor_maps"])
def test_yolov5_raw_levels(tmp_path: Path, form: str) -> None:
    path = families.yolov5_levels(form).save(tmp_path / "raw.onnx")
    with pytest.raises(ImportFailedError, match="--head"):
        import_model(path, names=NAMES)
    model = import_model(path, names=NAMES, head="yolov5", options={"anchors": ANCHOR_OPTION})
    boxes, scores = [], []
    for values in raw(path, unit, ["out8", "out16", "out32"]):
        found = []
        for t, stride in zip(values, (8, 16, 32), strict=True):
            if form == "maps":
                t = t.reshape(2, 8, *GRIDS[stride]).transpose(0, 2, 3, 1)
            s = sigmoid(t)
            y, x = np.mgrid[: GRIDS[stride][0], : GRIDS[stride][1]]
            centre = (s[..., :2] * 2 - 0.5 + np.stack([x, y], -1)) * stride
            size = (s[..., 2:4] * 2) ** 2 * np.array(ANCHORS[stride])[:, None, None]
            box = corners(np.concatenate([centre, size], -1))
            found.append((box.reshape(-1, 4), (s[..., 4:5] * s[..., 5:]).reshape(-1, CLASSES)))
        boxes.append(np.concatenate([b for b, _ in found]))
        scores.append(np.concatenate([s for _, s in found]))
    same(path, model, boxes, scores)
    assert [head.grid for head in model.card.heads] == [(8, 12), (4, 6), (2, 3)]
    assert model.card.heads[0].anchors == ((10, 13), (16, 30))


def test_yolox_raw(tmp_path: Path) -> None:
    path = yolox(decoded=False).save(tmp_path / "yolox.onnx")
    model = import_model(path, names=NAMES)
    assert model.card.family == "yolox"
    xy, step = places(8, 16, 32)
    boxes, scores = [], []
    for (t,) in raw(path, bgr):
        t = t.astype(float)
        boxes.append(corners(np.concatenate([(t[:, :2] + xy) * step, np.exp(t[:, 2:4]) * step], 1)))
        scores.append(t[:, 4:5] * t[:, 5:])
    same(path, model, boxes, scores)


def test_decoded_rows_of_one_per_cell_are_asked_about(tmp_path: Path) -> None:
    path = yolox(decoded=True).save(tmp_path / "v6.onnx")
    with pytest.raises(ImportFailedError, match=r"yolov6.*yolox|yolox.*yolov6"):
        import_model(path, names=NAMES)
    for head, fed in (("yolov6", unit), ("yolox", bgr)):
        model = import_model(path, names=NAMES, head=head)
        values = np.array([v for (v,) in raw(path, fed)], float)
        same(path, model, corners(values), values[..., 4:5] * values[..., 5:])


@pytest.mark.parametrize("metadata", [True, False])
def test_yolov8_decoded(tmp_path: Path, metadata: bool) -> None:
    path = families.yolov8_decoded(metadata).save(tmp_path / "v8.onnx")
    model = import_model(path, names=None if metadata else NAMES)
    assert model.card.family == "yolov8"
    values = np.array([v.T for (v,) in raw(path, unit)], float)
    same(path, model, corners(values), values[..., 4:])


@pytest.mark.parametrize("form", ["levels", "columns", "apart"])
def test_yolov8_raw_distributions(tmp_path: Path, form: str) -> None:
    export, options = families.yolov8_distributions(form)
    path = export.save(tmp_path / "v8raw.onnx")
    head = "yolov8" if form != "columns" else None
    model = import_model(path, names=NAMES, head=head, options=options)
    xy, step = places(8, 16, 32)
    expected, scores = [], []
    for values in raw(path, unit):
        flat = [v.reshape(len(v), -1).T for v in values]
        if form == "apart":
            t = np.concatenate([np.concatenate(flat[:3]), np.concatenate(flat[3:])], 1)
        else:
            t = np.concatenate(flat)
        expected.append(around((xy + 0.5) * step, expectation(t[:, :64], 16) * step))
        scores.append(sigmoid(t[:, 64:]))
    same(path, model, expected, scores)


def test_nanodet_plus(tmp_path: Path) -> None:
    path = families.nanodet_plus().save(tmp_path / "nanodet.onnx")
    model = import_model(path, names=NAMES)
    assert model.card.family == "nanodet"
    assert model.card.resize == "stretch"

    def fed(image: Array) -> Array:
        return np.asarray(
            (image[..., ::-1] - np.array([103.53, 116.28, 123.675])) / [57.375, 57.12, 58.395]
        )

    xy, step = places(8, 16, 32, 64)
    boxes, scores = [], []
    for (t,) in raw(path, fed):
        boxes.append(around(xy * step, expectation(t[:, CLASSES:], 8) * step))
        scores.append(t[:, :CLASSES])
    same(path, model, boxes, scores)


def test_picodet(tmp_path: Path) -> None:
    strides = (8, 16, 32, 64)
    path = families.picodet().save(tmp_path / "picodet.onnx")
    model = import_model(path, names=NAMES)
    assert model.card.family == "picodet"
    xy, step = places(*strides)
    expected, chances = [], []
    for values in raw(path, imagenet):
        expected.append(
            around((xy + 0.5) * step, expectation(np.concatenate(values[4:]), 8) * step)
        )
        chances.append(np.concatenate(values[:4]))
    same(path, model, expected, chances)


def test_ssd_decoded_with_background(tmp_path: Path) -> None:
    path = families.ssd().save(tmp_path / "ssd.onnx")
    model = import_model(path, names=NAMES)
    assert model.card.family == "ssd"

    def fed(image: Array) -> Array:
        return np.asarray((image - 127.0) / 128.0)

    values = raw(path, fed, ["boxes", "scores"])
    boxes = [b.astype(float) * [96, 64, 96, 64] for b, _ in values]
    same(path, model, boxes, [s[:, 1:] for _, s in values])


def test_retinanet(tmp_path: Path) -> None:
    strides = (8, 16, 32, 64)
    path = families.retinanet().save(tmp_path / "retina.onnx")
    model = import_model(path, names=NAMES, head="retinanet", options={"strides": "8,16,32,64"})
    priors = []
    for stride in strides:
        for y in range(GRIDS[stride][0]):
            for x in range(GRIDS[stride][1]):
                for ratio in (0.5, 1, 2):
                    for octave in range(3):
                        side = 4 * stride * 2 ** (octave / 3)
                        priors.append(
                            (x * stride, y * stride, side / ratio**0.5, side * ratio**0.5)
                        )
    p = np.array(priors)
    boxes, scores = [], []
    for t, classes in raw(path, imagenet, ["bbox_regression", "cls_logits"]):
        t = t.astype(float)
        size = np.exp(np.minimum(t[:, 2:], np.log(1000 / 16))) * p[:, 2:]
        boxes.append(corners(np.concatenate([p[:, :2] + t[:, :2] * p[:, 2:], size], 1)))
        scores.append(sigmoid(classes))
    same(path, model, boxes, scores)


@pytest.mark.parametrize("family", ["detr", "rtdetr"])
def test_queries(tmp_path: Path, family: str) -> None:
    extra = family == "detr"
    path = families.queries(family).save(tmp_path / "queries.onnx")
    with pytest.raises(ImportFailedError, match="--head"):
        import_model(path, names=NAMES)
    model = import_model(path, names=NAMES, head=family)
    assert model.card.nms.kind == "none"
    assert model.card.resize == "stretch"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found, scores = [], []
    for image in IMAGES:
        pixels = (imagenet if extra else unit)(image).transpose(2, 0, 1)[None].astype(np.float32)
        feed = {"pixel_values": pixels}
        if extra:
            feed["pixel_mask"] = np.ones((1, *SIZE), np.int64)
        logits, box = (np.asarray(v)[0] for v in session.run(None, feed))
        found.append(corners(box.astype(float) * [96, 64, 96, 64]))
        scores.append(softmax(logits)[:, :-1] if extra else sigmoid(logits))
    same(path, model, found, scores)


def test_rtdetr_of_ultralytics(tmp_path: Path) -> None:
    path = families.rtdetr_ultralytics().save(tmp_path / "rtdetr.onnx")
    model = import_model(path)
    assert model.card.family == "rtdetr"
    values = np.array([v for (v,) in raw(path, unit)], float)
    same(path, model, corners(values[..., :4] * [96, 64, 96, 64]), values[..., 4:])


def one_hot(score: Array, label: Array) -> Array:
    return np.asarray(score[:, None] * (label[:, None] == np.arange(CLASSES)))


def test_yolov10(tmp_path: Path) -> None:
    path = families.yolov10().save(tmp_path / "v10.onnx")
    model = import_model(path)
    assert model.card.family == "yolov10"
    assert model.card.nms.kind == "none"
    values = raw(path, unit)
    same(path, model, [v[:, :4] for (v,) in values], [one_hot(v[:, 4], v[:, 5]) for (v,) in values])


def test_four_outputs_of_suppression(tmp_path: Path) -> None:
    path = families.four_outputs().save(tmp_path / "nms.onnx")
    with pytest.raises(ImportFailedError, match="nothing says what it is fed"):
        import_model(path, names=NAMES)
    told = {"scale": "1/255"}
    with pytest.raises(ImportFailedError, match="--names"):
        import_model(path, options=told)
    model = import_model(path, names=NAMES, options=told)
    values = raw(path, unit, ["det_boxes", "det_scores", "det_classes"])
    scores = [one_hot(s, c) for _, s, c in values]
    for rows in scores:
        rows[7:] = 0
    same(path, model, [b for b, _, _ in values], scores)


def test_a_plugin_that_suppresses_is_cut_off(tmp_path: Path) -> None:
    export, twin = families.plugin()
    plain = twin.save(tmp_path / "plain.onnx")
    path = export.save(tmp_path / "plugin.onnx")
    model = import_model(path, names=NAMES, options={"scale": "1/255", "mean": 0, "std": 1})
    values = raw(plain, unit)
    same(path, model, [b for b, _ in values], [sigmoid(s) for _, s in values])
    assert not any(node.domain for node in model.proto.graph.node)
