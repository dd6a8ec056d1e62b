"""YOLO labels: a text file an image, ``class cx cy width height`` as fractions of it.

Where the label file of an image lies: the last folder called ``images`` or ``JPEGImages``
in its path becomes ``labels`` (``replace_image_to_label`` in Darknet's ``src/utils.c``
does the same for the usual data sets), else the label lies beside the image. An empty file
is an image that shows nothing.

A line with more numbers is the outline of a segmentation, ``class x1 y1 x2 y2 x3 y3 ...``;
the box around it is taken. Which images belong to a dataset is said by a Darknet ``.data``
file, an ultralytics YAML, a list of paths, or a folder.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.datasets.labels import LabelCollector, make_dataset, upright_size
from boxwright.datasets.report import DatasetReport
from boxwright.datasets.safe import brief, read_text, read_yaml
from boxwright.errors import ImageError, InputError
from boxwright.images import IMAGE_SUFFIXES
from boxwright.mentions import find_mentioned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from boxwright.datasets.dataset import Dataset, GroundTruth

_IMAGE_FOLDERS = ("images", "JPEGImages")
_NAME_FILES = ("classes.txt", "obj.names", "*.names")
_MAX_LABEL_BYTES = 16 << 20
_SPLITS = ("val", "valid", "test", "train")


def read_yolo(
    path: str | Path,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    names: Sequence[str] | None = None,
) -> Dataset:
    """Read YOLO labels.

    Args:
        path: A ``.data`` file of Darknet, a YAML file of ultralytics, a text file that
            lists images, or a folder of images or of ``images`` and ``labels``.
        images: Another folder of images than `path` says or is.
        split: ``val``, ``train`` or ``test``; without it, the first of ``val``, ``valid``,
            ``test`` and ``train`` that there is (with a plain folder, all of it).
        names: The classes in their order, instead of those of `path`. A folder without
            names gets numbers as names.

    Raises:
        InputError: A file cannot be read or understood, or no image is usable.
        MissingExtraError: It is YAML and PyYAML is not installed.
    """
    path = Path(path)
    report = DatasetReport()
    if path.is_dir():
        found, listed = _from_folder(path, split), None
    elif path.suffix.lower() == ".data":
        found, listed = _from_data(path, split, named=not names)
    elif path.suffix.lower() in (".yaml", ".yml"):
        found, listed = _from_yaml(path, split)
    elif path.suffix.lower() == ".txt":
        found, listed = _read_list(path), None
    else:
        raise InputError(f"{path} must be a folder, or end in .data, .yaml, .yml or .txt")
    if images is not None:
        found = _below(Path(images))
    class_names = tuple(names or listed or _names_nearby(path) or ())
    pairs = [(image, _label_file(image)) for image in _once(found, path, report)]
    if not class_names:
        class_names = tuple(map(str, range(_highest_class([label for _, label in pairs]) + 1)))
    entries = []
    for image, label in pairs:
        entry = _entry(image, label, class_names, report)
        if entry is not None:
            entries.append(entry)
    return make_dataset(
        f"{path.name}{f' {split}' if split else ''}", "yolo", class_names, entries, report
    )


def _once(found: list[Path], path: Path, report: DatasetReport) -> list[Path]:
    unique: dict[str, Path] = {}
    for image in found:
        key = os.path.abspath(image)  # noqa: PTH100 - keeps links
        if key in unique:
            report.add("duplicate_image", path, str(image))
        unique.setdefault(key, image)
    return list(unique.values())


def _entry(
    image: Path, label: Path | None, class_names: tuple[str, ...], report: DatasetReport
) -> tuple[Path, int, int, GroundTruth] | None:
    if not image.is_file():
        report.add("missing_image", image)
        return None
    try:
        size = upright_size(image)
    except ImageError as error:
        report.add("damaged_image", image, str(error))
        return None
    collector = LabelCollector(report, len(class_names), size)
    if label is None:
        report.add("missing_labels", image)
        return image, size[1], size[0], collector.finish()
    try:
        text = read_text(label, "YOLO labels", _MAX_LABEL_BYTES)
    except InputError as error:
        report.add("damaged_labels", label, str(error))
        return None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            _add_line(f"{label}:{number}", line, size, collector, report)
    return image, size[1], size[0], collector.finish()


def _add_line(
    where: str,
    line: str,
    size: tuple[int, int],
    collector: LabelCollector,
    report: DatasetReport,
) -> None:
    try:
        class_number, *values = map(float, line.split())
    except ValueError:
        report.add("bad_line", where, f"expected numbers, got {line[:60]!r}")
        return
    if class_number != class_number // 1:  # also true of NaN and infinity
        report.add("unknown_class", where, f"{class_number:g}")
        return
    height, width = size
    if len(values) == 4:
        x, y, w, h = values
        box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
    elif len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = np.array(values[::2]) * width, np.array(values[1::2]) * height
        left, top = float(xs.min()), float(ys.min())
        box = (left, top, float(xs.max()) - left, float(ys.max()) - top)
    else:
        hint = "; a sixth is a score, so these are detections" if len(values) == 5 else ""
        report.add(
            "bad_line",
            where,
            f"expected class cx cy width height, or class and an outline, got "
            f"{1 + len(values)} numbers{hint}",
        )
        return
    collector.add(where, int(class_number), box)


def _highest_class(labels: list[Path | None]) -> int:
    """The highest class number in some label files, 0 where there is none."""
    highest = 0
    for label in labels:
        if label is None:
            continue
        try:
            lines = read_text(label, "YOLO labels", _MAX_LABEL_BYTES).splitlines()
        except InputError:
            continue  # reported when it is read for its boxes
        numbers = [line.split()[0] for line in lines if line.strip()]
        # Beyond six digits it is no class number but damage, reported with its box.
        highest = max([highest, *(int(n) for n in numbers if n.isdecimal() and len(n) < 6)])
    return highest


def _label_file(image: Path) -> Path | None:
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] in _IMAGE_FOLDERS:
            swapped = Path(*parts[:index], "labels", *parts[index + 1 :]).with_suffix(".txt")
            if swapped.is_file():
                return swapped
            break
    beside = image.with_suffix(".txt")
    return beside if beside.is_file() else None


def _from_folder(path: Path, split: str | None) -> list[Path]:
    folder = path / "images" if (path / "images").is_dir() else path
    if split is not None:
        places = (folder / split, path / split / "images", path / split)
        place = next((place for place in places if place.is_dir()), None)
        if place is None:
            raise InputError(f"no folder of split {split!r}: {', '.join(map(str, places))}")
        folder = place
    return _below(folder)


def _below(folder: Path) -> list[Path]:
    found = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    )
    if not found:
        raise InputError(f"the folder {folder} holds no images")
    return found


def _read_list(path: Path, *bases: Path) -> list[Path]:
    """The paths of a list, each where it is found: beside the list, in `bases`, or here."""
    lines = read_text(path, "a list of images").splitlines()
    entries = [line.strip() for line in lines if line.strip() and "\0" not in line]
    places = (path.parent, *bases, Path())
    return [
        next((place / entry for place in places if (place / entry).is_file()), places[0] / entry)
        for entry in entries
    ]


def _names_nearby(path: Path) -> tuple[str, ...]:
    folder = path if path.is_dir() else path.parent
    for pattern in _NAME_FILES:
        for file in sorted(folder.glob(pattern)):
            return read_names(file)
    return ()


def read_names(path: Path) -> tuple[str, ...]:
    """Class names, one a line, as Darknet's ``.names`` files have them.

    Raises:
        InputError: The file cannot be read or names nothing.
    """
    lines = [line.strip() for line in read_text(path, "class names").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise InputError(f"{path} names no classes")
    return tuple(lines)


def _from_data(
    path: Path, split: str | None, *, named: bool
) -> tuple[list[Path], tuple[str, ...] | None]:
    """Darknet's ``.data`` file: ``classes``, ``train``, ``valid``, ``names``, as ``key = value``.

    Darknet takes its paths from the working folder; we look beside the file first. Images
    and lists of them may lie anywhere, as those of large data sets do; without `named`, the
    classes are known from elsewhere.
    """
    values: dict[str, str] = {}
    for line in read_text(path, "a Darknet .data file").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith(("#", ";")):
            values[key.strip()] = value.strip()
    wanted = {"val": "valid"}.get(split or "", split or "")
    keys = [wanted] if split else [key for key in _SPLITS if key in values]
    if not keys or keys[0] not in values:
        raise InputError(
            f"{path} has no entry {keys[0] if keys else 'valid'!r}; "
            f"its entries are {', '.join(values) or 'none'}"
        )
    locate = functools.partial(_locate, path)
    names = read_names(_names_file(path, values["names"])) if "names" in values and named else None
    listed = locate(values[keys[0]])
    found = _below(listed) if listed.is_dir() else _read_list(listed, path.parent)
    count = values.get("classes", "")
    if names is not None and count.isdecimal() and int(count) != len(names):
        raise InputError(f"{path} says classes = {count}, but {values['names']} names {len(names)}")
    return found, names


def _names_file(owner: Path, entry: str) -> Path:
    """The file of class names that `owner` mentions; its lines become names on reports."""
    mention = find_mentioned(owner, entry)
    if mention.outside is not None:
        raise InputError(
            f"{owner}: its names file {entry[:200]!r} lies outside of its own folders, and is not "
            "read for a file that may come from anywhere; put a copy beside it, or give --names"
        )
    if mention.found is None:
        raise InputError(f"{owner}: its names file {entry[:200]!r} is not there; give --names")
    return mention.found


def _locate(owner: Path, entry: str) -> Path:
    """A path that `owner` mentions: beside it, in the working folder, or beside by its name."""
    places = (owner.parent / entry, Path(entry), owner.parent / Path(entry).name)
    found = next((place for place in places if "\0" not in entry and place.exists()), None)
    if found is None:
        raise InputError(
            f"{owner} mentions {entry}, which was looked for as {', '.join(map(str, places))}"
        )
    return found


def _from_yaml(path: Path, split: str | None) -> tuple[list[Path], tuple[str, ...]]:
    """An ultralytics YAML: ``path``, ``train``, ``val``, ``test`` and ``names``."""
    content = read_yaml(path, "a YOLO dataset")
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold path, train, val and names, got {brief(content)}")
    keys = [split] if split else [key for key in _SPLITS if content.get(key)]
    if not keys or not content.get(keys[0]):
        raise InputError(
            f"{path} has no entry {keys[0] if keys else 'val'!r}; "
            f"its entries are {', '.join(map(brief, [*content][:9])) or 'none'}"
        )
    base = content.get("path", "")
    if not isinstance(base, str):
        raise InputError(f"{path}: path must be a text, got {brief(base)}")
    # `path` itself is relative to the working folder or, more often meant, to the file.
    bases = (path.parent / base, Path(base), path.parent)
    entries = content[keys[0]]
    found: list[Path] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, str) or "\0" in entry:
            raise InputError(
                f"{path}: {keys[0]} must be a path or a list of them, got {brief(entry)}"
            )
        place = next((base / entry for base in bases if (base / entry).exists()), None)
        if place is None:
            looked = ", ".join(str(base / entry) for base in bases)
            raise InputError(f"{path}: {keys[0]} is {entry}, looked for as {looked}")
        found += _below(place) if place.is_dir() else _read_list(place, *bases)
    return found, _yaml_names(path, content.get("names"))


def _yaml_names(path: Path, value: Any) -> tuple[str, ...]:
    """Names as a list, or as a table from number to name."""
    if isinstance(value, dict) and all(type(key) is int for key in value):
        if sorted(value) != list(range(len(value))):
            raise InputError(f"{path}: names must be numbered 0 to {len(value) - 1}")
        value = [value[number] for number in range(len(value))]
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(name, str | int) for name in value)
    ):
        raise InputError(f"{path}: names must list the classes, got {brief(value)}")
    return tuple(map(str, value))
