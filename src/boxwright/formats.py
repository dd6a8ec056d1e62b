"""Result formats of others: COCO results and YOLO text, made from image records."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from boxwright.errors import InputError
from boxwright.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# COCO's 80 detection classes and their category ids, which leave out eleven of 1 to 90
# (instances_val2017.json, "categories").
_COCO_CATEGORIES = (
    "person:1 bicycle:2 car:3 motorcycle:4 airplane:5 bus:6 train:7 truck:8 boat:9 "
    "traffic_light:10 fire_hydrant:11 stop_sign:13 parking_meter:14 bench:15 bird:16 cat:17 "
    "dog:18 horse:19 sheep:20 cow:21 elephant:22 bear:23 zebra:24 giraffe:25 backpack:27 "
    "umbrella:28 handbag:31 tie:32 suitcase:33 frisbee:34 skis:35 snowboard:36 "
    "sports_ball:37 kite:38 baseball_bat:39 baseball_glove:40 skateboard:41 surfboard:42 "
    "tennis_racket:43 bottle:44 wine_glass:46 cup:47 fork:48 knife:49 spoon:50 bowl:51 "
    "banana:52 apple:53 sandwich:54 orange:55 broccoli:56 carrot:57 hot_dog:58 pizza:59 "
    "donut:60 cake:61 chair:62 couch:63 potted_plant:64 bed:65 dining_table:67 toilet:70 "
    "tv:72 laptop:73 mouse:74 remote:75 keyboard:76 cell_phone:77 microwave:78 oven:79 "
    "toaster:80 sink:81 refrigerator:82 book:84 clock:85 vase:86 scissors:87 teddy_bear:88 "
    "hair_drier:89 toothbrush:90"
)
COCO_CATEGORY_IDS = {
    name.replace("_", " "): int(number)
    for name, number in (item.split(":") for item in _COCO_CATEGORIES.split())
}

# Darknet's coco.names calls six classes by the names of Pascal VOC.
_COCO_ALIASES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
_MAX_ANNOTATIONS_BYTES = 4 << 30


class CocoIds:
    """Which image id and category id a detection gets in COCO results.

    With an annotations file, images are matched by ``file_name`` (the longest matching
    end of the path) and classes by name; classes it does not know are left out. Without
    one, where all file names are digits only, the image id is their number
    (``000000000139.jpg`` is 139), else the stem of each; the category id is COCO's own
    where all names are COCO's, else the class number plus 1.

    Raises:
        InputError: The annotations cannot be read, lack an image, or know none of the
            classes; or two images would get the same id.
    """

    def __init__(
        self,
        paths: Sequence[str],
        class_names: tuple[str, ...],
        annotations: str | Path | None = None,
    ) -> None:
        if annotations is None:
            self._images = _ids_from_names(paths)
            self._categories = _own_categories(class_names)
            return
        content = _read_annotations(annotations)
        self._images = _ids_from_annotations(paths, content["images"], annotations)
        known = {str(item["name"]): int(item["id"]) for item in content["categories"]}
        self._categories = {}
        for number, name in enumerate(class_names):
            category = known.get(name, known.get(_COCO_ALIASES.get(name, name)))
            if category is not None:
                self._categories[number] = category
        if not self._categories:
            raise InputError(
                f"{annotations} knows none of the detector's classes, such as "
                f"{', '.join(class_names[:5])}; its categories are {', '.join([*known][:5])}"
            )

    def image_id(self, path: str) -> int | str:
        """The id of an image of the run."""
        return self._images[path]

    def category_id(self, class_id: int) -> int | None:
        """The id of a class, or ``None`` where the annotations do not have it."""
        return self._categories.get(class_id)


def coco_results(records: Iterable[dict[str, Any]], ids: CocoIds) -> Iterator[dict[str, Any]]:
    """COCO's results format: one item a detection, ``bbox`` as left, top, width, height."""
    for record in records:
        for item in record.get("detections", ()):
            category = ids.category_id(item["class_id"])
            if category is None:
                continue
            left, top, right, bottom = item["xyxy"]
            yield {
                "image_id": ids.image_id(record["path"]),
                "category_id": category,
                # Thousandths of a pixel: below what float32 and COCO's own files hold.
                "bbox": [round(v, 3) for v in (left, top, right - left, bottom - top)],
                "score": item["score"],
            }


