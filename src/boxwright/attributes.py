"""Cascades: a detector's boxes, and what a second model says of each.

An attribute model (task ``classify``) sees a crop of every detection, brought to its input
size. Which crop is on its card: the box, or a square about its centre with a margin. What
lies outside the image has the card's pad value; pixels are interpolated as
``cv2.resize`` does, bilinear on pixel centres.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.card import Crop, ModelCard
from boxwright.closing import Closing
from boxwright.errors import InputError, ModelError
from boxwright.images import import_cv2
from boxwright.model import IMAGES
from boxwright.parallel import map_images
from boxwright.progress import ProgressCallback, silent
from boxwright.values import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from boxwright.backends.base import Precision, Runner
    from boxwright.engine import Engine
    from boxwright.model import Model
    from boxwright.preprocess import Pixels

CROPS_AT_ONCE = 32
"""Crops that run together where the model takes any number; they may be of several images."""

# OpenCV's warp takes sides below 2¹⁵.
_MAX_SIDE = 1 << 14


class AttributeModel(Closing):
    """Says of each box in an image what its model knows: sex, age, a make of car.

    One thread at a time may call it.

    Args:
        source: An engine or a model of the task ``classify``, as a path or opened; with
            `runner`, a bare model card will do.
        backend: The runtime to use; by default one that the engine was built for.
        precision: The precision to run; by default one that the engine was built in.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        rebuild: Build a plan where the engine has none that fits this machine.
        progress: Called while a plan is rebuilt.
        batch_size: Crops per run; by default the model's fixed batch, or `CROPS_AT_ONCE`.
        runner: Run with this instead of loading `source`; it is closed with this.

    Raises:
        InputError: `source` cannot be read, or an argument is wrong.
        ModelError: It is of another task, or its card names no attributes.
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
        batch_size: int | None = None,
        runner: Runner | None = None,
    ) -> None:
        from boxwright.detector import load_source, open_source

        opened = open_source(source)
        self.card = opened if isinstance(opened, ModelCard) else opened.card
        if self.card.task != "classify" or not self.card.attributes:
            raise ModelError(
                f"{self.card.name} is a model to {self.card.task} with "
                f"{len(self.card.attributes)} attributes; attributes come of a model of the "
                "task 'classify' that was imported with some"
            )
        if batch_size is not None and (whole(batch_size) or 0) < 1:
            raise InputError(f"batch_size must be a whole number of 1 or more, got {batch_size!r}")
        self._closed = False
        self._runner = runner or load_source(
            opened,
            backend=backend,
            device=device,
            precision=precision,
            rebuild=rebuild,
            progress=progress,
        )
        fixed = next((spec.shape[0] for spec in self._runner.inputs if spec.name == IMAGES), None)
        self._fixed_batch = fixed
        self.batch_size = fixed or whole(batch_size) or CROPS_AT_ONCE

    @property
    def names(self) -> tuple[str, ...]:
        """The columns it fills: each attribute, and of classes their score too."""
        return tuple(
            name
            for attribute in self.card.attributes
            for name in (
                (attribute.name, f"{attribute.name}_score")
                if attribute.kind == "class"
                else (attribute.name,)
            )
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What the results depend on, as JSON values."""
        crop = self.card.crop or Crop()
        return {
            "model": self.card.name,
            "source_files": [file.sha256 for file in self.card.source_files],
            "input_size": list(self.card.input_size),
            "crop": {"shape": crop.shape, "scale": crop.scale},
        }

    def __call__(
        self, images: Sequence[Pixels], boxes: Sequence[NDArray[np.float32]]
    ) -> list[dict[str, NDArray[Any]]]:
        """Describe the boxes of several images; crops of all of them share batches.

        Args:
            images: uint8 ``(H, W, 3)`` RGB, each of its own size.
            boxes: For each image float32 ``(n, 4)``, `xyxy` in its pixels.

        Returns:
            For each image, columns of its ``n`` boxes by name: of a class its name (text)
            and its score (float32, 0 to 1), of a number its value (float32).

        Raises:
            InputError: This is closed, or there are not as many images as boxes' arrays.
        """
        if self._closed:
            raise InputError("the attribute model is closed; make a new one")
        if len(images) != len(boxes):
            raise InputError(f"{len(images)} images and boxes of {len(boxes)} were given")
        wanted = [(i, box) for i, rows in enumerate(boxes) for box in rows]
        outputs: dict[str, list[NDArray[Any]]] = {a.name: [] for a in self.card.attributes}
        for start in range(0, len(wanted), self.batch_size):
            chunk = wanted[start : start + self.batch_size]
            for name, values in self._run(images, chunk).items():
                outputs[name].append(values)
        columns = self._columns(outputs)
        edges = np.cumsum([0, *(len(rows) for rows in boxes)])
        return [
            {name: column[edges[i] : edges[i + 1]] for name, column in columns.items()}
            for i in range(len(images))
        ]

    def _run(
        self, images: Sequence[Pixels], chunk: list[tuple[int, NDArray[np.float32]]]
    ) -> dict[str, NDArray[Any]]:
        crop = self.card.crop or Crop()

        def cut(item: tuple[int, NDArray[np.float32]]) -> Pixels:
            region = crop_region(item[1], crop)
            return cut_crop(images[item[0]], region, self.card.input_size, self.card.pad_value)

        batch = np.stack(map_images(cut, chunk))
        missing = (self._fixed_batch or 0) - len(batch)
        if missing > 0:
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        outputs = self._runner.infer({IMAGES: batch})
        return {a.name: outputs[a.name][: len(chunk)] for a in self.card.attributes}

    def _columns(self, outputs: dict[str, list[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        columns: dict[str, NDArray[Any]] = {}
        for attribute in self.card.attributes:
            parts = outputs[attribute.name]
            if attribute.kind == "number":
                empty = np.zeros(0, np.float32)
                columns[attribute.name] = np.concatenate([empty, *parts])
                continue
            scores = np.concatenate([np.zeros((0, len(attribute.names)), np.float32), *parts])
            best = scores.argmax(axis=1)
            columns[attribute.name] = np.array(attribute.names, dtype=str)[best]
            columns[f"{attribute.name}_score"] = scores[np.arange(len(best)), best]
        return columns

    def close(self) -> None:
        """Free what the runner holds; harmless when called twice."""
        if not self._closed:
            self._closed = True
            self._runner.close()


def crop_region(box: NDArray[np.float32], crop: Crop) -> tuple[float, float, float, float]:
    """What a crop rule takes of an image for a box: left, top, right, bottom.

    It may reach beyond the image. It is one pixel wide and high at least.
    """
    left, top, right, bottom = (float(value) for value in box)
    width, height = right - left, bottom - top
    if crop.shape == "square":
        width = height = max(width, height)
    half_width = max(width * crop.scale, 1.0) / 2
    half_height = max(height * crop.scale, 1.0) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def cut_crop(
    image: Pixels,
    region: tuple[float, float, float, float],
    size: tuple[int, int],
    pad_value: int,
) -> Pixels:
    """A region of an image, stretched to a size.

    Args:
        image: uint8 ``(H, W, 3)``.
        region: Left, top, right, bottom in pixels, fractions included.
        size: ``(height, width)`` of the result.
        pad_value: For what lies outside the image.
    """
    cv2 = import_cv2()
    left, top, right, bottom = region
    height, width = image.shape[:2]
    # The part that the region touches, with the neighbours that interpolation reads.
    x0, y0 = max(math.floor(left) - 2, 0), max(math.floor(top) - 2, 0)
    x1, y1 = min(math.ceil(right) + 2, width), min(math.ceil(bottom) + 2, height)
    if x1 <= x0 or y1 <= y0:
        return np.full((*size, 3), pad_value, np.uint8)
    step = -(-max(x1 - x0, y1 - y0) // _MAX_SIDE)
    part = np.ascontiguousarray(image[y0:y1:step, x0:x1:step])
    scale_x, scale_y = (right - left) / size[1], (bottom - top) / size[0]
    # Pixel u of the crop has its centre at u + 0.5, as pixel x of the image at x + 0.5.
    back = np.array(
        [
            [scale_x / step, 0, ((left - x0) + scale_x / 2) / step - 0.5],
            [0, scale_y / step, ((top - y0) + scale_y / 2) / step - 0.5],
        ]
    )
    result: Pixels = cv2.warpAffine(
        part,
        back,
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(pad_value,) * 3,
    )
    return result
