"""Priors beside OpenCV, and SSD's and YOLO's decoding beside their formulas."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.card import Nms
from boxwright.errors import CfgError, ImportFailedError, UnsupportedError
from boxwright.importers import import_model, running
from boxwright.model import Model
from tests.importers.caffe.nets import (
    HEIGHT,
    WIDTH,
    Array,
    caffemodel,
    opencv,
    ours,
    picture,
    prototxt,
)
from tests.importers.caffe.test_layers import CONV, CONV_BLOBS, layer, rand

PRIORS = {
    "one size": "min_size: 4",
    "ratios": "min_size: 4 max_size: 9 aspect_ratio: 2 aspect_ratio: 3",
    "ratios, not flipped": "min_size: 4 aspect_ratio: 2 aspect_ratio: 3 flip: false",
    "ratios that repeat": "min_size: 4 aspect_ratio: 2 aspect_ratio: 1 aspect_ratio: 2",
    "several sizes": "min_size: 2 min_size: 4 max_size: 5 max_size: 9 aspect_ratio: 2",
    "clipped": "min_size: 9 clip: true",
    "variances": "min_size: 4 variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2",
    "one variance": "min_size: 4 variance: 0.3",
    "step and offset": "min_size: 4 step: 2 offset: 0.25",
    "two steps": "min_size: 4 step_h: 2 step_w: 3",
}


@pytest.mark.parametrize("name", PRIORS)
def test_priors_beside_opencv(name: str, tmp_path: Path) -> None:
    pool = layer("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", "x", "p")
    # OpenCV has no default for the variance, and clips where nothing is said.
    variance = "" if "variance" in PRIORS[name] else "variance: 0.1"
    variance += "" if "clip" in PRIORS[name] else " clip: false"
    param = f"prior_box_param {{ {PRIORS[name]} {variance} }}"
    body = CONV + pool + layer("PriorBox", param, "p data")
    text = prototxt(body)
    (found,) = ours(tmp_path, text, caffemodel(CONV_BLOBS), ["y"], picture()[None])
    (expected,) = opencv(tmp_path, ["y"], picture())
    # A few float32 roundings of numbers near 1.
    np.testing.assert_allclose(found, expected, atol=5e-7, rtol=0)


def test_sizes_are_cut_to_whole_pixels_as_in_caffe(tmp_path: Path) -> None:
    values = []
    for size in ("min_size: 4.9 max_size: 9.9", "min_size: 4 max_size: 9"):
        body = CONV + layer("PriorBox", f"prior_box_param {{ {size} }}", "x data")
        text = prototxt(body)
        values.append(ours(tmp_path, text, caffemodel(CONV_BLOBS), ["y"], picture()[None])[0])
    np.testing.assert_array_equal(values[0], values[1])


def conv_to(name: str, outputs: int) -> tuple[str, Any]:
    text = (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "p" top: "{name}" '
        f"convolution_param {{ num_output: {outputs} kernel_size: 1 }} }}\n"
        f'layer {{ name: "{name}_perm" type: "Permute" bottom: "{name}" top: "{name}_perm" '
        "permute_param { order: 0 order: 2 order: 3 order: 1 } }\n"
        f'layer {{ name: "{name}_flat" type: "Flatten" bottom: "{name}_perm" '
        f'top: "{name}_flat" }}\n'
    )
    return text, ("Convolution", [rand(outputs, 6, 1, 1) * 0.1, rand(outputs)])


CLASSES = 4
EACH = 3  # priors in a cell


def ssd(
    folder: Path, shared: bool, param: str, variance: str = ""
) -> tuple[Path, Array, Array, Array]:
    """The weights of an SSD, and its locations, confidences and priors for two images."""
    loc, loc_blobs = conv_to("loc", EACH * 4 * (1 if shared else CLASSES))
    conf, conf_blobs = conv_to("conf", EACH * CLASSES)
    body = (
        CONV
        + layer("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", "x", "p")
        + loc
        + conf
        + layer(
            "PriorBox",
            f"prior_box_param {{ min_size: 4 aspect_ratio: 2 {variance} }}",
            "p data",
            "prior",
        )
        + layer(
            "Reshape",
            f"reshape_param {{ shape {{ dim: 0 dim: -1 dim: {CLASSES} }} }}",
            "conf_flat",
            "r",
        )
        + layer("Softmax", "softmax_param { axis: 2 }", "r", "s")
        + layer("Flatten", "", "s", "scores")
    )
    model = caffemodel({**CONV_BLOBS, "loc": loc_blobs, "conf": conf_blobs})
    images = np.stack([picture(seed=0), picture(seed=1)])
    values = ours(folder, prototxt(body), model, ["loc_flat", "scores", "prior"], images)
    body += layer(
        "DetectionOutput",
        f"detection_output_param {{ num_classes: {CLASSES} "
        f"share_location: {str(shared).lower()} {param} }}",
        "loc_flat scores prior",
        "out",
    )
    (folder / "net.prototxt").write_text(prototxt(body))
    loc_value, conf_value, prior = values
    return folder / "net.caffemodel", loc_value, conf_value, prior


def decode_bbox(code: str, t: Array, prior: Array, v: Array) -> Any:
    """``DecodeBBox`` of bbox_util.cpp for one box, in fractions of the image."""
    x0, y0, x1, y1 = prior
    w, h = x1 - x0, y1 - y0
    if code == "CORNER":
        return prior + v * t
    if code == "CORNER_SIZE":
        return prior + v * t * np.array([w, h, w, h])
    cx = v[0] * t[0] * w + (x0 + x1) / 2
    cy = v[1] * t[1] * h + (y0 + y1) / 2
    bw, bh = np.exp(v[2] * t[2]) * w, np.exp(v[3] * t[3]) * h
    return np.array([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2])


FORMS = list(
    itertools.product(
        ("CENTER_SIZE", "CORNER", "CORNER_SIZE"), (True, False), (True, False), (-1, 0, 2, 3)
    )
)


@pytest.mark.parametrize(("code", "shared", "encoded", "background"), FORMS)
def test_ssd_beside_its_formula(
    code: str, shared: bool, encoded: bool, background: int, tmp_path: Path
) -> None:
    param = (
        f"code_type: {code} variance_encoded_in_target: {str(encoded).lower()} "
        f"background_label_id: {background}"
    )
    weights, loc, conf, prior = ssd(tmp_path, shared, param)
    model = import_model(weights, options={"mean": 0, "scale": "1/64"})
    images = np.stack([picture(seed=0), picture(seed=1)])
    found = running.run(model.proto, {"images": images}, ["boxes", "scores"])
    kept = [c for c in range(CLASSES) if c != background]
    priors, variances = prior.astype(np.float64).reshape(2, -1, 4)
    count = len(priors)
    v = np.ones((count, 4)) if encoded else variances
    extent = np.array([WIDTH, HEIGHT] * 2)
    for image in range(2):
        groups = 1 if shared else CLASSES
        t = loc[image].astype(np.float64).reshape(count, groups, 4)
        every = np.array(
            [
                [decode_bbox(code, t[p, g], priors[p], v[p]) for g in range(groups)]
                for p in range(count)
            ]
        )
        scores = conf[image].reshape(count, CLASSES)[:, kept]
        if shared:
            boxes = every[:, 0]
        else:
            boxes = every[:, kept].reshape(-1, 4)
            scores = (scores[:, :, None] * np.eye(len(kept))).reshape(-1, len(kept))
        np.testing.assert_allclose(found["boxes"][image], boxes * extent, atol=2e-4, rtol=0)
        np.testing.assert_allclose(found["scores"][image], scores, atol=1e-6, rtol=0)


def test_variances_that_differ_between_priors(tmp_path: Path) -> None:
    """One head's record has one set of variances; here each half of the priors has its own."""
    _, loc, _, _ = ssd(tmp_path, True, "code_type: CENTER_SIZE")
    halves = "".join(
        layer("Slice", "slice_param { axis: 2 slice_point: 120 }", source, f"{source}_1 {source}_2")
        for source in ("prior", "other")
    )
    other = layer(
        "PriorBox",
        "prior_box_param { min_size: 4 aspect_ratio: 2 variance: 0.3 }",
        "p data",
        "other",
    )
    joined = layer("Concat", "concat_param { axis: 2 }", "prior_1 other_2", "priors")
    text = (tmp_path / "net.prototxt").read_text()
    at = text.index('layer { name: "out"')
    text = text[:at] + other + halves + joined + text[at:].replace('"prior"', '"priors"')
    (tmp_path / "net.prototxt").write_text(text)
    model = import_model(tmp_path / "net.caffemodel", options={"mean": 0, "scale": "1/64"})
    found = running.run(model.proto, {"images": picture()[None]}, ["boxes"])["boxes"][0]
    (tmp_path / "old").mkdir()
    priors = ssd(tmp_path / "old", True, "")[3].astype(np.float64).reshape(2, -1, 4)[0]
    for row, (t, prior) in enumerate(zip(loc[0].reshape(-1, 4), priors, strict=True)):
        variance = np.full(4, 0.1 if row < 30 else 0.3)
        box = decode_bbox("CENTER_SIZE", t.astype(np.float64), prior, variance)
        np.testing.assert_allclose(found[row], box * np.array([WIDTH, HEIGHT] * 2), atol=2e-4)


