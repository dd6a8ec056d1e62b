"""Every model that tests import: real ones, and small ones in the form of each family.

One table for tests that must hold for whatever was imported: that TensorRT-RTX builds it,
that backends agree on it. An entry says how its model is had; what it needs and is not
there (a folder of fixtures, PyTorch, MXNet) makes the test skip, saying so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from boxwright.importers import import_model
from boxwright.model import Model
from tests.importers import families
from tests.importers.exports import Export, yolox

Images = NDArray[np.uint8]

PHOTOS = ("dog", "bus", "zidane", "person", "eagle")
NANO = "MobileNetV2-YOLOv3-Nano-voc"
FASTEST = "darknet/yolo-fastest/yolo-fastest-1.1"
VOC = tuple(f"voc {number}" for number in range(20))
ABC = ("cat", "dog", "cow")
GOLDEN = Path(__file__).parent / "tensorflow" / "golden"
GOLDEN_HEAD = {"box": "yxyx", "normalised": True, "activation": "none", "background": "none"}


class Sources:
    """Where entries find what they import."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._request = request
        self.folder = folder

    @property
    def fixtures(self) -> Path:
        """Real models, photos and labels."""
        path: Path = self._request.getfixturevalue("fixtures_dir")
        return path

    def photos(self, size: tuple[int, int]) -> Images:
        """Real photos stretched to (height, width)."""
        read = [cv2.imread(str(self.fixtures / "photos" / f"{name}.jpg")) for name in PHOTOS]
        resized = [cv2.resize(image, size[::-1])[..., ::-1] for image in read if image is not None]
        return np.ascontiguousarray(np.stack(resized).astype(np.uint8))


@dataclass(frozen=True)
class Entry:
    """One imported model.

    Attributes:
        name: For the test's name: format, then what it is.
        load: Imports it.
        real: It was trained: photos show more than noise.
        heavy: Seconds an image on a CPU: where it has to run often, only in the slow tests.
        quantised: It rounds between its layers, so that two backends differ by steps.
        refused: Why TensorRT-RTX must refuse it: what its message has, and the finding's code.
        cure: The pass that makes it acceptable then.
    """

    name: str
    load: Callable[[Sources], Model]
    real: bool = False
    heavy: bool = False
    quantised: bool = False
    refused: tuple[str, str] | None = None
    cure: str = ""


def _real(path: str, **options: Any) -> Callable[[Sources], Model]:
    """One of the files of the fixtures."""
    return lambda sources: import_model(sources.fixtures / path, **options)


def _caffe_nano(sources: Sources) -> Model:
    folder = sources.fixtures / "caffe" / NANO.lower()
    options = {"darknet_cfg": str(folder / f"{NANO}.cfg")}
    return import_model(folder / f"{NANO}.caffemodel", names=VOC, options=options)


def _golden(name: str, **options: Any) -> Callable[[Sources], Model]:
    return lambda _: import_model(
        GOLDEN / name, head="ssd", names=list("abc"), options=GOLDEN_HEAD | options
    )


def _export(
    make: Callable[[], Export | tuple[Export, Any]], **options: Any
) -> Callable[[Sources], Model]:
    """An ONNX file of an export, imported with `options`."""

    def load(sources: Sources) -> Model:
        made = make()
        export, extra = made if isinstance(made, tuple) else (made, None)
        given = {"names": ABC} | options
        if isinstance(extra, dict):
            given["options"] = extra
        return import_model(export.save(sources.folder / "export.onnx"), **given)

    return load


def _torch_yolo(kind: str, **form: Any) -> Callable[[Sources], Model]:
    def load(sources: Sources) -> Model:
        torch = pytest.importorskip("torch")
        from tests.importers.pytorch import networks

        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = getattr(networks, kind)(**form)
            generation = "v8" if kind == "yolov8" else "v5"
            path = networks.save(sources.folder / "net.pt", {"model": network}, generation)
        return import_model(path, size=(64, 96))

    return load


def _torch_ssd(name: str) -> Callable[[Sources], Model]:
    def load(sources: Sources) -> Model:
        torch = pytest.importorskip("torch")
        from tests.importers.pytorch.test_ssd import NETWORKS, randomise

        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = randomise(NETWORKS[name][0](5), exact=False)
        path = sources.folder / "net.pth"
        torch.save(network.state_dict(), path)
        return import_model(path, names=list("abcde"))

    return load


def _mxnet(name: str) -> Callable[[Sources], Model]:
    def load(sources: Sources) -> Model:
        from boxwright.errors import MissingExtraError
        from boxwright.importers.mxnet import oracle
        from tests.importers.mxnet.conftest import generated
        from tests.importers.mxnet.detectors import SIZE

        try:
            python = oracle.find_python()
        except MissingExtraError as error:
            pytest.skip(str(error))
        path = generated(python, "detectors.py", sources.folder) / f"{name}-0000.params"
        return import_model(path, names=ABC, size=SIZE if "cv" in name else None)

    return load


_ASYMMETRIC = ("Non-zero zero point is not supported", "zero-point")
_FACES = {"channels": "bgr", "mean": "104,177,123"}
_ANCHORS = {"anchors": "10,13;16,30/30,61;62,45/116,90;156,198"}

