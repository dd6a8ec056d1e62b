"""A TensorFlow network as a model under the contract."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright._version import __version__
from boxwright.card import Head as CardHead
from boxwright.card import ModelCard, SourceFile, Transform
from boxwright.errors import ImportFailedError, ModelError
from boxwright.files import printable, sha256_file
from boxwright.graph.builder import GraphBuilder
from boxwright.graph.heads import Priors, Raw, decode
from boxwright.graph.pixels import PixelFormat, add_pixels
from boxwright.importers.names import asked_names, numbered_names
from boxwright.importers.options import KNOWN as KNOWN_OF_HEADS
from boxwright.importers.registry import ImportRequest, check_options, refuse_head
from boxwright.importers.tensorflow import ops_math, ops_shape, ops_spatial
from boxwright.importers.tensorflow.box_coder import find_box_coder
from boxwright.importers.tensorflow.detection import (
    Ending,
    OpenCvText,
    find_post_process,
    post_process,
    rows_of,
)
from boxwright.importers.tensorflow.detection_api import ApiExport
from boxwright.importers.tensorflow.lowering import Lowering, Tensor
from boxwright.importers.tensorflow.network import Network, Node, refusal, short
from boxwright.importers.tensorflow.options import KNOWN, keeps_quantization, pixel_format
from boxwright.importers.tensorflow.rewrite import rewrite
from boxwright.model import BOXES, SCORES, Model

OPERATIONS = {**ops_math.OPERATIONS, **ops_shape.OPERATIONS, **ops_spatial.OPERATIONS}
_SCORE_THRESHOLD = 0.25
# What label maps write where a number belongs to no class.
# Anchors reach beyond the image, but not far.
_LARGEST_ANCHOR = 1000.0
_GAPS = ("", "???", "n/a", "background")


def load(request: ImportRequest, network: Network) -> Model:
    """Convert what was read; see :meth:`TensorFlowImporter.load`."""
    check_options(request, {**KNOWN_OF_HEADS, **KNOWN}, takes_head=True)
    if len(network.inputs) != 1:
        raise refusal(network.path, f"expected one input, got {len(network.inputs)}")
    rewrite(network)
    node = find_post_process(network)
    text = _text_beside(request)
    if network.export is not None and not {"boxes", "scores"} & set(request.options):
        refuse_head(request)
        return _Detector(request, network).load_export(network.export)
    if node is None and text is None:
        from boxwright.importers.tensorflow.foreign import load_foreign

        return load_foreign(request, network)
    refuse_head(request)
    return _Detector(request, network).load(node, text)


def _text_beside(request: ImportRequest) -> Path | None:
    """OpenCV's description: the one given, or one of the graph's name."""
    if request.cfg is not None:
        return request.cfg
    stem = request.weights.name.removesuffix(".pb")
    for name in (stem, stem.removesuffix("_uint8"), stem.removesuffix("_fp16")):
        path = request.weights.with_name(f"{name}.pbtxt")
        if request.weights.suffix == ".pb" and path.is_file():
            return path
    return None


@dataclass(frozen=True)
class Labels:
    """Class names, the columns of the network's scores they belong to, and their file."""

    names: tuple[str, ...]
    columns: tuple[int, ...]
    file: Path | None


def input_size(request: ImportRequest, network: Network) -> tuple[int, int]:
    """``(height, width)``: the file's, or what the user says where it leaves that open.

    Raises:
        ImportFailedError: Neither says it, they differ, or it is no image of three channels.
    """
    value = network.values.get(network.inputs[0])
    shape = None if value is None else value.shape
    if shape is None:
        shape = (-1, -1, -1, 3)
    if len(shape) != 4 or shape[3] not in (3, -1):
        raise refusal(
            network.path, f"expected an input of (N, H, W, 3), got {short(str(list(shape)))}"
        )
    own = shape[1:3]
    if network.export is not None and network.export.preprocessor is not None and -1 in own:
        own = network.export.preprocessor.size
    size = request.size or own
    if -1 in size:
        raise refusal(
            network.path, "it takes images of any size; say which with --size, such as 300x300"
        )
    if any(o not in (-1, s) for o, s in zip(own, size, strict=True)):
        raise refusal(
            network.path,
            f"it was made for {own[0]}x{own[1]} pixels (height x width) and cannot be made "
            f"{size[0]}x{size[1]}; export it again at that size",
        )
    return size[0], size[1]


