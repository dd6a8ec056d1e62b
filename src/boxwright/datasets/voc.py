"""Pascal VOC: one XML file an image in ``Annotations``, lists in ``ImageSets/Main``.

Coordinates in the files count pixels from 1 and include the last one (VOC2012 development
kit, section 4: "xmin, ymin, xmax, ymax ... the top-left pixel in the image has coordinates
(1,1)"). A box that covers pixels xmin to xmax inclusive reaches from ``xmin - 1`` to
``xmax`` when a whole image of width W reaches from 0 to W, so that is what is read: its
width is ``xmax - xmin + 1``, as the kit's own evaluation has it. (Darknet's
``voc_label.py`` makes boxes that are one pixel smaller.) Some tools write an xmin of 0;
that is within the pixel that labels may reach over the edge.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boxwright.datasets.labels import LabelCollector, make_dataset, upright_size
from boxwright.datasets.report import DatasetReport
from boxwright.datasets.safe import Element, read_text, read_xml
from boxwright.errors import ImageError, InputError
from boxwright.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from boxwright.datasets.dataset import Dataset, GroundTruth

_WHAT = "Pascal VOC labels"


@dataclass(frozen=True)
class _Object:
    name: str
    xywh: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class _Page:
    """One XML file, before the class names are known."""

    file: Path
    filename: str
    size: tuple[int, int] | None
    objects: list[tuple[str, _Object]]


def read_voc(
    path: str | Path,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    names: Sequence[str] | None = None,
) -> Dataset:
    """Read a folder in the layout of Pascal VOC.

    Args:
        path: The folder with ``Annotations``, or that folder itself.
        images: The folder of the images; without it, ``JPEGImages`` beside the labels, or
            the folder of the labels.
        split: A list in ``ImageSets/Main``, such as ``test``; without it, every XML file.
        names: The classes in their order; without it, the names in *all* the XML files,
            sorted, so that every split numbers its classes alike.

    Raises:
        InputError: The layout is another, a list is missing, or no image is usable.
    """
    root = Path(path)
    labels = root / "Annotations" if (root / "Annotations").is_dir() else root
    files = {file.stem: file for file in sorted(labels.glob("*.xml"))}
    if not files:
        raise InputError(f"{path} holds no {_WHAT}: no .xml file in {labels}")
    report = DatasetReport()
    wanted = list(files) if split is None else _split(labels.parent, split)
    needed = files.values() if names is None else [files[s] for s in wanted if s in files]
    pages = {file.stem: page for file in needed if (page := _read(file, report)) is not None}
    every = {item.name for page in pages.values() for _, item in page.objects}
    class_names = tuple(names) if names is not None else tuple(sorted(every))
    folder = _image_folder(labels, images)
    entries = []
    for stem in dict.fromkeys(wanted):
        if stem not in files:
            report.add("missing_labels", labels / f"{stem}.xml")
            page = _Page(labels / f"{stem}.xml", "", None, [])
        elif stem in pages:
            page = pages[stem]
        else:
            continue  # damaged, and reported
        entry = _entry(stem, page, folder, class_names, report)
        if entry is not None:
            entries.append(entry)
    for stem in (stem for stem, count in _counts(wanted) if count > 1):
        report.add("duplicate_image", f"{split}.txt", stem)
    name = f"{root.name}{f' {split}' if split else ''}"
    return make_dataset(name, "voc", class_names, entries, report)


def _counts(items: list[str]) -> list[tuple[str, int]]:
    return [(key, len(list(group))) for key, group in itertools.groupby(sorted(items))]


def _split(root: Path, split: str) -> list[str]:
    folder = root / "ImageSets" / "Main"
    file = folder / f"{split}.txt"
    if Path(split).name != split or not file.is_file():
        known = ", ".join(sorted(item.stem for item in folder.glob("*.txt"))) or "none"
        raise InputError(f"no list {file}; the lists there are: {known}")
    lines = read_text(file, "a list of images").splitlines()
    # Lists per class carry 1, 0 or -1 after the name (VOC2012 kit, section 3.1).
    return [line.split()[0] for line in lines if line.strip()]


def _image_folder(labels: Path, images: str | Path | None) -> Path:
    if images is not None:
        if not Path(images).is_dir():
            raise InputError(f"no such folder of images: {images}")
        return Path(images)
    beside = labels.parent / "JPEGImages"
    return beside if beside.is_dir() else labels


def _read(file: Path, report: DatasetReport) -> _Page | None:
    """A file's content; ``None`` where it is damaged, which is reported.

    A document type is no damage but an attack, and ends the reading.
    """
    try:
        root = read_xml(file, _WHAT)
    except InputError as error:
        if "<!DOCTYPE" in str(error) or "too deeply" in str(error):
            raise
        report.add("damaged_labels", file, str(error))
        return None
    objects = []
    for index, element in enumerate(root.all("object")):
        where = f"{file.name}: object {index + 1}"
        item = _object(element)
        if item is None:
            report.add("bad_line", where, "expected a name and bndbox with four numbers")
        else:
            objects.append((where, item))
    height, width = _whole(root.value("size", "height")), _whole(root.value("size", "width"))
    size = (height, width) if height > 0 and width > 0 else None
    return _Page(file, root.value("filename"), size, objects)


def _object(element: Element) -> _Object | None:
    name = element.value("name")
    sides = ("xmin", "ymin", "xmax", "ymax")
    try:
        left, top, right, bottom = (float(element.value("bndbox", side)) for side in sides)
    except ValueError:
        return None
    if not name:
        return None
    xywh = (left - 1, top - 1, right - left + 1, bottom - top + 1)
    # A box of one pixel has xmax = xmin; an xmax below is a slip, whose size must not
    # become 0 or more by the pixel added above.
    if right < left or bottom < top:
        xywh = (left - 1, top - 1, right - left, bottom - top)
    return _Object(name, xywh, element.value("difficult") == "1")


def _whole(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        return 0
    return int(value) if math.isfinite(value) and 0 < value < 1 << 30 else 0


def _entry(
    stem: str, page: _Page, folder: Path, class_names: tuple[str, ...], report: DatasetReport
) -> tuple[Path, int, int, GroundTruth] | None:
    image = _find_image(stem, page.filename, folder)
    if image is None:
        report.add("missing_image", folder / (page.filename or f"{stem}.jpg"))
        return None
    size = page.size
    if size is None:
        try:
            size = upright_size(image)
        except ImageError as error:
            report.add("damaged_image", image, str(error))
            return None
    collector = LabelCollector(report, len(class_names), size)
    numbers = {name: index for index, name in enumerate(class_names)}
    for where, item in page.objects:
        if item.name not in numbers:
            report.add("unknown_class", where, item.name)
            continue
        collector.add(where, numbers[item.name], item.xywh, difficult=item.difficult)
    return image, size[1], size[0], collector.finish()


def _find_image(stem: str, filename: str, folder: Path) -> Path | None:
    """By the XML file's name first: `filename` inside is often left over from a copy."""
    if Path(stem).name != stem:
        return None  # a list that leads out of the folder
    for suffix in (".jpg", ".jpeg", ".png", *sorted(IMAGE_SUFFIXES)):
        for name in (stem + suffix, stem + suffix.upper()):
            if (folder / name).is_file():
                return folder / name
    named = folder / Path(filename).name
    return named if filename and "\0" not in filename and named.is_file() else None
