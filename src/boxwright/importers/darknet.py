"""Import of Darknet detectors: a cfg, its weights, and the class names."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import numpy as np

from boxwright._version import __version__
from boxwright.card import Head as CardHead
from boxwright.card import ModelCard, SourceFile, Transform
from boxwright.darknet.heads import read_nms
from boxwright.darknet.layers import Head
from boxwright.darknet.network import Network, read_network
from boxwright.darknet.onnx import to_onnx
from boxwright.darknet.weights import WeightsReader
from boxwright.errors import CfgError, ImportFailedError, UnsupportedError
from boxwright.files import printable, sha256_file
from boxwright.importers.names import fit_names, numbered_names, read_names, read_text
from boxwright.importers.registry import (
    Confidence,
    ImportRequest,
    Recognition,
    check_options,
    read_start,
)
from boxwright.mentions import find_mentioned
from boxwright.model import Model

_LOGGER = logging.getLogger("boxwright")

# Darknet letterboxes with 0.5, which is 127.5 in pixels.
_PAD_VALUE = 128
# The -thresh that Darknet's own command line starts from.
_SCORE_THRESHOLD = 0.25
# major.minor.revision are small numbers; 0.2.5 was the last.
_HIGHEST_VERSION = 99


class DarknetImporter:
    """YOLOv1 to v4, v7 and their kin, trained with Darknet."""

    name = "darknet"
    description = "Darknet cfg and weights (YOLOv1 to v4, v7, Yolo-Fastest, MobileNet-YOLO)"

    def recognise(self, request: ImportRequest) -> Recognition | None:
        """By a cfg that was given, or the suffix and the version that weights begin with."""
        if request.cfg is not None and request.cfg.suffix == ".cfg":
            return Recognition(Confidence.CERTAIN, f"a cfg was given, {request.cfg.name}")
        start = read_start(request.weights, 12)
        plausible = len(start) == 12 and all(
            0 <= number <= _HIGHEST_VERSION for number in struct.unpack("<3i", start)
        )
        if request.weights.suffix == ".weights":
            if plausible:
                return Recognition(Confidence.CERTAIN, "it is called .weights and has a version")
            return Recognition(Confidence.POSSIBLE, "it is called .weights")
        if plausible and request.weights.with_suffix(".cfg").is_file():
            return Recognition(Confidence.LIKELY, "it has a version, and a .cfg of its name")
        return None

    def load(self, request: ImportRequest) -> Model:
        """Import; see :func:`boxwright.importers.import_model`.

        Raises:
            ImportFailedError: With the file and, for a cfg, the line and the section.
        """
        check_options(request, {})
        if request.weights.is_dir():
            raise ImportFailedError(f"{request.weights} is a folder; give the weights file itself")
        cfg = request.cfg if request.cfg is not None else _find_cfg(request.weights)
        network = _read_network(cfg, request.size)
        names, names_file = _class_names(request, cfg, network.heads[0].classes)
        with WeightsReader(request.weights, network) as weights:
            proto, head_tensors = to_onnx(network, weights, request.progress)
            effect = {
                "weights_version": f"{weights.major}.{weights.minor}.{weights.revision}",
                "images_seen": weights.images_seen,
                "layers": len(network.layers),
            }
        files = [request.weights, cfg, *([names_file] if names_file else [])]
        transform = Transform(
            "import:darknet",
            parameters={} if request.size is None else {"size": list(request.size)},
            versions={"boxwright": __version__},
            effect=effect,
        )
        card = ModelCard(
            name=printable(request.weights.stem),
            family=printable(cfg.stem),
            class_names=names,
            input_size=(network.shape.height, network.shape.width),
            resize=request.resize or ("letterbox" if network.letterbox else "stretch"),
            interpolation=request.interpolation or "darknet",
            pad_value=_PAD_VALUE,
            score_threshold=_SCORE_THRESHOLD,
            nms=read_nms(network.heads[-1].section),
            heads=tuple(_card_head(network, head, head_tensors) for head in network.heads),
            source_format=self.name,
            source_files=tuple(
                SourceFile(printable(path.name), sha256_file(path), path.stat().st_size)
                for path in files
            ),
            licence=request.licence,
            transforms=(transform,),
        )
        return Model(proto, card)


IMPORTER = DarknetImporter()


def _read_network(cfg: Path, size: tuple[int, int] | None) -> Network:
    try:
        return read_network(cfg, size)
    except CfgError as error:
        if size is None or isinstance(error, UnsupportedError):
            raise
        height, width = size
        reason = (
            f"{error.reason} (with the size given, {height}x{width}; "
            "most networks need multiples of 32)"
        )
        raise CfgError(error.path, error.line, error.section, reason) from error


def _card_head(network: Network, head: Head, tensors: dict[int, str]) -> CardHead:
    cell = np.ones(2)
    if head.kind == "region":
        shape, net = head.shape, network.shape
        cell = np.array([net.width / shape.width, net.height / shape.height])
    return CardHead(
        kind=head.kind,
        grid=(head.shape.height, head.shape.width),
        anchors=tuple((float(w * cell[0]), float(h * cell[1])) for w, h in head.anchors),
        rows=head.rows,
        tensor=tensors[head.index],
    )


def _find_cfg(weights: Path) -> Path:
    """The cfg of the weights' name, with Darknet's suffixes taken off, or the only one there."""
    stem = weights.stem
    for suffix in ("", "_best", "_last", "_final", "_1000"):
        path = weights.with_name(stem.removesuffix(suffix) + ".cfg")
        if path.is_file():
            return path
    there = sorted(weights.parent.glob("*.cfg"))
    if len(there) == 1:
        _LOGGER.info("taking %s, the only cfg beside the weights", there[0])
        return there[0]
    raise ImportFailedError(
        f"{weights}: no cfg given and no {stem}.cfg beside it; give the network's cfg with --cfg"
    )


def _class_names(
    request: ImportRequest, cfg: Path, classes: int
) -> tuple[tuple[str, ...], Path | None]:
    """The class names and the file they came from, from the first source that there is."""
    if isinstance(request.names, tuple):
        return fit_names(request.names, classes, "the names given"), None
    path = request.names
    if path is None and request.data is not None:
        path = names_of_data(request.data)
    if path is not None:
        return fit_names(read_names(path), classes, str(path)), path
    for folder_path in (request.weights, cfg):
        path = folder_path.with_suffix(".names")
        if path.is_file():
            names = read_names(path)
            if len(names) == classes:
                return names, path
    beside = [p for p in sorted(request.weights.parent.glob("*.names")) if p.is_file()]
    fitting = [p for p in beside if len(read_names(p)) == classes]
    if len(fitting) == 1:
        _LOGGER.info("taking class names from %s", fitting[0])
        return read_names(fitting[0]), fitting[0]
    return numbered_names(classes), None


def names_of_data(data: Path) -> Path:
    """The ``names=`` of a Darknet ``.data`` file, as :mod:`boxwright.mentions` finds it.

    Raises:
        ImportFailedError: It names none, none that is there, or one that is out of bounds.
    """
    options: dict[str, str] = {}
    for line in read_text(data).splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.lstrip().startswith("#"):
            options.setdefault(key.strip(), value.strip())
    name = options.get("names", options.get("labels"))
    if not name:
        raise ImportFailedError(f"{data}: names= is missing")
    mention = find_mentioned(data, name)
    if mention.outside is not None:
        raise ImportFailedError(
            f"{data}: its names file {name[:200]!r} lies outside of its own folders, and is not "
            "read for a file that may come from anywhere; put a copy beside it, or give --names"
        )
    if mention.found is None:
        raise ImportFailedError(f"{data}: its names file {name[:200]!r} is not there; give --names")
    return mention.found
