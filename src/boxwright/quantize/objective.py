"""What a quantised model is worth: AP on labels, or agreement with the float model.

Both are in points of 100, and a *drop* is what the float model has more, so that one budget
can be stated for either. What the two are:

- :class:`LabelledObjective`: COCO's AP (the mean over IoU 0.50 to 0.95) on a labelled dataset.
- :class:`AgreementObjective`: the float model's own detections above its score threshold
  stand in for labels, and AP at IoU 0.50 (area under the curve, as Pascal VOC 2010 defines
  it) says how many of them are found again and how far in front of anything else. The float
  model has 100 by construction. IoU 0.50 and not the mean over thresholds: rounding moves
  boxes by a pixel or so, which labels, themselves that inexact, hardly notice, while an IoU
  of 0.95 with the float model's own box does.

A cheap stand-in for both while layers are compared is :class:`HeadReference`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from boxwright.datasets import Dataset, map_classes
from boxwright.datasets.dataset import GroundTruth, LabelledImage
from boxwright.errors import InputError
from boxwright.evaluate.run import COCO_SCORE, evaluate
from boxwright.extras import require
from boxwright.files import sha256_file
from boxwright.model import IMAGES
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.canonical import canonical_runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.backends.base import Runner
    from boxwright.detections import Detections
    from boxwright.model import Model

DEFAULT_DROP = 0.5
"""Points of AP that may be lost where nothing is stated."""

DEFAULT_AGREEMENT_DROP = 5.0
"""Points of agreement likewise. Agreement is stricter than AP: a detection near the score
threshold that comes or goes counts, also where it was wrong. On 80 images INT8 that lost less
than half a point of AP lost 2 points of agreement (YOLOv4-tiny) to 12 (YOLO-Fastest)."""

# AP at IoU 0.5 looks at the whole curve; nothing below this changes it visibly.
_LOWEST = 0.01
_MAX_DETECTIONS = 100
# Stands for no error at all, which has no logarithm.
_MOST_DECIBELS = 200.0


class Objective(Protocol):
    """Measures a model; more is better."""

    @property
    def name(self) -> str:
        """What is measured, for people."""
        ...

    @property
    def key(self) -> str:
        """Equal for objectives that give equal values."""
        ...

    @property
    def images(self) -> Sequence[Path]:
        """The images it looks at."""
        ...

    def measure(
        self, model: Model, runner: Runner | None = None, progress: ProgressCallback = silent
    ) -> float:
        """Points of 100.

        Args:
            model: Whose card says how images are prepared and boxes chosen.
            runner: What runs it, which is closed; by default the model as its graph says.
            progress: Told of the images done.
        """
        ...


@dataclass(frozen=True)
class LabelledObjective:
    """AP on labelled images (needs the ``eval`` extra).

    Attributes:
        dataset: The labels.
    """

    dataset: Dataset

    def __post_init__(self) -> None:
        require("faster_coco_eval", extra="eval")  # now, not after the calibration

    @property
    def name(self) -> str:
        """See :class:`Objective`."""
        return f"AP on {len(self.dataset)} labelled images"

    @property
    def key(self) -> str:
        """See :class:`Objective`."""
        return f"coco {self.dataset.sha256} {_digest_of(self.images)}"

    @property
    def images(self) -> Sequence[Path]:
        """See :class:`Objective`."""
        return [image.path for image in self.dataset.images]

    def measure(
        self, model: Model, runner: Runner | None = None, progress: ProgressCallback = silent
    ) -> float:
        """See :class:`Objective`.

        Raises:
            InputError: The model knows none of the dataset's classes, or the labels hold no
                object, so that there is no AP.
        """
        from boxwright.detector import Detector

        with Detector(
            model,
            runner=runner or canonical_runner(model),
            score_threshold=COCO_SCORE,
            max_detections=_MAX_DETECTIONS,
        ) as detector:
            found = evaluate(detector, self.dataset, progress=progress).accuracy.headline
        if found is None:
            raise InputError(f"{self.dataset.name} labels no object, so no AP can be measured")
        return 100.0 * float(found)


class AgreementObjective:
    """Agreement with what the float model finds on images without labels.

    Args:
        model: The float model.
        images: Image files.
        progress: Told of the images done while the float model looks at them.

    Raises:
        InputError: There are no images, one cannot be read, or the float model finds nothing.
    """

    def __init__(
        self, model: Model, images: Sequence[str | Path], progress: ProgressCallback = silent
    ) -> None:
        from boxwright.detector import Detector

        self._paths = [Path(image) for image in images]
        if not self._paths:
            raise InputError("agreement with the float model is measured on images; got none")
        with Detector(model, runner=canonical_runner(model)) as detector:
            found = _detect(detector, self._paths, "detect with the float model", progress)
        self._dataset = _as_labels(model, self._paths, found)
        if not self._dataset.objects:
            raise InputError(
                f"{model.card.name} finds nothing above a score of "
                f"{model.card.score_threshold:g} in {len(self._paths)} images, so there is "
                "nothing to agree with; give images like those it was trained for"
            )

    @property
    def name(self) -> str:
        """See :class:`Objective`."""
        return (
            f"agreement with the float model on {self._dataset.objects} detections "
            f"in {len(self._paths)} images"
        )

    @property
    def key(self) -> str:
        """See :class:`Objective`."""
        return f"agreement {self._dataset.sha256} {_digest_of(self._paths)}"

    @property
    def images(self) -> Sequence[Path]:
        """See :class:`Objective`."""
        return self._paths

    def measure(
        self, model: Model, runner: Runner | None = None, progress: ProgressCallback = silent
    ) -> float:
        """See :class:`Objective`."""
        from boxwright.detector import Detector
        from boxwright.evaluate.voc import voc_accuracy

        with Detector(
            model,
            runner=runner or canonical_runner(model),
            score_threshold=_LOWEST,
            max_detections=None,
        ) as detector:
            classes = map_classes(detector.card.class_names, self._dataset.class_names)
            found = _detect(detector, self._paths, "detect", progress)
        accuracy = voc_accuracy(
            self._dataset, [classes.apply(item) for item in found], definition="voc2010"
        )
        # `map_present` is there: the labels hold an object at least.
        return 100.0 * float(accuracy.map_present or 0.0)


def _detect(
    detector: Any, paths: Sequence[Path], stage: str, progress: ProgressCallback
) -> list[Detections]:
    found: list[Detections] = []
    size = detector.batch_size
    for start in range(0, len(paths), size):
        found += detector.detect_batch(paths[start : start + size])
        progress(stage, len(found), len(paths))
    return found


def _as_labels(model: Model, paths: Sequence[Path], found: Sequence[Detections]) -> Dataset:
    images = []
    for number, (path, detections) in enumerate(zip(paths, found, strict=True), start=1):
        corners = detections.xyxy.astype(np.float64)
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        sound = (xywh[:, 2:] > 0).all(axis=1)
        boxes = GroundTruth.from_xywh(xywh[sound], detections.class_id[sound])
        images.append(LabelledImage(path, number, None, None, boxes))
    names = model.card.class_names
    return Dataset(
        f"detections of {model.card.name}",
        "coco",
        names,
        tuple(range(1, len(names) + 1)),
        tuple(images),
    )


def _digest_of(paths: Sequence[Path]) -> str:
    """Of the images' contents: labels of the same name may lie beside other pixels."""
    hashes = [sha256_file(path) if path.is_file() else None for path in paths]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


