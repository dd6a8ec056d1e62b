"""From the bytes of image files to detections, one stage at a time."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from boxwright.errors import InputError
from boxwright.evaluate.timing import Clock, monotonic_ns
from boxwright.images import import_cv2, load_image
from boxwright.model import BOXES, LANDMARKS, SCORES
from boxwright.postprocess import Postprocessor
from boxwright.preprocess import Preprocessor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.detections import Detections
    from boxwright.evaluate.contenders import Contender

STAGES = ("decode", "resize", "network", "postprocess")
"""In order: file bytes to RGB; to the input size; to the model's outputs; to detections in
pixels of the image (score filter, suppression, mapping)."""

_SYNTHETIC_SIZE = (720, 1280)


class Pipeline:
    """What `Detector` does, cut where a clock is to be read.

    Args:
        contender: Runs the network; its card says what goes on around it.
        clock: Tells the time.
    """

    def __init__(self, contender: Contender, clock: Clock = monotonic_ns) -> None:
        self._contender = contender
        self._clock = clock
        self._prepare = Preprocessor(contender.card)
        self._finish = Postprocessor(contender.card)

    def pixels(self, files: Sequence[bytes]) -> NDArray[np.uint8]:
        """The batch that the network gets for these files."""
        return self._prepare.prepare_batch([load_image(data) for data in files])[0]

    def run(self, files: Sequence[bytes]) -> tuple[list[Detections], tuple[int, ...]]:
        """Detections of each image, and nanoseconds of each of `STAGES`."""
        clock, contender = self._clock, self._contender
        started = clock()
        images = [load_image(data) for data in files]
        decoded = clock()
        batch, geometries = self._prepare.prepare_batch(images)
        resized = clock()
        raw = contender.network(batch)
        computed = clock()
        outputs = contender.tensors(raw)
        # A contender of another library need not give them.
        points = outputs.get(LANDMARKS) if contender.card.landmarks else None
        detections = [
            self._finish(
                outputs[BOXES][index],
                outputs[SCORES][index],
                geometry,
                None if points is None else points[index],
            )
            for index, geometry in enumerate(geometries)
        ]
        finished = clock()
        moments = (started, decoded, resized, computed, finished)
        return detections, tuple(b - a for a, b in itertools.pairwise(moments))


def read_files(paths: Sequence[Path]) -> list[bytes]:
    """The bytes of image files, each decoded once to be sure that it can be.

    Raises:
        ImageError: One cannot be read.
        InputError: There is none.
    """
    if not paths:
        raise InputError("no images were given")
    files = []
    for path in paths:
        load_image(path)
        files.append(path.read_bytes())
    return files


def synthetic_jpeg(seed: int = 0, size: tuple[int, int] = _SYNTHETIC_SIZE) -> bytes:
    """A JPEG like a photo, for want of one; the same seed gives the same image.

    As in photos there is detail at every scale, less of it the finer, and there are edges;
    it takes 0.22 bytes a pixel, where seven test photos take 0.15 to 0.55. Decoding and
    resizing it cost what a photo of its size costs. A detector hardly finds anything in
    it, so suppression has little to do.

    Args:
        seed: Which image.
        size: ``(height, width)`` in pixels.
    """
    from PIL import Image

    cv2 = import_cv2()
    height, width = size
    random = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128, np.float32)
    cells = 2
    while cells < max(size):
        grid = random.normal(0, 1, (max(2, cells * height // width), cells, 3)).astype(np.float32)
        # Colour is smoother than brightness in photos.
        grid = 0.7 * grid.mean(axis=2, keepdims=True) + 0.3 * grid
        picture += 45 / cells**0.25 * cv2.resize(grid, (width, height))
        cells *= 2
    for _ in range(12):
        top, left = random.integers(0, height), random.integers(0, width)
        rows, columns = random.integers(height // 20, height // 3, 2)
        shade = random.normal(0, 30, 3).astype(np.float32)
        picture[top : top + rows, left : left + columns] += shade
    content = io.BytesIO()
    pixels = np.clip(picture, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(content, "JPEG", quality=90)
    return content.getvalue()