def yolo_text(record: dict[str, Any]) -> str:
    """Lines of ``class cx cy width height score``, as fractions of the image."""
    width, height = record["width"], record["height"]
    lines = []
    for item in record["detections"]:
        left, top, right, bottom = item["xyxy"]
        values = (
            (left + right) / 2 / width,
            (top + bottom) / 2 / height,
            (right - left) / width,
            (bottom - top) / height,
            item["score"],
        )
        lines.append(f"{item['class_id']} " + " ".join(f"{value:.6f}" for value in values))
    return "".join(line + "\n" for line in lines)


def yolo_names(paths: Sequence[str]) -> dict[str, PurePath]:
    """The text file of each image, relative to the output folder.

    Images of several folders keep their folders below the deepest common one.

    Raises:
        InputError: Two images differ only in their suffix, so that their files collide.
    """
    if not paths:
        return {}
    absolute = {path: Path(path).absolute() for path in paths}
    root = Path(os.path.commonpath([path.parent for path in absolute.values()]))
    names: dict[str, PurePath] = {}
    owners: dict[PurePath, str] = {}
    for path, whole in absolute.items():
        name = whole.relative_to(root).with_suffix(".txt")
        if name in owners:
            raise InputError(
                f"{owners[name]} and {path} would both write {name}; rename one, "
                "or detect in them separately"
            )
        names[path], owners[name] = name, path
    return names


def _ids_from_names(paths: Sequence[str]) -> dict[str, int | str]:
    ids: dict[str, int | str] = {}
    owners: dict[int | str, str] = {}
    stems = [PurePath(path).stem for path in paths]
    # One type for all: tools that read the file sort the ids.
    digits = all(stem.isascii() and stem.isdigit() for stem in stems)
    for path, stem in zip(paths, stems, strict=True):
        number = int(stem) if digits else stem
        if number in owners:
            raise InputError(
                f"{owners[number]} and {path} would both get the COCO image id {number!r}; "
                "give the annotations that name their ids (--annotations)"
            )
        ids[path], owners[number] = number, path
    return ids


def _own_categories(class_names: tuple[str, ...]) -> dict[int, int]:
    ids = [COCO_CATEGORY_IDS.get(_COCO_ALIASES.get(name, name)) for name in class_names]
    if any(number is None for number in ids):
        return {i: i + 1 for i in range(len(class_names))}
    return {i: number for i, number in enumerate(ids) if number is not None}


def _ids_from_annotations(
    paths: Sequence[str], images: list[dict[str, Any]], annotations: str | Path
) -> dict[str, int | str]:
    by_name: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for image in images:
        parts = PurePath(str(image["file_name"])).parts
        by_name.setdefault(parts[-1], []).append((parts, int(image["id"])))
    ids: dict[str, int | str] = {}
    for path in paths:
        parts = PurePath(path).parts
        matches = by_name.get(parts[-1], [])
        exact = [item for item in matches if item[0] == parts[-len(item[0]) :]]
        if exact:
            # The longest file_name that the path ends with.
            ids[path] = max(exact, key=lambda item: len(item[0]))[1]
        elif len(matches) == 1:
            ids[path] = matches[0][1]
        else:
            count = f"{len(matches)} images of that name" if matches else "no such image"
            raise InputError(f"{annotations} has {count}: {path}; leave it out of the run")
    return ids


def _read_annotations(path: str | Path) -> dict[str, Any]:
    try:
        with open_regular(path) as stream:
            if os.fstat(stream.fileno()).st_size > _MAX_ANNOTATIONS_BYTES:
                raise InputError(f"{path} is too large to be COCO annotations")
            content = json.loads(stream.read())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must be COCO annotations, got {type(content).__name__}")
    for section, keys in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
        items = content.get(section)
        if not isinstance(items, list) or not all(
            isinstance(item, dict) and all(key in item for key in keys) for item in items
        ):
            raise InputError(f"{path}: {section!r} must be a list of objects with {keys}")
    return content
