"""Import of Caffe networks: a prototxt and its caffemodel, read without Caffe."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from boxwright._version import __version__
from boxwright.card import ModelCard, SourceFile, Transform
from boxwright.errors import ImportFailedError
from boxwright.files import printable, sha256_file
from boxwright.graph.pixels import add_pixels
from boxwright.importers.caffe import heads
from boxwright.importers.caffe.layers import outputs, producers, write_layers
from boxwright.importers.caffe.network import Layer, Network, read_network
from boxwright.importers.caffe.prepare import Preparation, preparation
from boxwright.importers.caffe.text import read_prototxt
from boxwright.importers.caffe.wire import CaffeModel, looks_like_caffemodel
from boxwright.importers.caffe.writer import Blob, Writer
from boxwright.importers.names import asked_names, numbered_names, read_names
from boxwright.importers.registry import (
    Confidence,
    ImportRequest,
    Recognition,
    Verification,
    check_options,
)
from boxwright.model import BOXES, IMAGES, SCORES, Model

if TYPE_CHECKING:
    from boxwright.card import Task
    from boxwright.importers.caffe.heads import Ending

_LOGGER = logging.getLogger("boxwright")
_MAX_CLASSES = 65_536
_SUFFIXES = (".prototxt", ".prototxt.txt", ".pbtxt")

OPTIONS = {
    "mean": "one number, or one for each channel in the network's order: 104,117,123",
    "scale": "factor after the mean: 0.007843, or 1/255",
    "channels": "rgb, bgr or grey: what the network was fed",
    "anchors": "of raw YOLO maps; levels in the order of outputs, parted by /: 81,82;135,169/10,14",
    "scale_xy": "Darknet's scale_x_y, one for all levels or one for each",
    "darknet_cfg": "the Darknet cfg that the network was made from, for its heads",
}


class CaffeImporter:
    """SSD, YOLO and classifiers trained with Caffe and its forks."""

    name = "caffe"
    description = "Caffe prototxt and caffemodel (SSD, MobileNet-SSD, YOLOv3, classifiers)"

    def recognise(self, request: ImportRequest) -> Recognition | None:
        """By a prototxt that was given, or what the weights hold."""
        if request.cfg is not None and request.cfg.name.lower().endswith(_SUFFIXES):
            return Recognition(Confidence.CERTAIN, f"a prototxt was given, {request.cfg.name}")
        if request.cfg is not None or not request.weights.is_file():
            return None
        if request.weights.name.lower().endswith(_SUFFIXES):
            return Recognition(Confidence.POSSIBLE, "it is called a prototxt")
        named = request.weights.suffix.lower() == ".caffemodel"
        if looks_like_caffemodel(request.weights):
            sure = Confidence.CERTAIN if named else Confidence.LIKELY
            return Recognition(sure, "it holds Caffe's layers with their blobs")
        return Recognition(Confidence.POSSIBLE, "it is called .caffemodel") if named else None

    def load(self, request: ImportRequest) -> Model:
        """Import; see :func:`boxwright.importers.import_model`.

        Raises:
            ImportFailedError: With the file, and for a prototxt the line and the layer.
        """
        check_options(request, OPTIONS)
        if request.weights.name.lower().endswith(_SUFFIXES):
            raise ImportFailedError(
                f"{request.weights} describes the network; give the caffemodel, and the prototxt "
                "with --cfg"
            )
        prototxt = request.cfg if request.cfg is not None else find_prototxt(request.weights)
        network = _resized(read_network(read_prototxt(prototxt)), request.size)
        with CaffeModel(request.weights) as weights:
            prepared = preparation(network, weights, request.options)
            writer = Writer(network, weights)
            shape = (1, *network.image.shape[1:])
            writer.graph.images(*network.image.shape[2:])
            pixels = add_pixels(writer.graph, prepared.pixel_format())
            writer.blobs[network.image.name] = Blob(shape, pixels)
            left = write_layers(writer, network, heads.HEAD_TYPES, request.progress)
            ending = _ending(writer, network, left, request)
            return _finish(request, prototxt, network, prepared, writer, ending)

    def verify(self, request: ImportRequest, model: Model) -> Verification:
        """Compare with OpenCV's own Caffe importer, tensor by tensor.

        Raises:
            ImportFailedError: OpenCV cannot read or run the network.
        """
        from boxwright.importers.caffe.verify import verify

        prototxt = request.cfg if request.cfg is not None else find_prototxt(request.weights)
        return verify(prototxt, request.weights, model)


IMPORTER = CaffeImporter()


def find_prototxt(weights: Path) -> Path:
    """The prototxt of the weights' name, ``deploy.prototxt``, or the only one there."""
    stem = weights.stem
    for name in (stem, f"{stem}_deploy", f"deploy_{stem}", "deploy"):
        for suffix in _SUFFIXES:
            path = weights.with_name(name + suffix)
            if path.is_file():
                return path
    there = sorted(p for p in weights.parent.iterdir() if p.name.lower().endswith(_SUFFIXES))
    if len(there) == 1:
        _LOGGER.info("taking %s, the only prototxt beside the weights", there[0])
        return there[0]
    raise ImportFailedError(
        f"{weights}: no prototxt given and no {stem}.prototxt beside it; give the network's "
        "deploy prototxt with --cfg"
    )