class HeadReference:
    """The float model's raw head tensors on a few images, to hold others against.

    Args:
        model: The float model.
        pixels: uint8 ``(N, H, W, 3)`` at the model's input size.
    """

    def __init__(self, model: Model, pixels: NDArray[np.uint8]) -> None:
        self._tensors = _compared(model)
        self._pixels = pixels
        self._reference = self._run(model)

    def sqnr(self, model: Model) -> float:
        """Signal to quantisation noise of the worst head, in decibels; more is better.

        ``10 * log10(sum(float^2) / sum((float - model)^2))`` over all images; 200 stands
        for no difference at all.
        """
        worst = _MOST_DECIBELS
        for expected, got in zip(self._reference, self._run(model), strict=True):
            signal = sum(float(np.square(a, dtype=np.float64).sum()) for a in expected)
            noise = sum(
                float(np.square(a.astype(np.float64) - b).sum())
                for a, b in zip(expected, got, strict=True)
            )
            worst = min(worst, _decibels(signal, noise))
        return worst

    def _run(self, model: Model) -> list[list[NDArray[np.float32]]]:
        """The values of each tensor, image by image."""
        from boxwright.evaluate.heads import with_head_outputs

        values: list[list[NDArray[np.float32]]] = [[] for _ in self._tensors]
        with canonical_runner(with_head_outputs(model, self._tensors)) as runner:
            fixed = runner.inputs[0].shape[0] or 1
            for image in self._pixels:
                outputs = runner.infer({IMAGES: np.repeat(image[None], fixed, axis=0)})
                for name, taken in zip(self._tensors, values, strict=True):
                    taken.append(outputs[name][:1])
        return values


def _compared(model: Model) -> tuple[str, ...]:
    """The raw heads where the card knows them, else the graph's outputs."""
    from boxwright.evaluate.heads import head_tensors

    made = {name for node in model.proto.graph.node for name in node.output}
    heads = tuple(name for name in head_tensors(model) if name in made)
    return heads or tuple(value.name for value in model.proto.graph.output)


def _decibels(signal: float, noise: float) -> float:
    if noise <= 0:
        return _MOST_DECIBELS
    if signal <= 0:
        return -_MOST_DECIBELS
    return float(np.clip(10 * math.log10(signal / noise), -_MOST_DECIBELS, _MOST_DECIBELS))
