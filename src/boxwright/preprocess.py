"""From a source image to a detector's input, and boxes back again.

Two ways to fill the input (`stretch`, `letterbox`) times two interpolations:

- ``darknet``: bilinear with aligned corners, in float32, horizontally and then
  vertically (``resize_image`` and ``letterbox_image`` in Darknet's ``src/image.c``);
- ``opencv``: ``cv2.resize`` with ``INTER_LINEAR``, bilinear on pixel centres.

The detector's input is uint8, so Darknet's float result is rounded, half upwards: at most
0.5 / 255 from Darknet's own input.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from boxwright.card import Interpolation, ModelCard, Resize
from boxwright.errors import InputError
from boxwright.images import import_cv2
from boxwright.parallel import map_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from boxwright.boxes import Floats

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Geometry:
    """Where a source image lies in the detector's input.

    A point maps by ``input = source * content_size / source_size + offset`` on each axis.

    Attributes:
        source_size: ``(height, width)`` of the source image in pixels.
        input_size: ``(height, width)`` of the detector's input.
        content_size: ``(height, width)`` the image takes up in the input; all of it
            when stretched.
        offset: ``(top, left)`` of the content. Half pixels occur: Darknet pastes at the
            integer below but maps boxes back with the exact half (``correct_yolo_boxes``
            in ``src/yolo_layer.c``), and so do we with its interpolation.
    """

    source_size: tuple[int, int]
    input_size: tuple[int, int]
    content_size: tuple[int, int]
    offset: tuple[float, float] = (0.0, 0.0)

    def to_source(self, boxes: Floats) -> Floats:
        """`xyxy` in input pixels to `xyxy` in source pixels, not clipped; ``(..., 4)``."""
        scale, offset = self._scale_and_offset(boxes.dtype)
        result: Floats = (boxes - offset) / scale
        return result

    def points_to_source(self, points: Floats) -> Floats:
        """Points x, y in input pixels to source pixels, not clipped; ``(..., 2)``."""
        scale, offset = self._scale_and_offset(points.dtype)
        result: Floats = (points - offset[:2]) / scale[:2]
        return result

    def to_input(self, boxes: Floats) -> Floats:
        """`xyxy` in source pixels to `xyxy` in input pixels; ``(..., 4)``."""
        scale, offset = self._scale_and_offset(boxes.dtype)
        result: Floats = boxes * scale + offset
        return result

    def _scale_and_offset(self, dtype: np.dtype[Any]) -> tuple[Floats, Floats]:
        rows = self.content_size[0] / self.source_size[0]
        columns = self.content_size[1] / self.source_size[1]
        top, left = self.offset
        scale = np.array([columns, rows, columns, rows], dtype)
        return scale, np.array([left, top, left, top], dtype)


class Preprocessor:
    """Resizes source images to a detector's input.

    Args:
        card: Gives the input size, the pad value, and what the arguments leave open.
        resize: ``stretch`` or ``letterbox``, instead of the card's.
        interpolation: ``darknet`` or ``opencv``, instead of the card's.

    Raises:
        InputError: An argument is none of these words.
    """

    def __init__(
        self,
        card: ModelCard,
        *,
        resize: Resize | None = None,
        interpolation: Interpolation | None = None,
    ) -> None:
        self.input_size = card.input_size
        self.pad_value = card.pad_value
        self.resize: Resize = card.resize if resize is None else resize
        self.interpolation: Interpolation = (
            card.interpolation if interpolation is None else interpolation
        )
        _check_word("resize", self.resize, get_args(Resize))
        _check_word("interpolation", self.interpolation, get_args(Interpolation))

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings, as JSON values."""
        return {
            "input_size": list(self.input_size),
            "resize": self.resize,
            "interpolation": self.interpolation,
            "pad_value": self.pad_value,
        }

    def prepare(self, image: Pixels) -> tuple[Pixels, Geometry]:
        """Resize one image.

        Args:
            image: uint8 ``(H, W, 3)`` of any size, as `load_image` returns.

        Returns:
            uint8 ``(height, width, 3)`` of the card's input size, and where the image
            lies in it.

        Raises:
            InputError: The array is of another type or shape.
        """
        result = np.empty((*self.input_size, 3), np.uint8)
        return result, self._prepare_into(image, result)

    def prepare_batch(self, images: Sequence[Pixels]) -> tuple[Pixels, list[Geometry]]:
        """As :meth:`prepare` for several images: uint8 ``(N, height, width, 3)``."""
        batch = np.empty((len(images), *self.input_size, 3), np.uint8)
        pairs = zip(images, batch, strict=True)
        geometries = map_images(lambda pair: self._prepare_into(*pair), pairs)
        return batch, geometries

    def geometry(self, source_size: tuple[int, int]) -> Geometry:
        """Where an image of ``(height, width)`` pixels will lie in the input."""
        if self.resize == "stretch":
            return Geometry(source_size, self.input_size, self.input_size)
        fit = _fit_darknet if self.interpolation == "darknet" else _fit_opencv
        content = fit(source_size, self.input_size)
        margins = [whole - part for whole, part in zip(self.input_size, content, strict=True)]
        if self.interpolation == "darknet":
            offset = (margins[0] / 2, margins[1] / 2)
        else:
            offset = (float(margins[0] // 2), float(margins[1] // 2))
        return Geometry(source_size, self.input_size, content, offset)

    def _prepare_into(self, image: Pixels, result: Pixels) -> Geometry:
        _check_image(image)
        geometry = self.geometry((image.shape[0], image.shape[1]))
        rows, columns = geometry.content_size
        top, left = (int(value) for value in geometry.offset)
        if geometry.content_size != self.input_size:
            result[:] = self.pad_value
        target = result[top : top + rows, left : left + columns]
        if self.interpolation == "darknet":
            target[:] = resize_darknet(image, (rows, columns))
        else:
            cv2 = import_cv2()
            target[:] = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
        return geometry


def resize_darknet(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Darknet's bilinear resize (``resize_image`` in ``src/image.c``), rounded to uint8.

    Corners are aligned: the scale is ``(W - 1) / (w - 1)`` in float32, columns are
    interpolated before rows, and the last column and row are copies of the source's last.
    Where rounding leaves the last row's position just short of the source's last (6 % of
    sizes), Darknet itself paints that row black; we copy it there too. A size of 1, where
    Darknet divides by zero, takes the last column or row.

    Args:
        image: uint8 ``(H, W, 3)``.
        size: ``(height, width)`` wanted.

    Returns:
        uint8 ``(height, width, 3)``, within 0.5 of Darknet's value times 255.
    """
    rows, columns = size
    if image.shape[:2] == size:
        return image
    low_row, high_row, row_weight = _taps(image.shape[0], rows)
    low, high, weight = _taps(image.shape[1], columns)
    # Only the source rows that are used: of a large photo, few are.
    used, place = np.unique(np.concatenate([low_row, high_row]), return_inverse=True)
    # A pixel as one 3-byte item, so that gathering copies whole pixels.
    pixels = np.ascontiguousarray(image).view("V3")[:, :, 0]
    wide = pixels[used] if len(used) < len(pixels) else pixels
    part = _blend(
        _gather(wide, low, columns), _gather(wide, high, columns), np.repeat(weight, 3)[None]
    )
    result = _blend(part[place[:rows]], part[place[rows:]], row_weight[:, None])
    result += 0.5
    return result.astype(np.uint8).reshape(rows, columns, 3)


def _gather(pixels: NDArray[np.void], index: NDArray[np.intp], columns: int) -> Floats:
    """The chosen columns as float32 ``(rows, columns * 3)``."""
    chosen = np.take(pixels, index, axis=1)
    return chosen.view(np.uint8).reshape(-1, columns * 3).astype(np.float32)


def _blend(low: Floats, high: Floats, weight: Floats) -> Floats:
    """``(1 - weight) * low + weight * high``; overwrites both."""
    low *= 1 - weight
    high *= weight
    low += high
    return low


@lru_cache(maxsize=64)
def _taps(
    source: int, target: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each target position, its two source positions and the weight of the second."""
    if target == 1 or source == 1:
        last = np.full(target, source - 1, np.intp)
        return last, last, np.zeros(target, np.float32)
    scale = np.float32(source - 1) / np.float32(target - 1)
    position = np.arange(target, dtype=np.float32) * scale
    position[-1] = source - 1
    low = np.minimum(position.astype(np.intp), source - 1)
    high = np.minimum(low + 1, source - 1)
    return low, high, position - low.astype(np.float32)


def _fit_darknet(source: tuple[int, int], whole: tuple[int, int]) -> tuple[int, int]:
    """``letterbox_image`` in Darknet's ``src/image.c``: float comparison, integer sizes."""
    (height, width), (rows, columns) = source, whole
    if np.float32(columns) / np.float32(width) < np.float32(rows) / np.float32(height):
        return max(height * columns // width, 1), columns
    return rows, max(width * rows // height, 1)


def _fit_opencv(source: tuple[int, int], whole: tuple[int, int]) -> tuple[int, int]:
    """The larger side fills the input, the other is rounded, as in YOLOv5's ``letterbox``."""
    scale = min(whole[0] / source[0], whole[1] / source[1])
    rows, columns = (max(round(side * scale), 1) for side in source)
    return min(rows, whole[0]), min(columns, whole[1])


def _check_word(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise InputError(f"{name} must be one of {', '.join(words)}, got {value!r}")


def _check_image(image: Pixels) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"an image must be uint8 of shape (H, W, 3), got {image.dtype} {image.shape}; "
            "boxwright.images.load_image makes one from a file, bytes or a Pillow image"
        )