class _Detector:
    """A network whose post-processing the file describes."""

    def __init__(self, request: ImportRequest, network: Network) -> None:
        self.request = request
        self.network = network
        self.size = input_size(request, network)
        self.builder = GraphBuilder(printable(request.weights.stem))
        self.kept = keeps_quantization(request)
        self.lowering = Lowering(network, self.builder, OPERATIONS, keep_quantization=self.kept)
        self.form = pixel_format(request, network)
        self.extent = np.array([self.size[1], self.size[0]] * 2, np.float64)
        self.builder.images(*self.size)
        for name in (BOXES, SCORES):
            self.builder.unique(name)  # so that no node of the file takes it
        self._feed(add_pixels(self.builder, self.form))

    def load(self, node: Node | None, text: Path | None) -> Model:
        """Convert a network with a node that decodes, or a text that describes that."""
        files = [self.request.weights]
        if node is not None:
            wanted = node.inputs[:2]
            self.lowering.run(wanted, self.request.progress)
            ending, fractions = post_process(self.network, node, self.lowering)
            priors = fractions * self.extent
        else:
            assert text is not None  # noqa: S101  # load() has seen one of the two
            description = OpenCvText(text)
            ending, priors = self._described(description)
            files.append(text)
        return self._finish(ending, priors, files)

    def load_export(self, export: ApiExport) -> Model:
        """Convert an export of the Object Detection API."""
        coder = find_box_coder(self.network, export.boxes)
        wanted = [coder.encodings, export.scores, coder.anchors]
        self.lowering.run(wanted, self.request.progress)
        anchors = self.lowering.tensor(coder.anchors)
        scores = self.lowering.tensor(export.scores).shape
        if anchors.data is None or anchors.data.size % 4 or len(scores) != 3:
            raise refusal(self.network.path, "its anchors are no constants, or its scores no rows")
        corners = anchors.data.reshape(-1, 4).astype(np.float64)
        if not (np.abs(corners) <= _LARGEST_ANCHOR).all():
            raise refusal(self.network.path, "its anchors are not fractions of the image")
        y1, x1, y2, x2 = corners.T
        fractions = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
        y, x, h, w = coder.scales
        ending = Ending(
            boxes=coder.encodings,
            scores=export.scores,
            head=Priors(
                classes=scores[2] - export.background,
                activation="none",
                background="first" if export.background else "none",
                variances=(1 / x, 1 / y, 1 / w, 1 / h),
                order="yxhw",
            ),
            nms=export.nms,
            score_threshold=export.score_threshold,
        )
        return self._finish(ending, fractions * self.extent, [self.request.weights])

    def _finish(self, ending: Ending, priors: NDArray[np.float64], files: list[Path]) -> Model:
        labels = self._labels(ending.head.classes)
        if labels.file is not None:
            files.append(labels.file)
        heads, tensors = self._decode(ending, priors, labels)
        known = self.network.output_names
        if self.network.export is not None and known:
            # A SavedModel gives out what its signature names, and that alone.
            named = dict(zip(self.network.outputs, known, strict=True))
            tensors = {ours: named[source] for ours, source in tensors.items() if source in named}
        card = self._card(ending, labels, files, tensors)
        return Model(self.builder.model, dataclasses.replace(card, heads=heads))

    def _feed(self, pixels: str) -> None:
        shape = (1, *self.size, 3)
        tensor = Tensor(shape, np.dtype(np.float32), None, {"planes": pixels})
        self.lowering.feed(self.network.inputs[0], tensor)

    def _described(self, text: OpenCvText) -> tuple[Ending, NDArray[np.float64]]:
        ending, maps = text.ending(), text.feature_maps()
        found = self.lowering.run([ending.boxes, ending.scores, *maps], self.request.progress)
        grids = []
        for name, tensor in zip(maps, found[2:], strict=True):
            if len(tensor.shape) != 4:
                raise refusal(text.path, f"PriorBox on {short(name)!r}, which is no feature map")
            grids.append((tensor.shape[1], tensor.shape[2]))
        return ending, text.priors(grids, self.size)

    def _labels(self, classes: int) -> Labels:
        names, file = asked_names(self.request.names, classes, "the network")
        every = tuple(range(classes))
        if names is not None:
            return Labels(names, every, file)
        labels = self.network.labels
        if len(labels) == classes:
            columns = tuple(i for i in every if labels[i].lower() not in _GAPS) or every
            return Labels(tuple(printable(labels[i]) for i in columns), columns, None)
        if classes == 1 and not labels:
            return Labels(("object",), every, None)
        return Labels(numbered_names(classes), every, None)

    def _decode(
        self, ending: Ending, priors: NDArray[np.float64], labels: Labels
    ) -> tuple[tuple[CardHead, ...], dict[str, str]]:
        head, lowering = ending.head, self.lowering
        boxes = rows_of(lowering, lowering.tensor(ending.boxes), 4, "head/boxes")
        columns = head.class_columns
        scores = rows_of(lowering, lowering.tensor(ending.scores), columns, "head/scores")
        if not boxes.shape[1] == scores.shape[1] == len(priors):
            raise ImportFailedError(
                f"{self.network.path}: {boxes.shape[1]} boxes, {scores.shape[1]} rows of scores "
                f"and {len(priors)} priors do not fit each other"
            )
        raw = Raw((lowering.get(boxes, "plain"),), (lowering.get(scores, "plain"),))
        try:
            decoded = decode(self.builder, head, raw, self.size, rows=len(priors), priors=priors)
        except ModelError as error:
            raise refusal(self.network.path, str(error)) from error
        final = decoded.scores
        if labels.columns != tuple(range(head.classes)):
            chosen = self.builder.constant("decode/columns", np.array(labels.columns, np.int64))
            final = self.builder.add("Gather", [final, chosen], "decode/named", axis=2)
        self.builder.detections(
            [decoded.boxes], [final], classes=len(labels.names), rows=len(priors)
        )
        return decoded.heads, {raw.boxes[0]: ending.boxes, raw.classes[0]: ending.scores}

    def _card(
        self,
        ending: Ending,
        labels: Labels,
        files: list[Path],
        tensors: dict[str, str],
    ) -> ModelCard:
        request, network = self.request, self.network
        before = network.export.preprocessor if network.export is not None else None
        # The Object Detection API and OpenCV's detectors are fed what was stretched, but for
        # the API's networks that keep the aspect.
        letterbox = before is not None and before.keeps_aspect
        padded = None if before is None else before.pad
        threshold = ending.score_threshold
        return ModelCard(
            name=printable(request.weights.stem),
            family=network.description or "ssd",
            class_names=labels.names,
            input_size=self.size,
            resize=request.resize or ("letterbox" if letterbox else "stretch"),
            interpolation=request.interpolation or "opencv",
            score_threshold=_SCORE_THRESHOLD if threshold is None else max(threshold, 0.25),
            nms=ending.nms,
            source_format="tensorflow",
            source_files=source_files(files),
            licence=request.licence or network.licence,
            pad_value=ModelCard.pad_value if padded is None else round(padded),
            transforms=(record(request, self.lowering, self.form, tensors),),
        )


def source_files(files: list[Path]) -> tuple[SourceFile, ...]:
    """Records of files, and of all that is in folders."""
    found: list[SourceFile] = []
    for path in files:
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        found.extend(
            SourceFile(printable(p.name), sha256_file(p), p.stat().st_size) for p in inside
        )
    return tuple(found)


def record(
    request: ImportRequest, lowering: Lowering, form: PixelFormat, tensors: dict[str, str]
) -> Transform:
    """What the import did, for the card; `tensors` are the model's and the source's names."""
    kinds = [node.op_type for node in lowering.graph.graph.node]
    parameters: dict[str, Any] = {
        "pixels": dataclasses.asdict(form),
        "tensors": tensors,
    }
    if request.size is not None:
        parameters["size"] = list(request.size)
    pairs = kinds.count("QuantizeLinear")
    effect = {"operations": len(lowering.network.nodes), "quantized_tensors": pairs}
    return Transform("import:tensorflow", parameters, {"boxwright": __version__}, effect)
