"""A second opinion on a Darknet network: OpenCV's own Darknet importer.

It is an independent reading of the same cfg and weights, so agreement says that both read
the layers alike. It is no substitute for Darknet: batch norm takes 1e-6 where Darknet takes
1e-5 (see :meth:`Tolerances.opencv`), and several layers and heads are unknown to it or read
wrongly. OpenCV 5 dropped the importer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.boxes import cxcywh_to_xyxy
from boxwright.errors import BackendUnavailableError, InputError
from boxwright.evaluate.reference import SampledTensor
from boxwright.evaluate.subject import Answer
from boxwright.images import import_cv2
from boxwright.model import BOXES, SCORES

if TYPE_CHECKING:
    from numpy.typing import NDArray

# OpenCV's output rows: cx, cy, w, h, objectness, then one score per class.
_BEFORE_CLASSES = 5
_HEADS = ("yolo", "region")


def unavailable() -> str | None:
    """Why this OpenCV cannot read Darknet networks, or ``None`` when it can."""
    cv2 = import_cv2()
    if not hasattr(cv2, "dnn") or not hasattr(cv2.dnn, "readNetFromDarknet"):
        return (
            f"OpenCV {cv2.__version__} has no Darknet importer; it comes with "
            "opencv-python-headless below 5"
        )
    return None


class OpenCvDarknet:
    """A Darknet network run by OpenCV, as one side of a parity check.

    Gives raw heads, and `boxes` and `scores` in our terms: its rows are, as ours, cell by
    cell and anchor by anchor, and its class scores already hold the objectness. Scores
    below the head's ``thresh`` are zeroed by OpenCV; the cfg is handed over with that key
    set to 0, so that none is. A network with a [region] head gives no scores: there OpenCV
    also zeroes every score whose objectness is below 0.5, which no key switches off.

    Args:
        cfg: The cfg file.
        weights: The weights file.

    Raises:
        BackendUnavailableError: See :func:`unavailable`.
        InputError: A file cannot be read, or OpenCV does not accept the network.
    """

    def __init__(self, cfg: str | Path, weights: str | Path) -> None:
        reason = unavailable()
        if reason is not None:
            raise BackendUnavailableError(reason)
        self._cv2 = import_cv2()
        self.name = f"OpenCV {self._cv2.__version__} ({Path(cfg).name})"
        self.card = None
        self.images: NDArray[np.uint8] | None = None
        text = _without_thresholds(_read(cfg).decode(errors="replace"))
        try:
            self._net = self._cv2.dnn.readNetFromDarknet(
                np.frombuffer(text.encode(), np.uint8), np.frombuffer(_read(weights), np.uint8)
            )
            # Its plain CPU code: the default may be another engine on some builds.
            self._net.setPreferableBackend(self._cv2.dnn.DNN_BACKEND_OPENCV)
            layers = list(self._net.getLayerNames())
            self._outputs = list(self._net.getUnconnectedOutLayersNames())
            # Some layers are only refused when they are asked for.
            types = {self._net.getLayer(output).type for output in self._outputs}
        except self._cv2.error as error:
            raise InputError(f"{self.name} does not accept the network: {_first(error)}") from error
        self._gives_scores = "region" not in _sections(text)
        # Before each head OpenCV puts a layer that moves the channels to the end.
        self.heads = tuple(layers[layers.index(output) - 1] for output in self._outputs)
        if types != {"Region"} or not all(head.startswith("permute_") for head in self.heads):
            raise InputError(f"{self.name}: its outputs are no known heads: {self._outputs}")

    def answer(self, index: int, image: NDArray[np.uint8]) -> Answer:
        """Run the network on one RGB image ``(H, W, 3)`` at network size.

        Raises:
            InputError: OpenCV fails on it.
        """
        blob = self._cv2.dnn.blobFromImage(np.ascontiguousarray(image), 1 / 255)
        try:
            self._net.setInput(blob)
            results = self._net.forward([*self._outputs, *self.heads])
        except self._cv2.error as error:
            raise InputError(f"{self.name} cannot run the network: {_first(error)}") from error
        rows, raws = results[: len(self._outputs)], results[len(self._outputs) :]
        tensors = {
            head: SampledTensor.full(np.ascontiguousarray(raw.transpose(0, 3, 1, 2)))
            for head, raw in zip(self.heads, raws, strict=True)
        }
        every = np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows])
        height, width = image.shape[:2]
        scale = np.array([width, height, width, height], np.float32)
        tensors[BOXES] = SampledTensor.full((cxcywh_to_xyxy(every[:, :4]) * scale)[None])
        if self._gives_scores:
            tensors[SCORES] = SampledTensor.full(every[None, :, _BEFORE_CLASSES:].copy())
        return Answer(tensors)


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _without_thresholds(text: str) -> str:
    """The cfg with ``thresh=0`` in every head; in [region] the key is for training only."""
    lines: list[str] = []
    in_head = False
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("["):
            in_head = bare.strip("[]").lower() in _HEADS
            lines += [line, "thresh=0"] if in_head else [line]
        elif not (in_head and bare.partition("=")[0].strip() == "thresh"):
            lines.append(line)
    return "\n".join(lines) + "\n"


def _sections(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line.strip("[]").lower() for line in lines if line.startswith("[")]


def _first(error: Any) -> str:
    """OpenCV's message without its source path and line feed."""
    return " ".join(str(getattr(error, "err", "") or error).split())[:200]
