"""Checking labels one by one while a dataset is read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from boxwright.datasets.dataset import Dataset, GroundTruth, LabelledImage
from boxwright.errors import ImageError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from boxwright.datasets.report import DatasetReport

# Label tools round: a box may reach this far over the edge and is left as it is. Clipping
# it would move AP away from what others compute on the same file.
EDGE_SLACK = 1.0
# Those that `load_image` reads.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_MAX_CLASSES = 65536


class LabelCollector:
    """Collects the labels of one image, reporting and leaving out what cannot be meant.

    Args:
        report: Findings go there.
        classes: How many classes there are.
        size: ``(height, width)`` of the image in pixels; ``None`` where unknown.
    """

    def __init__(self, report: DatasetReport, classes: int, size: tuple[int, int] | None) -> None:
        self._report = report
        self._classes = classes
        self._size = size
        self._boxes: list[tuple[float, float, float, float]] = []
        self._class_ids: list[int] = []
        self._crowd: list[bool] = []
        self._area: list[float] = []
        self._difficult: list[bool] = []
        self._seen: set[tuple[int, float, float, float, float]] = set()

    def add(
        self,
        where: str,
        class_id: int,
        xywh: tuple[float, float, float, float],
        *,
        area: float | None = None,
        crowd: bool = False,
        difficult: bool = False,
    ) -> None:
        """Check one box (left, top, width, height in pixels) and keep it if it is sound."""
        if not 0 <= class_id < self._classes:
            self._report.add("unknown_class", where, f"{class_id}, of {self._classes} classes")
            return
        shown = " ".join(f"{value:g}" for value in xywh)
        if not all(map(math.isfinite, xywh)):
            self._report.add("not_finite", where, shown)
            return
        if xywh[2] <= 0 or xywh[3] <= 0:
            self._report.add("no_size", where, f"width {xywh[2]:g}, height {xywh[3]:g}")
            return
        fitted = self._fit(where, xywh, shown)
        if fitted is None:
            return
        key = (class_id, *fitted)
        if key in self._seen:
            self._report.add("duplicate_box", where, shown)
        self._seen.add(key)
        self._boxes.append(fitted)
        self._class_ids.append(class_id)
        self._crowd.append(crowd)
        sound_area = area is not None and math.isfinite(area) and area >= 0
        self._area.append(area if area is not None and sound_area else fitted[2] * fitted[3])
        self._difficult.append(difficult)

    def _fit(
        self, where: str, xywh: tuple[float, float, float, float], shown: str
    ) -> tuple[float, float, float, float] | None:
        """The box inside its image, or ``None`` where nothing of it is."""
        if self._size is None:
            return xywh
        height, width = self._size
        left, top, right, bottom = xywh[0], xywh[1], xywh[0] + xywh[2], xywh[1] + xywh[3]
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            self._report.add("outside", where, f"{shown} in {width} x {height}")
            return None
        over = max(-left, -top, right - width, bottom - height)
        if over <= EDGE_SLACK:
            return xywh
        self._report.add("clipped", where, f"{shown} in {width} x {height}")
        left, top = max(left, 0.0), max(top, 0.0)
        return left, top, min(right, width) - left, min(bottom, height) - top

    def finish(self) -> GroundTruth:
        """What was kept."""
        return GroundTruth.from_xywh(
            self._boxes,
            self._class_ids,
            crowd=self._crowd,
            area=self._area,
            difficult=self._difficult,
        )


def upright_size(path: Path) -> tuple[int, int]:
    """``(height, width)`` of an image as `load_image` returns it, from its header alone.

    Raises:
        ImageError: The header cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            orientation = image.getexif().get(0x0112, 1)
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        # Parsers of hostile headers fail in any way (struct, zlib, index, memory, ...).
        raise ImageError(f"{path} has a damaged header: {error}; get a sound copy") from error
    # Orientations 5 to 8 lie on their side (CIPA DC-008, tag 0x0112).
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def make_dataset(
    name: str,
    form: str,
    class_names: tuple[str, ...],
    entries: Iterable[tuple[Path, int, int, GroundTruth]],
    report: DatasetReport,
) -> Dataset:
    """A dataset of a format that has no ids of its own; `entries` hold width, then height.

    Raises:
        InputError: Nothing is left, or there are too many classes.
    """
    check_class_names(name, class_names)
    found = list(entries)
    if not found:
        reasons = "; ".join(report.lines()) or "no images are listed"
        raise InputError(f"{name} has no usable image: {reasons}")
    stems = [path.stem for path, *_ in found]
    numbered = all(stem.isascii() and stem.isdigit() and len(stem) <= 15 for stem in stems)
    ids = [int(stem) for stem in stems] if numbered else []
    if len(set(ids)) != len(found):
        ids = list(range(1, len(found) + 1))
    images = tuple(
        LabelledImage(path, number, width, height, boxes)
        for number, (path, width, height, boxes) in zip(ids, found, strict=True)
    )
    report.log(name)
    categories = tuple(range(1, len(class_names) + 1))
    return Dataset(name, form, class_names, categories, images, report)


def check_class_names(name: str, class_names: tuple[str, ...]) -> None:
    """Raise InputError where there are no class names, or too many to be true."""
    if not 0 < len(class_names) <= _MAX_CLASSES:
        raise InputError(
            f"{name} must have 1 to {_MAX_CLASSES} classes, got {len(class_names)}; "
            "give the file with their names"
        )
