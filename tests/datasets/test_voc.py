"""Pascal VOC: pixels counted from 1, splits, names, and faults."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from boxwright import datasets
from boxwright.errors import InputError
from tests.datasets.material import voc_object, write_image, write_text, write_voc


def test_boxes_include_their_last_pixel(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_object(), voc_object("dog", (1, 1, 80, 40), 1))
    (image,) = dataset = datasets.open(tmp_path)
    assert dataset.format == "voc"
    assert dataset.class_names == ("cat", "dog")
    # Pixels 11 to 30 are 20 pixels, from 10 to 30 where the image is from 0 to 80.
    np.testing.assert_array_equal(image.boxes.xyxy, [[10, 5, 30, 15], [0, 0, 80, 40]])
    np.testing.assert_array_equal(image.boxes.difficult, [False, True])
    assert dataset.report.ok


@pytest.mark.parametrize(
    ("objects", "kind", "left"),
    [
        (voc_object(box=("nan", 6, 30, 15)), "not_finite", 0),
        (voc_object(box=(30, 6, 29, 15)), "no_size", 0),
        (voc_object(box=(30, 6, 20, 15)), "no_size", 0),
        (voc_object(box=(91, 6, 99, 15)), "outside", 0),
        (voc_object(box=(-9, 6, 99, 15)), "clipped", 1),
        (voc_object(box=("x", 6, 30, 15)), "bad_line", 0),
        (voc_object(name=""), "bad_line", 0),
        ("<object><name>cat</name></object>", "bad_line", 0),
    ],
)
def test_a_fault_is_counted_and_the_rest_is_kept(
    tmp_path: Path, objects: str, kind: str, left: int
) -> None:
    write_voc(tmp_path, "a", voc_object(), objects)
    dataset = datasets.open(tmp_path)
    assert dict(dataset.report.counts) == {kind: 1}
    assert dataset.report.problems[0].where == "a.xml: object 2"
    assert dataset.objects == 1 + left


def test_one_pixel_is_a_box_and_a_zero_is_let_pass(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_object(box=(5, 5, 5, 5)), voc_object(box=(0, 0, 10, 10)))
    dataset = datasets.open(tmp_path)
    np.testing.assert_array_equal(dataset.images[0].boxes.xyxy, [[4, 4, 5, 5], [-1, -1, 10, 10]])
    assert dataset.report.ok


def test_a_list_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", "a", voc_object())
    write_image(tmp_path / "secret.png")
    lists = tmp_path / "voc" / "ImageSets" / "Main"
    write_text(lists / "test.txt", f"a\n../../secret\n{tmp_path}/secret\n")
    dataset = datasets.open(tmp_path / "voc", split="test")
    assert [image.path.name for image in dataset] == ["a.png"]
    assert dataset.report.counts["missing_image"] == 2


def test_splits_number_their_classes_alike(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_object("ant"))
    write_voc(tmp_path, "b", voc_object("bee"))
    write_text(tmp_path / "ImageSets" / "Main" / "test.txt", "b 1\nz\nb -1\n")
    dataset = datasets.open(tmp_path, split="test")
    assert dataset.class_names == ("ant", "bee")
    assert [image.path.name for image in dataset] == ["b.png"]
    np.testing.assert_array_equal(dataset.images[0].boxes.class_id, [1])
    # z has neither labels nor image.
    assert dict(dataset.report.counts) == {
        "missing_labels": 1,
        "missing_image": 1,
        "duplicate_image": 1,
    }
    named = datasets.open(tmp_path, split="test", names=["bee"])
    assert named.class_names == ("bee",)
    with pytest.raises(InputError, match="lists there are: test"):
        datasets.open(tmp_path, split="val")
    with pytest.raises(InputError, match="no list"):
        datasets.open(tmp_path, split="../Main/test")


def test_a_class_that_is_not_named_is_told(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_object("ant"), voc_object("bee"))
    dataset = datasets.open(tmp_path, names=["bee"])
    assert dict(dataset.report.counts) == {"unknown_class": 1}
    assert dataset.report.problems[0].detail == "ant"


def test_the_size_may_come_from_the_image(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_object(box=(-9, 6, 99, 15)), size=False)
    (image,) = datasets.open(tmp_path)
    np.testing.assert_array_equal(image.boxes.xyxy, [[0, 5, 80, 15]])


def test_damage_is_told(tmp_path: Path) -> None:
    for name in "abc":
        write_voc(tmp_path, name, voc_object())
    write_text(tmp_path / "Annotations" / "a.xml", "<annotation>")
    (tmp_path / "JPEGImages" / "b.png").unlink()
    dataset = datasets.open(tmp_path)
    assert [image.path.name for image in dataset] == ["c.png"]
    assert dict(dataset.report.counts) == {"damaged_labels": 1, "missing_image": 1}


def test_bccd(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "bccd"
    dataset = datasets.open(folder)
    assert dataset.class_names == ("Platelets", "RBC", "WBC")
    assert (len(dataset), dataset.objects) == (364, 4888)
    first = dataset.images[0]
    root = ElementTree.parse(folder / "Annotations" / f"{first.path.stem}.xml").getroot()
    expected = [
        [float(box.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax")]
        for box in root.iter("bndbox")
    ]
    np.testing.assert_array_equal(first.boxes.xyxy, np.array(expected) - [1, 1, 0, 0])
    splits = [datasets.open(folder, split=split) for split in ("train", "val", "test")]
    assert sum(map(len, splits)) == 364
