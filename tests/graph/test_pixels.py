"""What ``pre/`` makes of an image, against the arithmetic that trainers document."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from boxwright.errors import ModelError
from boxwright.graph.builder import GraphBuilder
from boxwright.graph.pixels import PixelFormat, add_pixels

IMAGE = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def run(form: PixelFormat) -> np.ndarray[Any, Any]:
    graph = GraphBuilder("pixels")
    graph.images(4, 6)
    name = add_pixels(graph, form)
    graph.add("Identity", [name], "out")
    graph.output("out", KINDS[form.element], ["N", "a", "b", "c"])
    onnx.checker.check_model(graph.model, full_check=True)
    return np.asarray(
        cast("list[Any]", ReferenceEvaluator(graph.model).run(None, {"images": IMAGE}))[0]
    )


def test_darknet_and_ultralytics_scale_rgb() -> None:
    np.testing.assert_allclose(run(PixelFormat()), IMAGE.transpose(0, 3, 1, 2) / 255, atol=1e-7)


def test_yolox_takes_bgr_as_it_is() -> None:
    got = run(PixelFormat("bgr", scale=1.0))
    np.testing.assert_array_equal(got, IMAGE[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32))


def test_imagenet_statistics_are_by_channel() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    got = run(PixelFormat(mean=mean, std=std))
    np.testing.assert_allclose(got, ((IMAGE / 255 - mean) / std).transpose(0, 3, 1, 2), atol=2e-6)


def test_means_of_bgr_are_in_the_networks_order() -> None:
    got = run(PixelFormat("bgr", scale=1.0, mean=(104.0, 117.0, 123.0), layout="nhwc"))
    np.testing.assert_array_equal(got, IMAGE[..., ::-1].astype(np.float32) - [104, 117, 123])


def test_half_and_bytes() -> None:
    assert run(PixelFormat(element="float16")).dtype == np.float16
    form = PixelFormat(scale=1.0, element="uint8", layout="nhwc")
    np.testing.assert_array_equal(run(form), IMAGE)


def test_grey_is_luma() -> None:
    got = run(PixelFormat("grey", scale=1.0))
    np.testing.assert_allclose(got[:, 0], IMAGE @ [0.299, 0.587, 0.114], atol=1e-4)


@pytest.mark.parametrize(
    "given",
    [
        {"channels": "cmyk"},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"std": (0.0,)},
        {"mean": (1.0, 2.0)},
        {"mean": (float("inf"),)},
        {"element": "uint8"},
        {"layout": "chwn"},
    ],
)
def test_formats_that_cannot_be_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        PixelFormat(**given)