def test_the_card_of_an_ssd(tmp_path: Path) -> None:
    param = (
        "nms_param { nms_threshold: 0.4 top_k: 9 } confidence_threshold: 0.2 code_type: CENTER_SIZE"
    )
    weights, *_ = ssd(tmp_path, True, param)
    options = {"mean": 0, "scale": 1}
    card = import_model(weights, options=options, names=["bg", "a", "b", "c"]).card
    assert card.class_names == ("a", "b", "c")
    assert card.nms == Nms(iou_threshold=0.4)
    assert card.score_threshold == 0.2
    assert card.family == "test"
    assert card.input_size == (HEIGHT, WIDTH)
    assert import_model(weights, options=options, names=["a", "b", "c"]).card.class_names == (
        *("a", "b", "c"),
    )
    with pytest.raises(ImportFailedError, match="expected 3 class names"):
        import_model(weights, options=options, names=["a", "b"])


def test_an_ssd_survives_its_file(tmp_path: Path) -> None:
    weights, *_ = ssd(tmp_path, True, "code_type: CENTER_SIZE")
    model = import_model(weights, options={"mean": 0, "scale": 1})
    model.save(tmp_path / "net.onnx")
    assert Model.load(tmp_path / "net.onnx").card == model.card


def test_wrong_counts_are_refused(tmp_path: Path) -> None:
    weights, *_ = ssd(tmp_path, True, "code_type: CENTER_SIZE")
    path = tmp_path / "net.prototxt"
    text = path.read_text()
    path.write_text(text.replace(f"num_classes: {CLASSES}", "num_classes: 5"))
    with pytest.raises(CfgError, match=r"out \(DetectionOutput\)\] 105 priors and 5 classes need"):
        import_model(weights, options={"mean": 0, "scale": 1})
    path.write_text(text.replace('bottom: "prior" top: "out"', 'bottom: "x" top: "out"'))
    with pytest.raises(CfgError, match="must come from PriorBox"):
        import_model(weights, options={"mean": 0, "scale": 1})
    path.write_text(text.replace("num_classes:", "objectness_score: 1 num_classes:"))
    with pytest.raises(UnsupportedError, match="objectness_score is not known here"):
        import_model(weights, options={"mean": 0, "scale": 1})


