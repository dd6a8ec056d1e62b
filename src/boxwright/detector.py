"""The detector: an image in, detections out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.card import ModelCard
from boxwright.closing import Closing
from boxwright.errors import InputError, ModelError
from boxwright.images import MAX_PIXELS, load_image
from boxwright.model import BOXES, IMAGES, LANDMARKS, SCORES
from boxwright.parallel import map_images
from boxwright.postprocess import Postprocessor
from boxwright.preprocess import Preprocessor
from boxwright.progress import ProgressCallback, silent
from boxwright.values import whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from boxwright.attributes import AttributeModel
    from boxwright.backends.base import Precision, Runner
    from boxwright.card import Crop, Interpolation, NmsKind, Resize
    from boxwright.detections import Detections
    from boxwright.engine import Engine
    from boxwright.images import ImageSource
    from boxwright.model import Model
    from boxwright.preprocess import Geometry

BATCH_SIZE = 8
"""How many images run at once where neither the caller nor the model says."""


class Detector(Closing):
    """Finds objects in images, with an engine or a model as it is.

    Each setting is the argument where one is given, else the card's, else the default.
    Use it as a context manager, or call :meth:`close`. One thread at a time may call it:
    the runner below holds buffers. For several threads, make several detectors.

    Args:
        source: An engine (``.bw``) or model (``.onnx``), as a path or opened; with
            `runner`, a bare model card will do.
        backend: The runtime to use; by default one that the engine was built for.
        precision: The precision to run; by default one that the engine was built in.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        rebuild: Build a plan where the engine has none that fits this machine; with
            ``False`` nothing is compiled.
        progress: Called while a plan is rebuilt, as ``progress(stage, done, total)``.
        score_threshold: 0 to 1; a detection's score must exceed it.
        nms_kind: ``iou``, ``diou`` or ``none``.
        iou_threshold: 0 to 1; an overlap above it suppresses the lower score.
        beta: Exponent of the distance term of ``diou``.
        class_agnostic: Let overlapping boxes of different classes suppress each other.
        multi_label: Allow one box several classes.
        max_detections: Keep this many of the best an image; ``None`` keeps all.
        classes: Names or numbers of the only classes wanted.
        clip: Limit boxes to the image.
        resize: ``letterbox`` or ``stretch``.
        interpolation: ``darknet`` or ``opencv``.
        batch_size: Images per run in :meth:`detect_batch`; by default the model's fixed
            batch, or `BATCH_SIZE`.
        max_pixels: Images of more pixels are refused.
        runner: Run with this instead of loading `source`; the detector closes it.
        attributes: Attribute models (task ``classify``), each as a path, an engine, a model
            or an :class:`~boxwright.attributes.AttributeModel`. What they say of every box
            becomes `Detections.attributes`; the detector closes them.
        attributes_crop: What attribute models given as a path, an engine or a model are to
            see, instead of what their cards say; see
            :func:`boxwright.crops.resolve_crop`.

    Raises:
        InputError: An argument is wrong, or `source` cannot be read; see also
            `boxwright.backends.load`.
        ModelError: The model does not detect.
    """

    def __init__(
        self,
        source: str | Path | Engine | Model | ModelCard,
        *,
        backend: str | None = None,
        precision: Precision | None = None,
        device: str = "auto",
        rebuild: bool = True,
        progress: ProgressCallback = silent,
        score_threshold: float | None = None,
        nms_kind: NmsKind | None = None,
        iou_threshold: float | None = None,
        beta: float | None = None,
        class_agnostic: bool | None = None,
        multi_label: bool | None = None,
        max_detections: int | None = None,
        classes: Sequence[str | int] | None = None,
        clip: bool = True,
        resize: Resize | None = None,
        interpolation: Interpolation | None = None,
        batch_size: int | None = None,
        max_pixels: int = MAX_PIXELS,
        runner: Runner | None = None,
        attributes: Sequence[str | Path | Engine | Model | AttributeModel] = (),
        attributes_crop: Crop | str | None = None,
    ) -> None:
        opened = open_source(source)
        self.card = _card_of_detector(opened)
        # Arguments are checked before the engine is loaded, which may take long.
        self.preprocessor = Preprocessor(self.card, resize=resize, interpolation=interpolation)
        self.postprocessor = Postprocessor(
            self.card,
            score_threshold=score_threshold,
            nms_kind=nms_kind,
            iou_threshold=iou_threshold,
            beta=beta,
            class_agnostic=class_agnostic,
            multi_label=multi_label,
            max_detections=max_detections,
            classes=classes,
            clip=clip,
        )
        self.max_pixels = max_pixels
        batch_size = _check_batch_size(batch_size)
        self._closed = False
        # Each with the landmarks that its crops are aligned by.
        self._attributes: list[tuple[AttributeModel, list[int]]] = []
        how: dict[str, Any] = {"rebuild": rebuild, "progress": progress}
        if runner is None:
            runner = load_source(opened, backend=backend, device=device, precision=precision, **how)
        self._runner = runner
        try:
            # The backend and precision are those of one engine; another may have others.
            self._open_attributes(attributes, device=device, crop=attributes_crop, **how)
            self._fixed_batch = _fixed_batch(self._runner)
            self.batch_size = _choose_batch_size(batch_size, self._fixed_batch)
        except BaseException:
            self.close()
            raise

    @property
    def settings(self) -> dict[str, Any]:
        """Everything resolved that the results depend on beside the model; JSON values."""
        settings = {**self.preprocessor.settings, **self.postprocessor.settings}
        if self._attributes:
            settings["attributes"] = [model.settings for model, _ in self._attributes]
        return settings

    def _open_attributes(
        self, sources: Sequence[str | Path | Engine | Model | AttributeModel], **how: Any
    ) -> None:
        if not sources:
            return
        from boxwright.attributes import AttributeModel

        if isinstance(sources, (str, Path)) or not _many(sources):
            raise InputError(f"attributes must be a list of models, got {sources!r}")
        names: set[str] = set()
        for source in sources:
            model = source if isinstance(source, AttributeModel) else AttributeModel(source, **how)
            # Kept first, so that it is closed whatever is wrong with it.
            self._attributes.append((model, []))
            self._attributes[-1][1].extend(model.choose_points(self.card.landmarks))
            if twice := names & set(model.names):
                raise InputError(f"two attribute models say {sorted(twice)[0]!r} of a detection")
            names.update(model.names)

    def __call__(self, image: ImageSource) -> Detections:
        """Detect in one image.

        Args:
            image: Whatever `load_image` takes: a path, bytes, a Pillow image, or a uint8
                RGB array of shape ``(H, W, 3)``.

        Returns:
            Boxes in pixels of the (upright) image, best score first.

        Raises:
            ImageError: The image cannot be read.
            InputError: The detector is closed.
        """
        return self.detect_batch([image])[0]

    def detect_batch(self, images: Iterable[ImageSource]) -> list[Detections]:
        """Detect in several images, `batch_size` at a time.

        The sizes of the images may differ. Results are those of one image at a time.

        Raises:
            ImageError: An image cannot be read.
            InputError: The detector is closed, or `images` is one image.
        """
        one = (str, bytes, bytearray, memoryview, Path)
        # An array of four axes is several images; a Pillow image has no length.
        if isinstance(images, one) or getattr(images, "ndim", 4) < 4 or not _many(images):
            raise InputError("detect_batch takes a list of images, got one; call the detector")
        results: list[Detections] = []
        for chunk in _chunks(images, self.batch_size):
            pixels = map_images(self._load_image, chunk)
            batch, geometries = self.preprocessor.prepare_batch(pixels)
            results.extend(self._describe(pixels, self._detect(batch, geometries)))
        return results

    def _describe(
        self, images: list[NDArray[np.uint8]], found: list[Detections]
    ) -> list[Detections]:
        """The detections with what the attribute models say of them."""
        for model, numbers in self._attributes:
            points = [d.landmarks[:, numbers] for d in found if d.landmarks is not None]
            boxes = [detections.xyxy for detections in found]
            columns = model(images, boxes, points if numbers else None)
            found = [
                dataclasses.replace(detections, attributes={**detections.attributes, **more})
                for detections, more in zip(found, columns, strict=True)
            ]
        return found

    def _load_image(self, image: ImageSource) -> NDArray[np.uint8]:
        return load_image(image, max_pixels=self.max_pixels)

    def _detect(self, batch: NDArray[np.uint8], geometries: list[Geometry]) -> list[Detections]:
        if self._closed:
            raise InputError("the detector is closed; make a new one")
        missing = (self._fixed_batch or 0) - len(batch)
        if missing > 0:
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        outputs = self._runner.infer({IMAGES: batch})
        points = outputs[LANDMARKS] if self.card.landmarks else [None] * len(geometries)
        return [
            self.postprocessor(outputs[BOXES][i], outputs[SCORES][i], geometry, points[i])
            for i, geometry in enumerate(geometries)
        ]

    def close(self) -> None:
        """Free what the runner holds; harmless when called twice."""
        if not self._closed:
            self._closed = True
            for model, _ in self._attributes:
                model.close()
            self._runner.close()


def open_source(source: str | Path | Engine | Model | ModelCard) -> Engine | Model | ModelCard:
    """What `source` names, opened; what is open already is returned.

    Raises:
        InputError: It is none of these, or cannot be read.
    """
    if not isinstance(source, (str, Path)):
        if isinstance(getattr(source, "card", source), ModelCard):
            return source
        raise InputError(
            "a detector is made from a .bw or .onnx path, an Engine or a Model, "
            f"got {type(source).__name__}"
        )
    from boxwright.engine import Engine, is_engine_file
    from boxwright.model import Model

    if is_engine_file(source) or Path(source).suffix.lower() == ".bw":
        return Engine.open(source)
    return Model.load(source)


def _card_of_detector(opened: Engine | Model | ModelCard) -> ModelCard:
    card = opened if isinstance(opened, ModelCard) else opened.card
    if card.task != "detect":
        raise ModelError(f"{card.name} is a model to {card.task}; a detector needs task 'detect'")
    return card


def load_source(opened: Engine | Model | ModelCard, **how: Any) -> Runner:
    """A runner for what was opened; `how` as :func:`boxwright.backends.load` takes it.

    Raises:
        InputError: It is a card alone.
    """
    if isinstance(opened, ModelCard):
        raise InputError("a model card alone cannot run; give the engine or model, or a runner")
    from boxwright.backends import load

    return load(opened, **how)


def _many(images: object) -> bool:
    return hasattr(images, "__iter__") or hasattr(images, "__getitem__")


def _fixed_batch(runner: Runner) -> int | None:
    """The batch the runner insists on, or ``None`` where it takes any."""
    spec = next((spec for spec in runner.inputs if spec.name == IMAGES), None)
    if spec is None:
        raise ModelError(
            f"the model must have an input {IMAGES!r}, got {[s.name for s in runner.inputs]}; "
            "import it with boxwright import"
        )
    return spec.shape[0]


def _check_batch_size(batch_size: int | None) -> int | None:
    if batch_size is not None and (whole(batch_size) or 0) < 1:
        raise InputError(f"batch_size must be a whole number of 1 or more, got {batch_size!r}")
    return whole(batch_size)


def _choose_batch_size(wanted: int | None, fixed: int | None) -> int:
    if fixed is None:
        return BATCH_SIZE if wanted is None else wanted
    if wanted is not None and wanted > fixed:
        raise InputError(
            f"batch_size must be at most {fixed}, which the engine was built for, got {wanted}; "
            "build it with a larger batch"
        )
    return fixed if wanted is None else wanted


def _chunks(items: Iterable[ImageSource], size: int) -> Iterator[list[ImageSource]]:
    chunk: list[ImageSource] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
