"""The nouns: what labels may be, and what the hash of a dataset depends on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from boxwright import datasets
from boxwright.datasets import Dataset, GroundTruth, LabelledImage, to_coco
from boxwright.datasets.report import PROBLEMS, DatasetReport
from boxwright.errors import InputError
from tests.datasets.material import annotation, write_coco, write_image, write_text


def make(**changes: Any) -> Dataset:
    labels = GroundTruth.from_xywh([[1, 2, 3, 4]], [1])
    image = LabelledImage(Path("/x/a.png"), 5, 80, 40, labels)
    dataset = Dataset("d", "coco", ("cat", "dog"), (3, 7), (image,))
    return dataclasses.replace(dataset, **changes)


def change(**changes: Any) -> tuple[LabelledImage, ...]:
    return (dataclasses.replace(make().images[0], **changes),)


@pytest.mark.parametrize(
    "other",
    [
        make(class_names=("cat", "cow")),
        make(category_ids=(3, 8)),
        make(images=()),
        make(images=change(path=Path("b.png"))),
        make(images=change(image_id=6)),
        make(images=change(width=81)),
        make(images=change(boxes=GroundTruth.from_xywh([[1, 2, 3, 4.0000001]], [1]))),
        make(images=change(boxes=GroundTruth.from_xywh([[1, 2, 3, 4]], [0]))),
        make(images=change(boxes=GroundTruth.from_xywh([[1, 2, 3, 4]], [1], area=[11]))),
        make(images=change(boxes=GroundTruth.from_xywh([[1, 2, 3, 4]], [1], crowd=[True]))),
        make(images=change(boxes=GroundTruth.from_xywh([[1, 2, 3, 4]], [1], difficult=[True]))),
    ],
)
def test_every_fact_enters_the_hash(other: Dataset) -> None:
    assert other.sha256 != make().sha256


def test_the_place_does_not_enter_the_hash() -> None:
    moved = make(name="e", images=change(path=Path("/y/z/a.png")))
    assert moved.sha256 == make().sha256
    assert len(moved.sha256) == 64


def test_as_coco() -> None:
    content = to_coco(make())
    assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    assert content["annotations"] == [
        {
            "id": 1,
            "image_id": 5,
            "category_id": 7,
            "bbox": [1.0, 2.0, 3.0, 4.0],
            "area": 12.0,
            "iscrowd": 0,
        }
    ]


def test_as_coco_and_back(tmp_path: Path) -> None:
    import json

    path = write_coco(tmp_path, annotation(1, 7, (10.1, 5, 20.3, 10), iscrowd=1), annotation(2))
    dataset = datasets.open(path)
    write_text(tmp_path / "again.json", json.dumps(to_coco(dataset)))
    again = datasets.open(tmp_path / "again.json", images=tmp_path / "val")
    assert again.sha256 == dataset.sha256


@pytest.mark.parametrize(
    ("boxes", "more"),
    [
        ([[1, 2, 0, 4]], {}),
        ([[1, 2, 3, -4]], {}),
        ([[1, 2, 3, float("nan")]], {}),
        ([[1, 2, 3, 4]], {"area": [1, 2]}),
        ([[1, 2, 3, 4]], {"crowd": []}),
    ],
)
def test_labels_are_checked_when_made(boxes: Any, more: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        GroundTruth.from_xywh(boxes, [0], **more)


def test_a_report_counts_all_and_keeps_some() -> None:
    report = DatasetReport()
    for number in range(1500):
        report.add("no_size", f"line {number}", "width 0")
    assert report.counts["no_size"] == 1500
    assert len(report.problems) == 1000
    (line,) = report.lines()
    assert line == "1500 x box without width or height (label skipped), first line 0: width 0"
    assert report.to_dict()["no_size"]["count"] == 1500
    assert set(PROBLEMS["no_size"]) == {"box without width or height", "label skipped"}


def test_numbers_by_file_name_only_where_all_are_numbers(tmp_path: Path) -> None:
    for name in ("7", "8"):
        write_image(tmp_path / f"{name}.png")
        write_text(tmp_path / f"{name}.txt", "")
    assert [image.image_id for image in datasets.open(tmp_path, names=["a"])] == [7, 8]
    write_image(tmp_path / "x.png")
    assert [image.image_id for image in datasets.open(tmp_path, names=["a"])] == [1, 2, 3]


def test_head() -> None:
    assert len(make().head(0)) == 0
    assert make().head(5).objects == 1
    whole = make(annotations=Path("a.json"))
    assert whole.head(1).annotations is not None
    assert whole.head(0).annotations is None


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "no such file or folder"), ("a.csv", "of no known dataset format")],
)
def test_what_is_no_dataset(tmp_path: Path, name: str, message: str) -> None:
    write_text(tmp_path / "a.csv", "")
    with pytest.raises(InputError, match=message):
        datasets.open(tmp_path / name)


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="format must be one of coco, yolo, voc"):
        datasets.open(tmp_path, format="tfrecord")  # type: ignore[arg-type]


def test_a_folder_with_two_annotation_files_needs_a_split(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "annotations", annotation())
    (path.parent / "val").rename(tmp_path / "val")
    assert len(datasets.open(tmp_path)) == 2
    write_text(path.parent / "captions_val.json", "{}")
    assert len(datasets.open(tmp_path)) == 2
    write_text(path.parent / "instances_train.json", "{}")
    with pytest.raises(InputError, match=r"holds 2 annotation files: instances_train.json"):
        datasets.open(tmp_path)
    assert len(datasets.open(tmp_path, split="val")) == 2


def test_the_format_may_be_said(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_text(tmp_path / "a.txt", "0 0.5 0.5 0.5 0.5")
    write_text(tmp_path / "a.xml", "<annotation/>")
    assert datasets.open(tmp_path, names=["cat"]).format == "voc"
    assert datasets.open(tmp_path, names=["cat"], format="yolo").objects == 1
