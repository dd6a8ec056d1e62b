"""Runners that answer from a table, and the small models behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.backends.base import TensorSpec
from boxwright.card import Head, ModelCard
from boxwright.closing import Closing
from boxwright.model import BOXES, IMAGES, SCORES

HEIGHT, WIDTH, ROWS, CLASSES = 40, 60, 50, 3

Arrays = dict[str, NDArray[Any]]


def make_card(heads: tuple[str, ...] = ("raw",)) -> ModelCard:
    return ModelCard(
        "toy",
        tuple("abc"),
        (HEIGHT, WIDTH),
        heads=tuple(Head("yolo", (5, 5), ((1.0, 1.0),), ROWS, name) for name in heads),
    )


def make_outputs(seed: int = 0) -> Arrays:
    """Far boxes with a few clear scores, and a raw head."""
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 30, (ROWS, 2))
    boxes = np.concatenate([corner, corner + random.uniform(5, 20, (ROWS, 2))], axis=1)
    scores = random.uniform(0, 0.004, (ROWS, CLASSES))
    scores[np.arange(20), random.integers(0, CLASSES, 20)] = random.uniform(0.1, 0.9, 20)
    return {
        BOXES: boxes[None].astype(np.float32),
        SCORES: scores[None].astype(np.float32),
        "raw": random.normal(size=(1, 4, 5, 5)).astype(np.float32),
    }


class FakeRunner(Closing):
    """Gives fixed outputs, whatever the pixels; `respond` may change them per image."""

    def __init__(
        self,
        outputs: Arrays,
        batch: int | None = None,
        respond: Callable[[Arrays, NDArray[Any]], Arrays] | None = None,
    ) -> None:
        self._outputs = outputs
        self._respond = respond
        self.batch = batch
        self.fed: list[NDArray[Any]] = []

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        shape = (self.batch, HEIGHT, WIDTH, 3)
        return (TensorSpec(IMAGES, np.dtype(np.uint8), shape),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name, value.dtype, (None, *value.shape[1:]))
            for name, value in self._outputs.items()
        )

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        images = feed[IMAGES]
        self.fed.append(images)
        assert self.batch in (None, len(images))
        outputs = self._outputs if self._respond is None else self._respond(self._outputs, images)
        return {name: np.repeat(value, len(images), axis=0) for name, value in outputs.items()}

    def close(self) -> None:
        """Nothing to free."""


def make_images(count: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)
