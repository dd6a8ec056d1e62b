"""Which image a quantised model keeps to be tried on (:mod:`boxwright.probe`), and trying it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from boxwright.images import load_image
from boxwright.model import IMAGES, SCORES
from boxwright.preprocess import Preprocessor

if TYPE_CHECKING:
    from boxwright.backends.base import Runner, Tensors
    from boxwright.model import Model
    from boxwright.preprocess import Pixels

# Parameters of a quantisation that leave weights and biases as they were.
_KEEPS_WEIGHTS = frozenset({"method", "percentile", "images", "images_sha256", "rules", "keep"})

# A few are enough to find one with objects on it.
_LOOKED_AT = 16


def choose_probe(model: Model, images: Sequence[str | Path]) -> Pixels | None:
    """Of the first images, the one on which the float model is surest of most.

    Args:
        model: In float.
        images: Files, those it is calibrated on.

    Returns:
        The pixels as the network gets them, uint8 ``(H, W, 3)``; ``None`` without images.

    Raises:
        InputError: An image cannot be read.
    """
    from boxwright import backends

    preprocessor = Preprocessor(model.card)
    ready = [preprocessor.prepare(load_image(path))[0] for path in images[:_LOOKED_AT]]
    if not ready:
        return None
    with backends.load(model, backend="onnxruntime", device="cpu") as runner:
        if SCORES not in {spec.name for spec in runner.outputs}:
            return ready[0]
        fixed = runner.inputs[0].shape[0] or 1
        found = [
            runner.infer({IMAGES: np.repeat(image[None], fixed, axis=0)})[SCORES][:1]
            for image in ready
        ]
    return max(zip(found, ready, strict=True), key=lambda item: float((item[0] ** 2).sum()))[1]


class ProbeCheck:
    """Refuses what building a model for a backend would refuse, without building it.

    What the float network gives on the image is computed once: it is the same for every
    variant of one model, unless biases were corrected or anything else was done to weights.

    Args:
        backend: Its name, for messages.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._floats: dict[str, Tensors | None] = {}

    def __call__(self, model: Model, runner: Runner) -> None:
        """Try a model.

        Args:
            model: Quantised; a variant of the same model each time.
            runner: What the backend made of it.

        Raises:
            BuildError: It computes something else than the model.
            EngineError: It does not run.
        """
        from boxwright.backends.comparison import compare_outputs, judged_as, sample_images
        from boxwright.backends.onnxruntime import plain_outputs

        images = sample_images(model, runner.inputs[0].shape[0])
        compare_outputs(
            plain_outputs(model, images, {}),
            runner.infer({IMAGES: images}),
            plan=f"what {self._backend} makes of the model",
            judged=judged_as(model),
            floats=self._float_outputs(model, images),
        )

    def _float_outputs(self, model: Model, images: Pixels) -> Tensors | None:
        from boxwright.backends.onnxruntime import float_outputs

        steps = model.card.transforms
        if not steps or not _KEEPS_WEIGHTS.issuperset(steps[-1].parameters):
            return float_outputs(model, images, {})
        # Another image, or none, is another question.
        key = hashlib.sha256(images.tobytes()).hexdigest()
        if key not in self._floats:
            self._floats[key] = float_outputs(model, images, {})
        return self._floats[key]
