"""Labelled images: COCO json, YOLO text (Darknet, ultralytics), Pascal VOC xml.

::

    from boxwright import datasets

    dataset = datasets.open("annotations/instances_val2017.json", images="val2017")
    for image in dataset:
        print(image.path, len(image.boxes))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from boxwright.datasets.classes import ClassMap, map_classes
from boxwright.datasets.dataset import Dataset, GroundTruth, LabelledImage, to_coco
from boxwright.datasets.report import DatasetReport, Problem
from boxwright.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "ClassMap",
    "Dataset",
    "DatasetReport",
    "Format",
    "GroundTruth",
    "LabelledImage",
    "Problem",
    "map_classes",
    "open",
    "recognise",
    "to_coco",
]

Format = Literal["coco", "yolo", "voc"]


def open(  # noqa: A001 - read as `datasets.open`
    path: str | Path,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    format: Format | None = None,  # noqa: A002 - the word users look for
    names: Sequence[str] | str | Path | None = None,
) -> Dataset:
    """Read a dataset of any known format.

    Args:
        path: A COCO ``.json``; a Darknet ``.data``; an ultralytics YAML; a ``.txt`` that
            lists images; or a folder in the layout of Pascal VOC, of COCO, or of YOLO.
        images: The folder of the images, where it is not where the format has it.
        split: ``val``, ``train``, ... where there are several.
        format: ``coco``, ``yolo`` or ``voc``, where `path` does not tell.
        names: The class names in their order, or a file that lists them, for labels that
            hold only numbers (YOLO) or an order (VOC) of their own.

    Returns:
        The dataset. What was wrong in it is in its `report`, and was logged as warnings,
        one line a kind; see :data:`boxwright.datasets.report.PROBLEMS` for what is done.

    Raises:
        InputError: A file cannot be read or understood, is hostile, or no image is usable.
        MissingExtraError: It is YAML and PyYAML is not installed.
    """
    import pathlib

    from boxwright.datasets import coco, voc, yolo

    place = pathlib.Path(path)
    if format is not None and format not in get_args(Format):
        raise InputError(f"format must be one of {', '.join(get_args(Format))}, got {format!r}")
    form, place = recognise(place, split) if format is None else (format, place)
    if names is None or not isinstance(names, str | pathlib.Path):
        listed = None if names is None else tuple(names)
    else:
        listed = yolo.read_names(pathlib.Path(names))
    if form == "coco":
        if place.is_dir():
            place = _coco_file(place, split)
        return coco.read_coco(place, images=images)
    read = voc.read_voc if form == "voc" else yolo.read_yolo
    return read(place, images=images, split=split, names=listed)


def recognise(path: Path, split: str | None = None) -> tuple[Format, Path]:
    """The format of a dataset, and the file or folder that says which images it has.

    Raises:
        InputError: There is no such path, or it is of no known format.
    """
    if not path.exists():
        raise InputError(f"no such file or folder: {path}")
    suffix = path.suffix.lower()
    if not path.is_dir():
        if suffix == ".json":
            return "coco", path
        if suffix in (".data", ".yaml", ".yml", ".txt"):
            return "yolo", path
        raise InputError(
            f"{path} is of no known dataset format; expected a COCO .json, a Darknet .data, a "
            "YOLO .yaml, a .txt list of images, or a folder"
        )
    if (path / "ImageSets").is_dir() or any(_glob(path, "Annotations/*.xml", "*.xml")):
        return "voc", path
    if _glob(path, "annotations/*.json"):
        return "coco", _coco_file(path, split)
    for pattern in ("*.yaml", "*.yml", "*.data"):
        files = _glob(path, pattern)
        if len(files) == 1:
            return "yolo", files[0]
        if files:
            raise InputError(f"{path} holds several {pattern}; give the one that is meant")
    return "yolo", path


def _coco_file(folder: Path, split: str | None) -> Path:
    files = _glob(folder, "annotations/*.json") or _glob(folder, "*.json")
    instances = [file for file in files if file.stem.startswith("instances")] or files
    fitting = [file for file in instances if split is None or split in file.stem]
    if len(fitting) != 1:
        raise InputError(
            f"{folder} holds {len(fitting)} annotation files"
            f"{f' for split {split!r}' if split else ''}: "
            f"{', '.join(file.name for file in instances)}; give the one that is meant"
        )
    return fitting[0]


def _glob(folder: Path, *patterns: str) -> list[Path]:
    return [file for pattern in patterns for file in sorted(folder.glob(pattern))]