def _resized(network: Network, size: tuple[int, int] | None) -> Network:
    if size is None:
        return network
    shape = (*network.image.shape[:2], *size)
    return dataclasses.replace(network, image=dataclasses.replace(network.image, shape=shape))


def _ending(
    writer: Writer, network: Network, left: list[Layer], request: ImportRequest
) -> Ending | str:
    """The decoded heads, or the name of a classifier's output."""
    options = dict(request.options)
    asked = {"anchors", "darknet_cfg"} & set(options)
    if len(left) > 1:
        left[1].unsupported("a second detection layer is not supported")
    if left:
        if asked:
            raise ImportFailedError(
                f"option {asked.pop()} is for raw YOLO maps; {left[0].name} "
                "says itself how to decode"
            )
        if left[0].kind == "DetectionOutput":
            return heads.detection_output(writer, left[0])
        return heads.yolov3_output(writer, left[0])
    found = outputs(network)
    if "darknet_cfg" in options:
        levels, nms = heads.levels_of_cfg(writer, found, Path(str(options["darknet_cfg"])))
        return dataclasses.replace(heads.yolo(writer, levels, "darknet_cfg"), nms=nms)
    if "anchors" in options:
        return heads.yolo(writer, heads.levels_of_options(found, options), "option anchors")
    blobs = {name: writer.blobs[name] for name in found if name in writer.blobs}
    flat = [name for name, blob in blobs.items() if blob.size == max(blob.shape)]
    if len(blobs) == 1 and flat and blobs[flat[0]].value is None and _few(blobs[flat[0]]):
        return flat[0]
    shown = ", ".join(f"{name[:40]} {list(blob.shape)}" for name, blob in list(blobs.items())[:8])
    raise ImportFailedError(
        f"{network.name or 'the network'} ends in {shown or 'nothing'}: no DetectionOutput layer "
        "and no class scores. For raw YOLO maps give --option anchors=… or darknet_cfg=…"
    )


def _few(blob: Blob) -> bool:
    """Whether there are no more classes than a card holds."""
    return blob.size <= _MAX_CLASSES


def _finish(
    request: ImportRequest,
    prototxt: Path,
    network: Network,
    prepared: Preparation,
    writer: Writer,
    ending: Ending | str,
) -> Model:
    task: Task = "classify" if isinstance(ending, str) else "detect"
    raw = (ending,) if isinstance(ending, str) else ending.raw
    made_by = producers(network)
    last = network.layers[-1]
    tensors = {made_by[blob]: writer.tensor(last, writer.blobs[blob]) for blob in raw}
    if isinstance(ending, str):
        classes, background = _classifier(writer, ending), None
    else:
        classes, background = ending.classes, ending.background
        writer.graph.detections(ending.boxes, ending.scores, classes=classes, rows=ending.rows)
    names, names_file = _class_names(request, classes, background)
    transform = Transform(
        "import:caffe",
        parameters={
            "pixels": {**dataclasses.asdict(prepared), "mean": list(prepared.mean)},
            "tensors": tensors,
            **({} if request.size is None else {"size": list(request.size)}),
            **{key: str(value) for key, value in request.options.items()},
        },
        versions={"boxwright": __version__},
        effect={"layers": len(network.layers)},
    )
    files = [request.weights, prototxt, *([names_file] if names_file else [])]
    if "darknet_cfg" in request.options:
        files.append(Path(str(request.options["darknet_cfg"])))
    card = ModelCard(
        name=printable(request.weights.stem),
        task=task,
        family=printable(network.name or prototxt.stem),
        class_names=names,
        input_size=network.image.shape[2:],
        # Caffe's data layers warp images to the network's size (resize_mode WARP).
        resize=request.resize or "stretch",
        interpolation=request.interpolation or "opencv",
        source_format="caffe",
        source_files=tuple(
            SourceFile(printable(path.name), sha256_file(path), path.stat().st_size)
            for path in files
        ),
        licence=request.licence,
        transforms=(transform,),
    )
    if not isinstance(ending, str):
        card = dataclasses.replace(
            card, nms=ending.nms, score_threshold=ending.threshold, heads=ending.heads
        )
    return Model(writer.graph.model, card)


def _classifier(writer: Writer, name: str) -> int:
    """Declare a classifier's output ``(N, classes)`` under its own name; how many classes."""
    from onnx import TensorProto

    blob = writer.blobs[name]
    last = writer.network.layers[-1]
    tensor = writer.tensor(last, blob)
    output = name if name not in (IMAGES, BOXES, SCORES) else f"{name}_1"
    output = writer.graph.unique(output)
    writer.graph.reshape(tensor, [-1, blob.size], output)
    writer.graph.output(output, TensorProto.FLOAT, ["N", blob.size])
    return blob.size


def _class_names(
    request: ImportRequest, classes: int, background: int | None
) -> tuple[tuple[str, ...], Path | None]:
    """Names of the classes; a list that has the background too loses it."""
    asked = request.names
    if asked is not None and background is not None:
        every = asked if isinstance(asked, tuple) else read_names(asked)
        if len(every) == classes + 1:
            kept = tuple(name for i, name in enumerate(every) if i != background)
            return kept, None if isinstance(asked, tuple) else asked
    names, file = asked_names(asked, classes, "the prototxt")
    return names or numbered_names(classes), file
