"""Calibration images as lessons: cut out, mirrored, and a part of them held back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from boxwright.images import load_image
from boxwright.parallel import map_images
from boxwright.preprocess import Preprocessor

if TYPE_CHECKING:
    from boxwright.card import ModelCard
    from boxwright.preprocess import Pixels

# Every so many-th image is not learnt from, at most so many.
_HELD_BACK_EVERY = 5
_MOST_HELD_BACK = 32
# The side of what is cut out, of the image's own.
_SMALLEST_SIDE = 0.6


class Lessons:
    """Batches to learn from; the same seed gives the same batches, whichever is asked for first.

    Args:
        card: Of the model, which says how images are prepared.
        images: Image files. Every fifth is held back; of fewer than five, all are looked at
            both to learn from and to judge by.
        batch: Images at a time.
        seed: Of what is cut out and mirrored.

    Attributes:
        learnt: What is learnt from.
        held_back: What is judged by.
    """

    def __init__(
        self, card: ModelCard, images: Sequence[str | Path], *, batch: int, seed: int
    ) -> None:
        self._preprocessor = Preprocessor(card)
        self._batch, self._seed = batch, seed
        paths = [Path(image) for image in images]
        held = paths[_HELD_BACK_EVERY - 1 :: _HELD_BACK_EVERY][:_MOST_HELD_BACK]
        self.held_back = held or paths
        self.learnt = [path for path in paths if path not in held] or paths

    def batch(self, number: int) -> Pixels:
        """Batch `number` of all: uint8 ``(batch, H, W, 3)``.

        Raises:
            ImageError: An image cannot be read.
        """
        first = number * self._batch
        return np.stack(map_images(self._lesson, range(first, first + self._batch)))

    def judged(self) -> list[Pixels]:
        """What is held back, as it is: uint8 ``(n, H, W, 3)``, a batch each."""

        def prepare(path: Path) -> Pixels:
            return self._preprocessor.prepare(load_image(path))[0]

        starts = range(0, len(self.held_back), self._batch)
        batches = [self.held_back[start : start + self._batch] for start in starts]
        return [np.stack(map_images(prepare, paths)) for paths in batches]

    def _lesson(self, number: int) -> Pixels:
        # All of them in a new order, again and again.
        turn, at = divmod(number, len(self.learnt))
        order = np.random.default_rng([self._seed, turn]).permutation(len(self.learnt))
        random = np.random.default_rng([self._seed, turn, at])
        return self._preprocessor.prepare(varied(load_image(self.learnt[order[at]]), random))[0]


def varied(image: Pixels, random: np.random.Generator) -> Pixels:
    """A part of an image of about its own proportions, every second one mirrored.

    Args:
        image: uint8 ``(H, W, 3)``.
        random: Says which part.

    Returns:
        uint8 ``(h, w, 3)``, sides 0.6 to 1 times as long.
    """
    height, width = image.shape[:2]
    share = random.uniform(_SMALLEST_SIDE, 1.0, 2)
    h, w = (max(1, round(side * part)) for side, part in zip((height, width), share, strict=True))
    top, left = random.integers(0, [height - h + 1, width - w + 1])
    cut = image[top : top + h, left : left + w]
    return np.ascontiguousarray(cut[:, ::-1] if random.random() < 0.5 else cut)