ENTRIES = (
    # Real ones.
    Entry("darknet-yolov4-tiny", _real("darknet/yolov4-tiny/yolov4-tiny.weights"), real=True),
    Entry(
        "darknet-yolo-fastest", _real("darknet/yolo-fastest/yolo-fastest-1.1.weights"), real=True
    ),
    Entry("darknet-yolo-fastest-xl", _real(f"{FASTEST}-xl.weights"), real=True),
    Entry("darknet-nano-voc", _real(f"darknet/{NANO.lower()}/{NANO}.weights"), real=True),
    Entry(
        "caffe-mobilenet-ssd",
        _real("caffe/mobilenet-ssd/MobileNetSSD_deploy.caffemodel", names=VOC),
        real=True,
    ),
    Entry("caffe-nano-voc", _caffe_nano, real=True),
    Entry("caffe-lenet", _real("caffe/mnist-lenet/deploy.caffemodel"), real=True),
    Entry(
        "mxnet-retinaface",
        _real("mxnet/retinaface-mnet25/mnet.25-0000.params", size=320),
        real=True,
    ),
    Entry("mxnet-genderage", _real("mxnet/insightface-genderage/model-0000.params"), real=True),
    Entry("onnx-yolox-nano", _real("onnx/yolox_nano.onnx"), real=True),
    Entry("onnx-rfb-320", _real("onnx/version-RFB-320.onnx", names=("face",)), real=True),
    Entry("pytorch-yolov5n", _real("pytorch/yolov5n.pt"), real=True),
    Entry(
        "tensorflow-opencv-faces",
        _real(
            "tensorflow/opencv_face_detector/opencv_face_detector_uint8.pb",
            size=300,
            names=("face",),
            options=_FACES,
        ),
        real=True,
    ),
    Entry(
        "tensorflow-efficientdet-quantised",
        _real("tensorflow/efficientdet-lite0.tflite"),
        real=True,
        quantised=True,
        refused=_ASYMMETRIC,
        cure="fake-quantisation",
    ),
    Entry(
        "tensorflow-efficientdet-float",
        _real("tensorflow/efficientdet-lite0.tflite", options={"quantization": "drop"}),
        real=True,
    ),
    # Small ones, that programs of others wrote.
    Entry("tensorflow-saved-model", _golden("saved_model", scale=1)),
    Entry("tensorflow-frozen-graph", _golden("frozen.pb", scale=1)),
    Entry("tensorflow-lite-float", _golden("float.tflite", scale=1)),
    Entry(
        "tensorflow-lite-int8",
        _golden("int8.tflite"),
        quantised=True,
        refused=_ASYMMETRIC,
        cure="fake-quantisation",
    ),
    Entry("pytorch-yolov5", _torch_yolo("yolov5")),
    Entry("pytorch-yolov5-early", _torch_yolo("yolov5", early=True)),
    Entry("pytorch-yolov8-11", _torch_yolo("yolov8")),
    Entry("pytorch-ssd300-resnet", _torch_ssd("ssd300_resnet"), heavy=True),
    Entry("pytorch-ssd300-vgg16", _torch_ssd("ssd300_vgg16"), heavy=True),
    Entry("pytorch-ssdlite320", _torch_ssd("ssdlite320_mobilenet_v3_large")),
    Entry("mxnet-ssd", _mxnet("mxnet_ssd")),
    Entry("mxnet-gluoncv-ssd", _mxnet("gluoncv_ssd")),
    Entry("mxnet-gluoncv-yolo3", _mxnet("gluoncv_yolo3")),
    # ONNX in the form of each family's exporter.
    Entry("onnx-yolov5", _export(families.yolov5_decoded)),
    *(
        Entry(
            f"onnx-yolov5-{form.replace('_', '-')}",
            _export(partial(families.yolov5_levels, form), head="yolov5", options=_ANCHORS),
        )
        for form in ("maps", "anchor_maps")
    ),
    Entry("onnx-yolox", _export(partial(yolox, False))),
    Entry("onnx-yolox-decoded", _export(partial(yolox, True), head="yolox")),
    Entry("onnx-yolov6", _export(partial(yolox, True), head="yolov6")),
    Entry("onnx-yolov8", _export(partial(families.yolov8_decoded, True))),
    *(
        Entry(
            f"onnx-yolov8-{form}",
            _export(
                partial(families.yolov8_distributions, form),
                head=None if form == "columns" else "yolov8",
            ),
        )
        for form in ("levels", "columns", "apart")
    ),
    Entry("onnx-nanodet-plus", _export(families.nanodet_plus)),
    Entry("onnx-picodet", _export(families.picodet)),
    Entry("onnx-ssd", _export(families.ssd)),
    Entry(
        "onnx-retinanet",
        _export(families.retinanet, head="retinanet", options={"strides": "8,16,32,64"}),
    ),
    Entry("onnx-detr", _export(partial(families.queries, "detr"), head="detr")),
    Entry("onnx-rtdetr", _export(partial(families.queries, "rtdetr"), head="rtdetr")),
    Entry("onnx-rtdetr-ultralytics", _export(families.rtdetr_ultralytics)),
    Entry("onnx-yolov10", _export(families.yolov10)),
    Entry("onnx-suppressed", _export(families.four_outputs, options={"scale": "1/255"})),
    Entry(
        "onnx-plugin-cut-off",
        _export(families.plugin, options={"scale": "1/255", "mean": 0, "std": 1}),
    ),
)

_LOADED: dict[str, Model] = {}


def load(entry: Entry, sources: Sources) -> Model:
    """Its model, imported once in a session: no test may change it."""
    if entry.name not in _LOADED:
        _LOADED[entry.name] = entry.load(sources)
    return _LOADED[entry.name]


def images(entry: Entry, sources: Sources, count: int) -> Images:
    """Up to five images: photos where the model was trained, else noise."""
    size = _LOADED[entry.name].card.input_size
    if entry.real:
        return sources.photos(size)[:count]
    return np.random.default_rng(0).integers(0, 256, (5, *size, 3), np.uint8)[:count]
