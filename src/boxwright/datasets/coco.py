"""COCO annotations: one ``instances_*.json`` beside folders of images.

The format is that of https://cocodataset.org/#format-data: `bbox` is left, top, width,
height in pixels, from 0; `iscrowd` marks a region of many objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxwright.datasets.dataset import Dataset, LabelledImage
from boxwright.datasets.labels import LabelCollector, check_class_names, upright_size
from boxwright.datasets.report import DatasetReport
from boxwright.datasets.safe import brief, read_json
from boxwright.errors import ImageError, InputError
from boxwright.files import is_file
from boxwright.mentions import stays_within

_WHAT = "COCO annotations"
# So many images are looked for in each folder that may hold them.
_SAMPLE = 50


def read_coco(path: str | Path, *, images: str | Path | None = None) -> Dataset:
    """Read COCO annotations.

    Args:
        path: The JSON file.
        images: The folder of the images; without it, the usual places around the file are
            looked through: its own folder, the one above, and there ``val2017`` (for
            ``instances_val2017.json``), ``images`` and ``images/val2017``.

    Raises:
        InputError: The file cannot be read, is no COCO annotations, or none of its images
            is found.
    """
    path = Path(path)
    content = _sections(path, read_json(path, _WHAT))
    report = DatasetReport()
    categories = sorted(_categories(path, content["categories"]).items())
    class_names = tuple(name for _, name in categories)
    check_class_names(str(path), class_names)
    entries = _image_entries(path, content["images"], report)
    folder = _folder(path, images, entries)
    sizes = {number: _size(entry) for number, entry in entries.items()}
    found = _existing(path, entries, folder, sizes, report)
    collectors = {
        number: LabelCollector(report, len(class_names), sizes[number]) for number in found
    }
    class_of = {number: index for index, (number, _) in enumerate(categories)}
    for index, item in enumerate(content["annotations"]):
        _add(path, index, item, entries, collectors, class_of, report)
    labelled = tuple(
        LabelledImage(
            file,
            number,
            None if (size := sizes[number]) is None else size[1],
            None if size is None else size[0],
            collectors[number].finish(),
        )
        for number, file in found.items()
    )
    report.log(str(path))
    ids = tuple(number for number, _ in categories)
    return Dataset(
        path.name, "coco", class_names, ids, labelled, report, path if report.ok else None
    )


def _sections(path: Path, content: Any) -> dict[str, list[Any]]:
    sections = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), list) for name in sections
    ):
        keys = ", ".join(map(str, [*content][:6])) if isinstance(content, dict) else ""
        received = f"one with {keys or 'nothing'}" if isinstance(content, dict) else "none"
        raise InputError(
            f"{path} must be {_WHAT}, an object with lists {', '.join(sections)}, got {received}; "
            "results without labels are not enough"
        )
    return content


def _categories(path: Path, items: list[Any]) -> dict[int, str]:
    names: dict[int, str] = {}
    for item in items:
        number = item.get("id") if isinstance(item, dict) else None
        name = item.get("name") if isinstance(item, dict) else None
        if type(number) is not int or not isinstance(name, str) or number in names:
            raise InputError(
                f"{path}: a category must have an id of its own (a whole number) and a name, "
                f"got {brief(item)}"
            )
        names[number] = name
    return names


def _image_entries(path: Path, items: list[Any], report: DatasetReport) -> dict[int, Any]:
    """Image id -> its entry, the first of each."""
    entries: dict[int, Any] = {}
    names: set[str] = set()
    for index, item in enumerate(items):
        number = item.get("id") if isinstance(item, dict) else None
        name = item.get("file_name") if isinstance(item, dict) else None
        if type(number) is not int or not isinstance(name, str) or not name or "\0" in name:
            raise InputError(
                f"{path}: images[{index}] must have a whole number as id and a file_name, "
                f"got {brief(item)}"
            )
        if number in entries or name in names:
            report.add("duplicate_image", f"{path.name}: images[{index}]", name)
            continue
        entries[number] = item
        names.add(name)
    if not entries:
        raise InputError(f"{path} lists no images")
    return entries


def _folder(path: Path, images: str | Path | None, entries: dict[int, Any]) -> Path:
    """The folder that file names are relative to."""
    if images is not None:
        if not Path(images).is_dir():
            raise InputError(f"no such folder of images: {images}")
        candidates = [Path(images)]
    else:
        split = path.stem.removeprefix("instances_")
        tops = (path.parent, path.parent.parent)
        parts = ("", split, "images", f"images/{split}")
        candidates = [top / part for top in tops for part in parts]
    names = [entry["file_name"] for entry in entries.values()]
    # Spread over the list, in case that its beginning is missing.
    sample = names[:: max(1, len(names) // _SAMPLE)]
    for candidate in candidates:
        if any(_file(candidate, name) for name in sample):
            return candidate
    # With a folder of images only, names may carry folders that are not there.
    if images is not None and any(_file(candidates[0], Path(name).name) for name in sample):
        return candidates[0]
    leaving = [name for name in sample for folder in candidates if _leaves(folder, name)]
    if leaving:
        raise _leaving(path, leaving[0], ", ".join(map(str, candidates)))
    raise InputError(
        f"none of the images of {path} was found, such as {names[0]}; looked in "
        f"{', '.join(map(str, candidates))}; give the folder of the images"
    )


def _file(folder: Path, name: str) -> Path | None:
    """A file of a folder; names may come from anywhere, and lead nowhere else."""
    path = folder / name
    return path if stays_within(folder, name) and is_file(path) else None


def _leaves(folder: Path, name: str) -> bool:
    return not stays_within(folder, name) and is_file(folder / name)


def _leaving(path: Path, name: str, folder: str) -> InputError:
    return InputError(
        f"{path}: the file_name {brief(name)} of an image leads out of {folder}, and is not "
        "followed; give --images the folder that holds all images"
    )


def _existing(
    path: Path,
    entries: dict[int, Any],
    folder: Path,
    sizes: dict[int, tuple[int, int] | None],
    report: DatasetReport,
) -> dict[int, Path]:
    """The files there are; where the labels tell no size, it is read from the image."""
    found: dict[int, Path] = {}
    for number, entry in entries.items():
        name = entry["file_name"]
        file = _file(folder, name) or _file(folder, Path(name).name)
        if file is None and _leaves(folder, name):
            raise _leaving(path, name, str(folder))
        if file is None:
            report.add("missing_image", folder / name)
            continue
        if sizes[number] is None:
            try:
                sizes[number] = upright_size(file)
            except ImageError as error:
                report.add("damaged_image", file, str(error))
                continue
        found[number] = file
    if not found:
        raise InputError(f"none of the images can be read: {'; '.join(report.lines())}")
    return found


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    if type(height) is int and type(width) is int and height > 0 and width > 0:
        return height, width
    return None


def _add(
    path: Path,
    index: int,
    item: Any,
    entries: dict[int, Any],
    collectors: dict[int, LabelCollector],
    class_of: dict[int, int],
    report: DatasetReport,
) -> None:
    where = f"{path.name}: annotations[{index}]"
    if not isinstance(item, dict):
        report.add("bad_line", where, f"expected an object, got {brief(item)}")
        return
    number, category = item.get("image_id"), item.get("category_id")
    if type(number) is not int or number not in entries:
        report.add("unknown_image", where, f"image_id {brief(number)}")
        return
    if number not in collectors:
        return  # its image is missing, and reported
    if type(category) is not int or category not in class_of:
        report.add("unknown_class", where, f"category_id {brief(category)}")
        return
    box = _numbers(item.get("bbox"))
    if box is None:
        report.add("bad_line", where, f"bbox must be four numbers, got {brief(item.get('bbox'))}")
        return
    area = item.get("area")
    collectors[number].add(
        where,
        class_of[category],
        box,
        area=float(area) if area is not None and _is_number(area) else None,
        crowd=item.get("iscrowd") in (1, True),
    )


def _numbers(value: Any) -> tuple[float, float, float, float] | None:
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        return None
    left, top, width, height = map(float, value)
    return left, top, width, height


def _is_number(value: Any) -> bool:
    """Also false for whole numbers too large to be a float."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 1 << 53
    return isinstance(value, float)