def yolo_row(t: Array, cell: tuple[int, int], stride: float, anchor: Any, scale: float) -> Array:
    """One candidate by YOLOv3's formulas: box, then scores."""

    def sigmoid(x: Array) -> Array:
        return 1 / (1 + np.exp(-x))

    cx = (sigmoid(t[0]) * scale - (scale - 1) / 2 + cell[1]) * stride
    cy = (sigmoid(t[1]) * scale - (scale - 1) / 2 + cell[0]) * stride
    w, h = np.exp(t[2]) * anchor[0], np.exp(t[3]) * anchor[1]
    box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    return np.array([*box, *(sigmoid(t[4]) * sigmoid(t[5:]))])


YOLO_BODY = (
    CONV
    + layer("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", "x", "p")
    + 'layer { name: "big" type: "Convolution" bottom: "p" top: "big" '
    "convolution_param { num_output: 14 kernel_size: 1 } }\n"
    + 'layer { name: "small" type: "Convolution" bottom: "x" top: "small" '
    "convolution_param { num_output: 14 kernel_size: 1 } }\n"
)
YOLO_BLOBS = {
    **CONV_BLOBS,
    "big": ("Convolution", [rand(14, 6, 1, 1) * 0.2, rand(14)]),
    "small": ("Convolution", [rand(14, 6, 1, 1) * 0.2, rand(14) * 0.5]),
}
ANCHORS = (((6.0, 7.0), (8.0, 5.0)), ((2.0, 3.0), (4.0, 1.0)))


