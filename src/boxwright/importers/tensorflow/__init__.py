"""Import of TensorFlow's files: TensorFlow Lite, frozen graphs, SavedModels, Keras.

All but Keras are read without TensorFlow. See ``docs/how-to/import-tensorflow.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boxwright.importers.registry import (
    Confidence,
    ImportRequest,
    Recognition,
    Verification,
    read_start,
)

if TYPE_CHECKING:
    from boxwright.importers.tensorflow.network import Network
    from boxwright.model import Model

_HDF5 = b"\x89HDF\r\n\x1a\n"


class TensorFlowImporter:
    """See :class:`boxwright.importers.registry.Importer`."""

    name = "tensorflow"
    description = "TensorFlow Lite, frozen graphs (.pb), SavedModels and Keras files"

    def recognise(self, request: ImportRequest) -> Recognition | None:
        """By what the files begin with; a SavedModel by its folder."""
        path = request.weights
        if path.is_dir():
            if (path / "saved_model.pb").is_file():
                return Recognition(Confidence.CERTAIN, "the folder holds a saved_model.pb")
            return None
        if path.name == "saved_model.pb":
            return Recognition(Confidence.CERTAIN, "it is called saved_model.pb")
        start = read_start(path)
        if start[4:8] == b"TFL3":
            return Recognition(Confidence.CERTAIN, "it begins as a TensorFlow Lite file does")
        if start.startswith(_HDF5):
            return Recognition(Confidence.LIKELY, "it is an HDF5 file, as Keras writes")
        if start.startswith(b"PK") and path.suffix == ".keras":
            return Recognition(Confidence.LIKELY, "it is an archive called .keras")
        if path.suffix == ".pb" and path.is_file():
            if _looks_like_graph(start):
                return Recognition(Confidence.LIKELY, "it begins with a node of a graph")
            return Recognition(Confidence.POSSIBLE, "it is called .pb")
        return None

    def load(self, request: ImportRequest) -> Model:
        """Import; see :func:`boxwright.importers.import_model`.

        Raises:
            ImportFailedError: A file is damaged, or cannot be converted faithfully.
            MissingExtraError: A Keras file needs TensorFlow, which is not installed.
        """
        from boxwright.importers.tensorflow.convert import load

        return load(request, read_network(request.weights))

    def verify(self, request: ImportRequest, model: Model) -> Verification:
        """Run the source by TensorFlow, or TensorFlow Lite's interpreter, and compare."""
        from boxwright.importers.tensorflow.verify import verify

        return verify(request, model)


IMPORTER = TensorFlowImporter()


def read_network(path: Path) -> Network:
    """The network in a file or folder of any of the kinds.

    Raises:
        ImportFailedError: It is none of them, damaged, or cannot be converted.
        MissingExtraError: A Keras file needs TensorFlow, which is not installed.
    """
    from boxwright.importers.tensorflow.frozen import read_frozen
    from boxwright.importers.tensorflow.keras import read_keras
    from boxwright.importers.tensorflow.savedmodel import read_saved_model
    from boxwright.importers.tensorflow.tflite import read_tflite

    if path.is_dir():
        return read_saved_model(path)
    if path.name == "saved_model.pb":
        return read_saved_model(path.parent)
    start = read_start(path)
    if start[4:8] == b"TFL3":
        return read_tflite(path)
    if start.startswith((_HDF5, b"PK")):
        return read_keras(path)
    return read_frozen(path)


def _looks_like_graph(start: bytes) -> bool:
    """GraphDef: field 1 is a node, and that node's field 1 its name."""
    if len(start) < 4 or start[0] != 0x0A:
        return False
    at = 1
    while at < 6 and start[at] & 0x80:
        at += 1
    return start[at + 1 : at + 2] == b"\x0a"
