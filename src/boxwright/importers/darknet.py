"""Import of Darknet detectors: a cfg, its weights, and the class names."""

from __future__ import annotations

import logging
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
from boxwright.files import open_regular, printable, sha256_file
from boxwright.importers.registry import ImportRequest
from boxwright.model import Model

_LOGGER = logging.getLogger("boxwright")

# Darknet letterboxes with 0.5, which is 127.5 in pixels.
_PAD_VALUE = 128
# The -thresh that Darknet's own command line starts from.
_SCORE_THRESHOLD = 0.25
_MAX_NAMES_BYTES = 4 << 20


class DarknetImporter:
    """YOLOv1 to v4, v7 and their kin, trained with Darknet."""

    name = "darknet"
    description = "Darknet cfg and weights (YOLOv1 to v4, v7, Yolo-Fastest, MobileNet-YOLO)"

    def recognises(self, request: ImportRequest) -> bool:
        """By the suffix of the weights, or because a cfg was given."""
        return request.weights.suffix == ".weights" or (
            request.cfg is not None and request.cfg.suffix == ".cfg"
        )

    def load(self, request: ImportRequest) -> Model:
        """Import; see :func:`boxwright.importers.import_model`.

        Raises:
            ImportFailedError: With the file and, for a cfg, the line and the section.
        """
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
        return _fit(request.names, classes, "the names given"), None
    path = request.names
    if path is None and request.data is not None:
        path = _names_of_data(request.data)
    if path is not None:
        return _fit(_read_names(path), classes, str(path)), path
    for folder_path in (request.weights, cfg):
        path = folder_path.with_suffix(".names")
        if path.is_file():
            names = _read_names(path)
            if len(names) == classes:
                return names, path
    beside = [p for p in sorted(request.weights.parent.glob("*.names")) if p.is_file()]
    fitting = [p for p in beside if len(_read_names(p)) == classes]
    if len(fitting) == 1:
        _LOGGER.info("taking class names from %s", fitting[0])
        return _read_names(fitting[0]), fitting[0]
    _LOGGER.warning(
        "no class names for %d classes: they are called class_0 and so on (give --names)", classes
    )
    return tuple(f"class_{i}" for i in range(classes)), None


def _fit(names: tuple[str, ...], classes: int, origin: str) -> tuple[str, ...]:
    if len(names) != classes:
        raise ImportFailedError(
            f"{origin}: expected {classes} class names, as the cfg says, got {len(names)}"
        )
    return names


def _read_names(path: Path) -> tuple[str, ...]:
    """One name per line; blank lines at the end do not count."""
    text = _read_text(path)
    return tuple(line.strip() for line in text.rstrip().splitlines())


def _read_text(path: Path) -> str:
    try:
        with open_regular(path) as stream:
            data = stream.read(_MAX_NAMES_BYTES + 1)
    except OSError as error:
        raise ImportFailedError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > _MAX_NAMES_BYTES or b"\0" in data:
        raise ImportFailedError(f"{path} is not a list of class names")
    return data.decode("utf-8-sig", errors="replace")


def _names_of_data(data: Path) -> Path:
    """The ``names=`` of a Darknet ``.data`` file, seen from it or from its parents."""
    options: dict[str, str] = {}
    for line in _read_text(data).splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.lstrip().startswith("#"):
            options.setdefault(key.strip(), value.strip())
    name = options.get("names", options.get("labels"))
    if not name:
        raise ImportFailedError(f"{data}: names= is missing")
    folders = [Path(), data.parent, *data.resolve().parent.parents[:2]]
    candidates = [*(folder / name for folder in folders), data.parent / Path(name).name]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise ImportFailedError(f"{data}: its names file {name!r} is not there; give --names")
    return found
