"""COCO annotations: ids, boxes, where images are found, and every fault by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright import datasets
from boxwright.errors import InputError
from tests.datasets.material import SIZE, annotation, write_coco, write_image, write_text


def test_classes_boxes_and_ids(tmp_path: Path) -> None:
    path = write_coco(
        tmp_path,
        annotation(1, 7, (10.25, 5, 20, 10), area=77.5),
        annotation(1, 3, (0, 0, 80, 40), iscrowd=1),
        annotation(2, 3),
    )
    dataset = datasets.open(path)
    # In order of the category ids, not of the list.
    assert dataset.class_names == ("cat", "dog")
    assert dataset.category_ids == (3, 7)
    assert [(i.image_id, i.width, i.height) for i in dataset] == [(1, 80, 40), (2, 80, 40)]
    boxes = dataset.images[0].boxes
    np.testing.assert_array_equal(boxes.xyxy, [[10.25, 5, 30.25, 15], [0, 0, 80, 40]])
    assert boxes.xyxy.dtype == np.float32
    np.testing.assert_array_equal(boxes.class_id, [1, 0])
    np.testing.assert_array_equal(boxes.area, [77.5, 3200])
    np.testing.assert_array_equal(boxes.crowd, [False, True])
    assert dataset.report.ok
    assert dataset.objects == 3


@pytest.mark.parametrize(
    ("fault", "kind", "left"),
    [
        (annotation(bbox=(float("nan"), 5, 20, 10)), "not_finite", 0),
        (annotation(bbox=(float("inf"), 5, 20, 10)), "not_finite", 0),
        (annotation(bbox=(10, 5, 0, 10)), "no_size", 0),
        (annotation(bbox=(10, 5, 20, -3)), "no_size", 0),
        (annotation(bbox=(90, 5, 20, 10)), "outside", 0),  # right of the image
        (annotation(bbox=(10, -30, 20, 10)), "outside", 0),  # above it
        (annotation(bbox=(70, 5, 20, 10)), "clipped", 1),
        (annotation(bbox=None), "bad_line", 0),
        (annotation(bbox=(1, 2, 3)), "bad_line", 0),
        (annotation(bbox=("1", 2, 3, 4)), "bad_line", 0),
        (annotation(bbox=(10**400, 5, 20, 10)), "bad_line", 0),  # too large for a float
        (annotation(category=99), "unknown_class", 0),
        (annotation(category="3"), "unknown_class", 0),
        (annotation(image=99), "unknown_image", 0),
        ("no object", "bad_line", 0),
    ],
)
def test_a_fault_is_counted_and_the_rest_is_kept(
    tmp_path: Path, fault: Any, kind: str, left: int
) -> None:
    path = write_coco(tmp_path, annotation(2, 7), fault, annotation(2, 3))
    report = datasets.open(path).report
    assert dict(report.counts) == {kind: 1}
    assert report.problems[0].where == "instances_val.json: annotations[1]"
    assert datasets.open(path).objects == 2 + left


def test_a_box_over_the_edge_is_clipped_but_for_a_pixel_of_rounding(tmp_path: Path) -> None:
    path = write_coco(
        tmp_path, annotation(bbox=(-4, -2, 20, 10)), annotation(bbox=(60.5, 5, 20.25, 10))
    )
    boxes = datasets.open(path).images[0].boxes
    np.testing.assert_array_equal(boxes.xyxy, [[0, 0, 16, 8], [60.5, 5, 80.75, 15]])
    np.testing.assert_array_equal(boxes.area, [16 * 8, 20.25 * 10])


def test_duplicates_are_told(tmp_path: Path) -> None:
    path = write_coco(tmp_path, annotation(), annotation(), annotation(category=7))
    content = json.loads(path.read_text())
    content["images"].append({**content["images"][0], "id": 9})
    content["images"].append({**content["images"][0], "file_name": "other.png"})
    dataset = datasets.open(write_text(path, json.dumps(content)))
    assert dict(dataset.report.counts) == {"duplicate_box": 1, "duplicate_image": 2}
    assert len(dataset) == 2
    # Other tools count both, so both stay.
    assert len(dataset.images[0].boxes) == 3


def test_a_missing_image_is_told_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_coco(tmp_path, annotation(1), annotation(2), images=3)
    (tmp_path / "val" / "1.png").unlink()
    dataset = datasets.open(path)
    assert [image.image_id for image in dataset] == [2, 3]
    assert dict(dataset.report.counts) == {"missing_image": 1}
    (record,) = caplog.records
    assert "1 x image file missing (skipped with its labels)" in record.getMessage()


@pytest.mark.parametrize(
    "place", ["images", "../val", "val", ".", "images/val", "../images", "elsewhere"]
)
def test_where_images_are_found(tmp_path: Path, place: str) -> None:
    path = write_coco(tmp_path / "annotations", annotation())
    target = (path.parent / place).resolve()
    if target != (path.parent / "val").resolve():
        for file in (path.parent / "val").iterdir():
            write_image(target / file.name)
            file.unlink()
    if place == "elsewhere":
        with pytest.raises(InputError, match=r"none of the images .* give the folder"):
            datasets.open(path)
    dataset = datasets.open(path, images=target if place == "elsewhere" else None)
    assert dataset.images[0].path.resolve() == target / "1.png"


def test_file_names_with_folders(tmp_path: Path) -> None:
    path = write_coco(tmp_path, annotation())
    content = json.loads(path.read_text())
    for entry in content["images"]:
        entry["file_name"] = f"val/{entry['file_name']}"
    write_text(path, json.dumps(content))
    assert len(datasets.open(path)) == 2
    # The folder itself may be given, too.
    assert len(datasets.open(path, images=tmp_path / "val")) == 2


def _rename(path: Path, name: str) -> None:
    content = json.loads(path.read_text())
    for entry in content["images"]:
        entry["file_name"] = name.format(entry["file_name"])
    write_text(path, json.dumps(content))


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", ["../../../far/{}", "x/../../../../far/{}", "{{far}}/{}"])
def test_a_file_name_does_not_leave_the_folder(tmp_path: Path, name: str, given: bool) -> None:
    far = tmp_path / "far"
    path = write_coco(tmp_path / "a" / "b", annotation())
    (path.parent / "val").rename(far)
    (path.parent / "val").mkdir()
    (path.parent / "val" / "x").mkdir()
    _rename(path, name.replace("{{far}}", str(far)))
    images = path.parent / "val" if given else None
    with pytest.raises(InputError, match=r"leads out of .*; give --images the folder"):
        datasets.open(path, images=images)
    # That is all that it takes.
    assert len(datasets.open(path, images=far)) == 2


def test_one_file_name_that_leaves_is_refused_as_well(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "labels", annotation())
    write_image(tmp_path / "secret.png")
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = "../../secret.png"
    write_text(path, json.dumps(content))
    with pytest.raises(InputError, match=r"file_name '../../secret.png' .* leads out of"):
        datasets.open(path)


def test_file_names_of_another_machine(tmp_path: Path) -> None:
    path = write_coco(tmp_path, annotation())
    _rename(path, "/home/someone/val/{}")
    dataset = datasets.open(path, images=tmp_path / "val")
    assert [image.path for image in dataset] == [tmp_path / "val" / f"{n}.png" for n in (1, 2)]


def test_a_file_name_of_any_length(tmp_path: Path) -> None:
    path = write_coco(tmp_path, annotation())
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = "a" * 5000
    write_text(path, json.dumps(content))
    assert dict(datasets.open(path).report.counts) == {"missing_image": 1}


def test_sizes_come_from_the_images_where_labels_have_none(tmp_path: Path) -> None:
    entries = [{"id": n, "file_name": f"{n}.png"} for n in (1, 2)]
    path = write_coco(tmp_path, annotation(bbox=(70, 5, 20, 10)))
    content = {**json.loads(path.read_text()), "images": entries}
    (tmp_path / "val" / "2.png").write_bytes(b"not a picture")
    dataset = datasets.open(write_text(path, json.dumps(content)))
    assert (dataset.images[0].height, dataset.images[0].width) == SIZE
    assert dict(dataset.report.counts) == {"damaged_image": 1, "clipped": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be COCO annotations"),
        ({"images": [], "annotations": []}, "got one with images, annotations"),
        ({"images": [], "annotations": [], "categories": []}, "classes, got 0"),
        (
            {"images": [], "annotations": [], "categories": [{"id": "1", "name": "a"}]},
            "a category must have an id",
        ),
        (
            {"images": [{}], "annotations": [], "categories": [{"id": 1, "name": "a"}]},
            r"images\[0\] must have",
        ),
        (
            {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]},
            "lists no images",
        ),
    ],
)
def test_what_is_no_annotations_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        datasets.open(write_text(tmp_path / "x.json", json.dumps(content)))


def test_the_80_images_of_coco(fixtures_dir: Path) -> None:
    dataset = datasets.open(fixtures_dir / "coco-tiny")
    assert (len(dataset), dataset.objects, len(dataset.class_names)) == (80, 815, 80)
    assert dataset.category_ids[-1] == 90
    assert sum(int(image.boxes.crowd.sum()) for image in dataset) == 11
    assert dataset.report.ok
