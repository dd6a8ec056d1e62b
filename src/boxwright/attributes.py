"""Cascades: a detector's boxes, and what a second model says of each.

An attribute model (task ``classify``) sees a crop of every detection, brought to its input
size. Which crop (:mod:`boxwright.crops`) is the caller's choice, else its card's, else the box.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.card import ModelCard
from boxwright.closing import Closing
from boxwright.crops import crop_map, resolve_crop, warp_crop
from boxwright.errors import InputError, ModelError
from boxwright.model import IMAGES
from boxwright.parallel import map_images
from boxwright.progress import ProgressCallback, silent
from boxwright.values import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from boxwright.backends.base import Precision, Runner
    from boxwright.card import Crop
    from boxwright.engine import Engine
    from boxwright.model import Model
    from boxwright.preprocess import Pixels

CROPS_AT_ONCE = 32
"""Crops that run together where the model takes any number; they may be of several images."""


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
        crop: What the model is to see, instead of what its card says: a
            :class:`~boxwright.card.Crop`, or text as
            :func:`~boxwright.crops.resolve_crop` takes it.

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
        crop: Crop | str | None = None,
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
        self.crop = resolve_crop(crop, self.card)
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
        crop: dict[str, Any] = {"shape": self.crop.shape, "scale": self.crop.scale}
        if self.crop.shape == "aligned":
            crop["template"] = [[p.name, p.x, p.y] for p in self.crop.template]
        return {
            "model": self.card.name,
            "source_files": [file.sha256 for file in self.card.source_files],
            "input_size": list(self.card.input_size),
            "crop": crop,
        }

    def choose_points(self, landmarks: tuple[str, ...]) -> list[int]:
        """Which of a detector's landmarks the crop is aligned by, in the template's order.

        Args:
            landmarks: The detector's, as its card names them.

        Returns:
            Their numbers; none for a crop that needs none.

        Raises:
            InputError: The detector does not give them.
        """
        if self.crop.shape != "aligned":
            return []
        wanted = [point.name for point in self.crop.template]
        if missing := [name for name in wanted if name not in landmarks]:
            given = ", ".join(landmarks) or "no landmarks"
            raise InputError(
                f"{self.card.name} wants its crops aligned by {', '.join(wanted)}; the detector "
                f"gives {given}, so {missing[0]!r} is missing. Take a detector that has them, "
                "or another crop, such as 'box' (--attributes-crop box)"
            )
        return [landmarks.index(name) for name in wanted]

    def __call__(
        self,
        images: Sequence[Pixels],
        boxes: Sequence[NDArray[np.float32]],
        points: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[dict[str, NDArray[Any]]]:
        """Describe the boxes of several images; crops of all of them share batches.

        Args:
            images: uint8 ``(H, W, 3)`` RGB, each of its own size.
            boxes: For each image float32 ``(n, 4)``, `xyxy` in its pixels.
            points: For each image float32 ``(n, P, 2)``, the landmarks of
                :meth:`choose_points`; needed by crops that are aligned, and by no others.

        Returns:
            For each image, columns of its ``n`` boxes by name: of a class its name (text)
            and its score (float32, 0 to 1), of a number its value (float32).

        Raises:
            InputError: This is closed, there are not as many images as boxes' arrays, or
                landmarks are missing or of another number.
        """
        if self._closed:
            raise InputError("the attribute model is closed; make a new one")
        if len(images) != len(boxes):
            raise InputError(f"{len(images)} images and boxes of {len(boxes)} were given")
        maps = self._maps(boxes, points)
        wanted = [(i, back) for i, rows in enumerate(maps) for back in rows]
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

    def _maps(
        self,
        boxes: Sequence[NDArray[np.float32]],
        points: Sequence[NDArray[np.float32]] | None,
    ) -> list[list[NDArray[np.float64]]]:
        """For each box of each image, where in the image its crop's pixels come from."""
        crop, size = self.crop, self.card.input_size
        if crop.shape != "aligned":
            return [[crop_map(box, crop, size) for box in rows] for rows in boxes]
        expected = [(len(rows), len(crop.template), 2) for rows in boxes]
        given = None if points is None else [rows.shape for rows in points]
        if points is None or given != expected:
            raise InputError(
                f"{self.card.name} aligns its crops: points must be of shapes {expected}, "
                f"got {given}"
            )
        return [
            [crop_map(box, crop, size, at) for box, at in zip(rows, where, strict=True)]
            for rows, where in zip(boxes, points, strict=True)
        ]

    def _run(
        self, images: Sequence[Pixels], chunk: list[tuple[int, NDArray[np.float64]]]
    ) -> dict[str, NDArray[Any]]:
        def cut(item: tuple[int, NDArray[np.float64]]) -> Pixels:
            return warp_crop(images[item[0]], item[1], self.card.input_size, self.card.pad_value)

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