def check_yolo(folder: Path, model: Model, scales: tuple[float, float]) -> None:
    image = picture(10, 14)
    tensors = list(model.card.transforms[0].parameters["tensors"].values())
    found = running.run(model.proto, {"images": image[None]}, ["boxes", "scores", *tensors])
    expected = []
    for tensor, anchors, scale, stride in zip(tensors, ANCHORS, scales, (2, 1), strict=True):
        raw = found[tensor][0].astype(np.float64)
        raw = raw.reshape(2, 7, *raw.shape[1:])
        for a, i, j in np.ndindex(2, *raw.shape[2:]):
            expected.append(yolo_row(raw[a, :, i, j], (i, j), stride, anchors[a], scale))
    table = np.array(expected)
    np.testing.assert_allclose(found["boxes"][0], table[:, :4], atol=1e-4, rtol=0)
    np.testing.assert_allclose(found["scores"][0], table[:, 4:], atol=1e-6, rtol=0)


def test_raw_maps_with_anchors_that_the_user_gives(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(prototxt(YOLO_BODY, height=10, width=14))
    weights = tmp_path / "net.caffemodel"
    weights.write_bytes(caffemodel(YOLO_BLOBS))
    options: dict[str, Any] = {"mean": 0, "scale": 1 / 64}
    with pytest.raises(ImportFailedError, match=r"ends in big \[1, 14, 5, 7\], small .*anchors"):
        import_model(weights, options=options)
    options |= {"anchors": "6,7;8,5/2,3;4,1", "scale_xy": "1.1,1.05"}
    model = import_model(weights, options=options)
    assert [head.rows for head in model.card.heads] == [70, 280]
    check_yolo(tmp_path, model, (1.1, 1.05))
    with pytest.raises(ImportFailedError, match="option anchors has 1 levels"):
        import_model(weights, options=options | {"anchors": "6,7;8,5"})
    with pytest.raises(ImportFailedError, match="are no pairs above 0"):
        import_model(weights, options=options | {"anchors": "6,7;8/2,3;4,1"})
    with pytest.raises(ImportFailedError, match="3 anchors of 5 values and classes do not fit"):
        import_model(weights, options=options | {"anchors": "6,7;8,5;1,1/2,3;4,1"})


def test_yolov3_detection_output(tmp_path: Path) -> None:
    end = layer(
        "Yolov3DetectionOutput",
        "yolov3_detection_output_param { num_classes: 2 num_box: 2 confidence_threshold: 0.3 "
        "nms_threshold: 0.5 biases: 2 biases: 3 biases: 4 biases: 1 biases: 6 biases: 7 "
        "biases: 8 biases: 5 mask: 2 mask: 3 mask: 0 mask: 1 anchors_scale: 2 anchors_scale: 1 }",
        "big small",
    )
    (tmp_path / "net.prototxt").write_text(prototxt(YOLO_BODY + end, height=10, width=14))
    weights = tmp_path / "net.caffemodel"
    weights.write_bytes(caffemodel(YOLO_BLOBS))
    model = import_model(weights, options={"mean": 0, "scale": 1 / 64})
    assert model.card.nms.iou_threshold == 0.5
    assert model.card.score_threshold == 0.3
    check_yolo(tmp_path, model, (1.0, 1.0))
