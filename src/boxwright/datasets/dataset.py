"""Labelled images behind one type, whatever format they came in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.datasets.report import DatasetReport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class GroundTruth:
    """The labelled objects of one image.

    Attributes:
        xyxy: float32 ``(n, 4)``: left, top, right, bottom in pixels of the upright image;
            a whole image of width W reaches from 0 to W.
        class_id: int64 ``(n,)``, an index into the dataset's `class_names`.
        crowd: bool ``(n,)``: COCO's ``iscrowd``, a region of many objects.
        area: float64 ``(n,)`` in square pixels: COCO's ``area`` (of the segmentation)
            where the labels say it, else that of the box.
        difficult: bool ``(n,)``: Pascal VOC's ``difficult``.
        xywh: float64 ``(n, 4)``: left, top, width, height, to the last digit of the label
            file. Metrics use these: a float32 could put an IoU on the other side of a
            threshold, and AP would then not be what pycocotools computes.
    """

    xyxy: NDArray[np.float32]
    class_id: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    difficult: NDArray[np.bool_]
    xywh: NDArray[np.float64]

    @classmethod
    def from_xywh(
        cls,
        xywh: Any,
        class_id: Any,
        *,
        crowd: Any = None,
        area: Any = None,
        difficult: Any = None,
    ) -> GroundTruth:
        """From boxes as left, top, width, height; what is left out is ``False`` or the box's.

        Raises:
            ValueError: The lengths differ, or a box has no size.
        """
        boxes = np.asarray(xywh, np.float64).reshape(-1, 4)
        count = len(boxes)
        if not (np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all()):
            raise ValueError("boxes must be finite, with a width and height above 0")
        columns = {
            "class_id": np.asarray(class_id, np.int64),
            "crowd": np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool),
            "area": boxes[:, 2] * boxes[:, 3] if area is None else np.asarray(area, np.float64),
            "difficult": (
                np.zeros(count, bool) if difficult is None else np.asarray(difficult, bool)
            ),
        }
        for name, column in columns.items():
            if column.shape != (count,):
                raise ValueError(f"{name} must have shape ({count},), got {column.shape}")
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        return cls(xyxy=corners.astype(np.float32), xywh=boxes, **columns)

    def __len__(self) -> int:
        return len(self.xyxy)


@dataclass(frozen=True)
class LabelledImage:
    """One image and its labels. Its pixels are read when they are needed, not before.

    Attributes:
        path: The image file.
        image_id: A whole number, one of its own per dataset: COCO's id; elsewhere the
            number that the file is named by where all are, else counted from 1.
        width: In pixels, upright; ``None`` where neither labels nor file tell.
        height: Likewise.
        boxes: The objects; empty for an image that shows none.
    """

    path: Path
    image_id: int
    width: int | None
    height: int | None
    boxes: GroundTruth


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        name: For reports: the file or folder, and the split.
        format: ``coco``, ``yolo`` or ``voc``.
        class_names: All classes, in the order of the class numbers.
        category_ids: The COCO category id of each class: the file's own, or counted from 1.
        images: In the order of the labels.
        report: What was wrong with files and labels, and what was done about it.
        annotations: The COCO file that says the same; ``None`` where it was read from
            other labels, or where some of a file's images or labels were left out.
    """

    name: str
    format: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[LabelledImage, ...]
    report: DatasetReport = field(default_factory=DatasetReport)
    annotations: Path | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[LabelledImage]:
        return iter(self.images)

    @property
    def objects(self) -> int:
        """How many labelled objects there are, crowds and difficult ones included."""
        return sum(len(image.boxes) for image in self.images)

    def head(self, count: int) -> Dataset:
        """The first `count` images."""
        whole = self.annotations if count >= len(self) else None
        return replace(self, images=self.images[:count], annotations=whole)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over class names, image list and labels, as 64 hexadecimal digits.

        Two readings of the same labels agree wherever the files lie: of a path only the
        file name counts. Pixels do not enter.
        """
        digest = hashlib.sha256()
        digest.update(json.dumps([self.class_names, self.category_ids]).encode())
        for image in self.images:
            labels = image.boxes
            facts = [image.path.name, image.image_id, image.width, image.height, len(labels)]
            digest.update(json.dumps(facts).encode())
            for column in (
                labels.xywh.astype("<f8"),
                labels.class_id.astype("<i8"),
                labels.area.astype("<f8"),
                labels.crowd.astype("u1"),
                labels.difficult.astype("u1"),
            ):
                digest.update(column.tobytes())
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """What a receipt keeps of it, as JSON values."""
        return {
            "name": self.name,
            "format": self.format,
            "images": len(self.images),
            "objects": self.objects,
            "classes": len(self.class_names),
            "sha256": self.sha256,
            "problems": self.report.to_dict(),
        }


def to_coco(dataset: Dataset) -> dict[str, Any]:
    """A dataset as COCO annotations (``instances_*.json``), which pycocotools reads.

    Annotation ids count from 1: pycocotools takes an id of 0 for "no match".
    """
    images = [
        {
            "id": image.image_id,
            "file_name": image.path.name,
            "width": image.width or 0,
            "height": image.height or 0,
        }
        for image in dataset.images
    ]
    annotations: list[dict[str, Any]] = []
    for image in dataset.images:
        labels = image.boxes
        for i in range(len(labels)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.image_id,
                    "category_id": dataset.category_ids[int(labels.class_id[i])],
                    "bbox": labels.xywh[i].tolist(),
                    "area": float(labels.area[i]),
                    "iscrowd": int(labels.crowd[i]),
                }
            )
    categories = [
        {"id": number, "name": name}
        for number, name in zip(dataset.category_ids, dataset.class_names, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
