"""Import of MXNet's detectors and attribute models: a symbol and its parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright._version import __version__
from boxwright.card import ModelCard, SourceFile, Transform
from boxwright.errors import ImportFailedError
from boxwright.files import printable, sha256_file
from boxwright.importers.mxnet import arithmetic, boxes, layers, pooling, shaping
from boxwright.importers.mxnet.classify import Classified, classes, gender_age, is_gender_age
from boxwright.importers.mxnet.heads import Decoded, Family, Pixels, gluoncv, multibox
from boxwright.importers.mxnet.params import is_params_file, read_params
from boxwright.importers.mxnet.retinaface import retinaface
from boxwright.importers.mxnet.symbol import Entry, Node, Symbol, looks_like_symbol, read_symbol
from boxwright.importers.mxnet.values import BATCH, Value
from boxwright.importers.mxnet.writer import Writer
from boxwright.importers.names import fit_names, numbered_names, read_names
from boxwright.importers.registry import (
    Confidence,
    ImportRequest,
    Recognition,
    Verification,
    check_options,
)
from boxwright.model import BOXES, IMAGES, LANDMARKS, SCORES, Model

# Imported for the operators that they register.
OPERATOR_MODULES = (arithmetic, boxes, layers, pooling, shaping)

OPTIONS = {
    "mean": "what is taken from a pixel (0 to 255), one number or three, red first",
    "std": "what a pixel is divided by then, likewise",
    "channels": "rgb or bgr: the order in which the network takes the channels",
}
_EPOCH = re.compile(r"-\d{4}$")


class MxnetImporter:
    """Symbols with parameters, as MXNet 0.9 to 1.9, insightface and GluonCV save them."""

    name = "mxnet"
    description = "MXNet symbol.json and .params (SSD, GluonCV SSD and YOLOv3, RetinaFace)"

    def recognise(self, request: ImportRequest) -> Recognition | None:
        """By how the parameters, or the symbol, begin."""
        if is_params_file(request.weights):
            return Recognition(Confidence.CERTAIN, "it begins as MXNet's parameters do")
        if looks_like_symbol(request.weights):
            return Recognition(Confidence.CERTAIN, "it is a JSON list of MXNet's nodes")
        return None

    def load(self, request: ImportRequest) -> Model:
        """Import; see :func:`boxwright.importers.import_model`.

        Raises:
            ImportFailedError: With the file and the node.
        """
        return read_import(request).model()

    def verify(self, request: ImportRequest, model: Model) -> Verification:
        """Compare with MXNet itself on random pixels.

        Raises:
            MissingExtraError: MXNet is not installed.
        """
        from boxwright.importers.mxnet.oracle import verify

        return verify(request, model)


IMPORTER = MxnetImporter()


def read_import(request: ImportRequest) -> Import:
    """Read the files of a request, and find out what they hold.

    Raises:
        ImportFailedError: As :meth:`MxnetImporter.load`.
    """
    check_options(request, OPTIONS)
    symbol_path, params_path = find_files(request)
    return Import(request, read_symbol(symbol_path), read_params(params_path), params_path)


class Import:
    """One import: what is known of the files, and what is made of them.

    Attributes:
        symbol: The network.
        params_path: The file of its weights.
        entries: The outputs of the symbol that are wanted.
        values: The tensors that they became, once :meth:`model` was called.
        data: The variable that images enter by.
        size: ``(height, width)`` of the input.
        pixels: What becomes of the pixels before the network.
    """

    def __init__(
        self,
        request: ImportRequest,
        symbol: Symbol,
        weights: Mapping[str, NDArray[Any]],
        params_path: Path,
    ) -> None:
        self.request = request
        self.symbol = symbol
        self.weights = weights
        self.params_path = params_path
        self.family = recognise_family(symbol)
        self.entries = self.family.entries if self.family else symbol.heads
        self.data = find_data(symbol, self.entries, weights)
        self.size = self._size()
        self.pixels = _pixels(request, self.family.pixels if self.family else Pixels())
        self.values: list[Value] = []
        self.names_path: Path | None = None

    def model(self) -> Model:
        """The graph, and the card."""
        reserved = (IMAGES, BOXES, SCORES, LANDMARKS)
        writer = Writer(self.symbol, self.weights, reserved)
        writer.graph.images(*self.size)
        planes = preprocess(writer, self.pixels, self.size)
        values = writer.write({self.data.name: planes}, self.entries, self.request.progress)
        self.values = values
        if self.family is not None:
            card = self._detector(
                writer, self.family, self.family.decode(writer, values, self.size)
            )
        else:
            card = self._classifier(writer, values)
        return Model(writer.graph.model, card)

    def _detector(self, writer: Writer, family: Family, decoded: Decoded) -> ModelCard:
        rows, count = decoded.scores.shape[1:]
        writer.graph.detections(
            [writer.read(decoded.boxes)],
            [writer.read(decoded.scores)],
            classes=count,
            rows=rows,
        )
        for name, value in decoded.extra.items():
            _output(writer, name, value)
        names = family.names if len(family.names) == count else ()
        return self._card(
            family=family.name,
            class_names=self._names(count, names),
            resize=self.request.resize or family.resize,
            pad_value=family.pad_value,
            score_threshold=family.score_threshold,
            nms=family.nms,
            heads=decoded.heads,
            landmarks=family.landmarks,
            interpolation=self.request.interpolation or family.interpolation,
        )

    def _classifier(self, writer: Writer, values: list[Value]) -> ModelCard:
        if len(values) != 1:
            names = ", ".join(repr(self.symbol.nodes[e.node].name) for e in self.entries[:8])
            raise self.symbol.error(
                f"it has {len(values)} outputs ({names}), which are those of no detector known "
                "here: MultiBoxDetection, GluonCV's SSD and YOLOv3, RetinaFace"
            )
        made: Classified
        if is_gender_age(self.symbol):
            made = gender_age(writer, values[0], self.size)
        else:
            node = self.symbol.nodes[self.entries[0].node]
            count = abs(values[0].shape[-1]) if values[0].shape else 1
            made = classes(writer, node, values[0], self._names(count, ()))
        for attribute, value in zip(made.attributes, made.tensors, strict=True):
            _output(writer, attribute.name, value)
        return self._card(
            task="classify",
            family=made.family,
            class_names=made.attributes[0].names,
            attributes=made.attributes,
            crop=made.crop,
            resize=self.request.resize or "stretch",
            interpolation=self.request.interpolation or "opencv",
            pad_value=0,
        )

    def _card(self, **facts: Any) -> ModelCard:
        files = [self.params_path, self.symbol.path]
        if self.names_path is not None:
            files.append(self.names_path)
        parameters = dict(self.request.options)
        if self.request.size is not None:
            parameters["size"] = list(self.request.size)
        transform = Transform(
            "import:mxnet",
            parameters=parameters,
            versions={"boxwright": __version__},
            effect={"mxnet_version": self.symbol.version, "nodes": len(self.symbol.nodes)},
        )
        return ModelCard(
            name=printable(_EPOCH.sub("", self.params_path.stem)) or "mxnet",
            input_size=self.size,
            source_format="mxnet",
            source_files=tuple(
                SourceFile(printable(path.name), sha256_file(path), path.stat().st_size)
                for path in files
            ),
            licence=self.request.licence,
            transforms=(transform,),
            **facts,
        )

    def _names(self, count: int, own: tuple[str, ...]) -> tuple[str, ...]:
        given = self.request.names
        if isinstance(given, tuple):
            return fit_names(given, count, "the names given")
        if given is not None:
            self.names_path = given
            return fit_names(read_names(given), count, str(given))
        return own or numbered_names(count)

    def _size(self) -> tuple[int, int]:
        """As asked for, as the file states, or as networks of the kind are used."""
        size = self.request.size or _stated_size(self.data)
        if size is None and self.family is not None:
            size = self.family.size
        if size is None and is_gender_age(self.symbol):
            size = (112, 112)
        if size is None:
            raise self.symbol.error(
                "the files do not say how large the network's input is; give --size HxW"
            )
        multiple = self.family.multiple if self.family else 1
        if size[0] % multiple or size[1] % multiple:
            raise self.symbol.error(
                f"the sides of the input must be multiples of {multiple}, got {size[0]}x{size[1]}"
            )
        return size


def recognise_family(symbol: Symbol) -> Family | None:
    """The kind of detector; ``None`` where it is none that is known."""
    for kind in (retinaface, multibox, gluoncv):
        if (family := kind(symbol)) is not None:
            return family
    return None


def find_data(
    symbol: Symbol, entries: tuple[Entry, ...], weights: Mapping[str, NDArray[Any]]
) -> Node:
    """The variable that images enter by.

    Raises:
        ImportFailedError: There is none, or no telling which it is.
    """
    free = [n for n in symbol.needed(entries) if n.is_variable and n.name not in weights]
    named = [node for node in free if node.name == "data"]
    # Training's labels are inputs too, and read by nothing that matters.
    candidates = named or [n for n in free if "label" not in n.name]
    if len(candidates) != 1:
        names = ", ".join(repr(node.name) for node in candidates[:8]) or "none"
        raise symbol.error(
            f"one input that is not in the parameters is expected, got {names}; "
            "are the parameters those of this symbol?"
        )
    return candidates[0]


def find_files(request: ImportRequest) -> tuple[Path, Path]:
    """The symbol and the parameters, of which the user gave one or both.

    Raises:
        ImportFailedError: The other one is not beside it under the usual name.
    """
    given = request.weights
    if is_params_file(given) or given.suffix == ".params":
        if request.cfg is not None:
            return request.cfg, given
        stem = _EPOCH.sub("", given.stem)
        for name in (f"{stem}-symbol.json", f"{stem}.json", f"{given.stem}-symbol.json"):
            if (path := given.with_name(name)).is_file():
                return path, given
        raise ImportFailedError(
            f"{given}: no {stem}-symbol.json beside it; give the network's symbol with --cfg"
        )
    stem = given.stem.removesuffix("-symbol")
    found = sorted(given.parent.glob(f"{_escaped(stem)}-[0-9][0-9][0-9][0-9].params"))
    if found:
        return given, found[-1]  # of several epochs, the last
    path = given.with_name(f"{stem}.params")
    if path.is_file():
        return given, path
    raise ImportFailedError(
        f"{given}: no {stem}-0000.params beside it; give the parameters, and the symbol with --cfg"
    )


def _escaped(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)


def _stated_size(data: Node) -> tuple[int, int] | None:
    shape = data.settings.wholes("__shape__", ())
    if len(shape) == 4 and min(shape[2:]) > 0:
        return shape[2], shape[3]
    return None


def _pixels(request: ImportRequest, source: Pixels) -> Pixels:
    options = request.options
    order = options.get("channels", "bgr" if source.bgr else "rgb")
    if order not in ("rgb", "bgr"):
        raise ImportFailedError(f"channels must be rgb or bgr, got {order!r}")
    mean = _three("mean", options["mean"]) if "mean" in options else source.mean
    std = _three("std", options["std"]) if "std" in options else source.std
    if min(std) <= 0:
        raise ImportFailedError(f"std must be above 0, got {options['std']!r}")
    return Pixels(mean, std, order == "bgr")


def _three(name: str, value: object) -> tuple[float, ...]:
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (1, 3) or not all(np.isfinite(numbers)):
        raise ImportFailedError(f"{name} must be one number or three, got {value!r}")
    return tuple(numbers * 3 if len(numbers) == 1 else numbers)


def preprocess(writer: Writer, pixels: Pixels, size: tuple[int, int]) -> Value:
    """From the contract's images to the planes that the network takes, under ``pre/``."""
    from onnx import TensorProto

    shape = (BATCH, *size, 3)
    x = writer.op("Cast", [Value(IMAGES, shape)], "pre/float", shape, to=TensorProto.FLOAT)
    if any(pixels.mean):
        x = writer.binary("Sub", x, writer.floats("pre/mean", pixels.mean), "pre/centred")
    if any(value != 1 for value in pixels.std):
        factor = 1 / np.array(pixels.std)
        x = writer.binary("Mul", x, writer.floats("pre/factor", factor), "pre/scaled")
    if pixels.bgr:
        order = writer.constant("pre/blue_first", np.array([2, 1, 0]))
        x = writer.op("Gather", [x, order], "pre/channels", shape, axis=3)
    return writer.transpose(x, (0, 3, 1, 2), "pre/planes")


def _output(writer: Writer, name: str, value: Value) -> None:
    from onnx import TensorProto

    writer.graph.add("Identity", [writer.read(value)], name)
    shape: list[int | str] = ["N" if n < 0 else n for n in value.shape]
    writer.graph.output(name, TensorProto.FLOAT, shape)
