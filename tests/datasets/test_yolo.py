"""YOLO labels: where they lie, what a line may be, and the three ways to list images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxwright import datasets
from boxwright.errors import InputError
from tests.datasets.material import write_image, write_text

LINE = "1 0.25 0.5 0.25 0.5\n"  # on 80 x 40: centre (20, 20), 20 x 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_image(tmp_path / "images" / "val" / f"{name}.png")
        write_text(tmp_path / "labels" / "val" / f"{name}.txt", LINE)
    write_text(tmp_path / "obj.names", "cat\ndog\n")
    return tmp_path


def test_labels_lie_in_labels(folder: Path) -> None:
    dataset = datasets.open(folder)
    assert dataset.format == "yolo"
    assert dataset.class_names == ("cat", "dog")
    assert dataset.category_ids == (1, 2)
    assert [image.image_id for image in dataset] == [1, 2]
    np.testing.assert_allclose(dataset.images[0].boxes.xyxy, [[10, 10, 30, 30]])
    np.testing.assert_array_equal(dataset.images[0].boxes.class_id, [1])
    assert dataset.report.ok
    assert len(datasets.open(folder, split="val")) == 2
    with pytest.raises(InputError, match="no folder of split 'test'"):
        datasets.open(folder, split="test")


def test_labels_lie_beside_their_images(tmp_path: Path) -> None:
    write_image(tmp_path / "12.png")
    write_text(tmp_path / "12.txt", LINE)
    (image,) = datasets.open(tmp_path, names=["cat", "dog"])
    assert len(image.boxes) == 1
    # Files that are numbered keep their numbers.
    assert image.image_id == 12


def test_an_empty_file_shows_nothing_and_no_file_is_told(folder: Path) -> None:
    (folder / "labels" / "val" / "a.txt").write_text("\n")
    (folder / "labels" / "val" / "b.txt").unlink()
    dataset = datasets.open(folder)
    assert [len(image.boxes) for image in dataset] == [0, 0]
    assert dict(dataset.report.counts) == {"missing_labels": 1}


def test_the_box_around_an_outline(folder: Path) -> None:
    write_text(folder / "labels" / "val" / "a.txt", "0 0.5 0.25 0.75 0.5 0.25 0.75\n")
    boxes = datasets.open(folder).images[0].boxes
    np.testing.assert_allclose(boxes.xyxy, [[20, 10, 60, 30]])


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("2 0.5 0.5 0.1 0.1", "unknown_class"),
        ("-1 0.5 0.5 0.1 0.1", "unknown_class"),
        ("0.5 0.5 0.5 0.1 0.1", "unknown_class"),
        ("nan 0.5 0.5 0.1 0.1", "unknown_class"),
        ("inf 0.5 0.5 0.1 0.1", "unknown_class"),
        ("0 nan 0.5 0.1 0.1", "not_finite"),
        ("0 0.5 0.5 1e400 0.1", "not_finite"),
        ("0 0.5 0.5 0 0.1", "no_size"),
        ("0 0.5 0.5 0.1 -0.1", "no_size"),
        ("0 1.5 0.5 0.1 0.1", "outside"),
        ("0 0.5 0.5 1.5 0.1", "clipped"),
        ("0 0.5 0.5 0.1", "bad_line"),
        ("0 0.5 0.5 0.1 0.1 0.9", "bad_line"),  # a detection with its score
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "bad_line"),  # an outline with half a point
        ("cat 0.5 0.5 0.1 0.1", "bad_line"),
        ("1 0.25 0.5 0.25 0.5", "duplicate_box"),
    ],
)
def test_a_fault_is_counted_and_the_rest_is_kept(folder: Path, line: str, kind: str) -> None:
    path = write_text(folder / "labels" / "val" / "a.txt", f"{LINE}{line}\n")
    dataset = datasets.open(folder)
    assert dict(dataset.report.counts) == {kind: 1}
    assert dataset.report.problems[0].where == f"{path}:2"
    assert len(dataset.images[0].boxes) == (2 if kind in ("clipped", "duplicate_box") else 1)


def test_damaged_files_are_told_and_left_out(folder: Path) -> None:
    write_image(folder / "images" / "val" / "c.png")
    (folder / "labels" / "val" / "a.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "images" / "val" / "b.png").write_bytes(b"not a picture")
    dataset = datasets.open(folder)
    assert [image.path.name for image in dataset] == ["c.png"]
    assert dict(dataset.report.counts) == {
        "damaged_labels": 1,
        "damaged_image": 1,
        "missing_labels": 1,
    }
    (folder / "images" / "val" / "c.png").unlink()
    with pytest.raises(InputError, match=r"has no usable image: .*damaged|cannot be read"):
        datasets.open(folder)


def test_boxes_are_those_of_the_upright_image(folder: Path) -> None:
    path = folder / "images" / "val" / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(folder / "images" / "val" / "a.png") as image:
        image.save(path, exif=exif)
    (folder / "images" / "val" / "a.png").unlink()
    image_ = datasets.open(folder).images[0]
    assert (image_.height, image_.width) == (80, 40)
    np.testing.assert_allclose(image_.boxes.xyxy, [[5, 20, 15, 60]])


def test_darknet_data(folder: Path) -> None:
    write_text(folder / "test.txt", "images/val/a.png\n\nimages/val/b.png\n")
    write_text(folder / "train.txt", f"{folder}/images/val/b.png\n{folder}/images/val/b.png\n")
    data = write_text(
        folder / "voc.data",
        "classes = 2\ntrain=train.txt\nvalid  = data/test.txt\nnames=obj.names\nbackup=x\n",
    )
    dataset = datasets.open(data)
    assert [image.path.name for image in dataset] == ["a.png", "b.png"]
    train = datasets.open(data, split="train")
    assert [image.path.name for image in train] == ["b.png"]
    assert dict(train.report.counts) == {"duplicate_image": 1}
    assert datasets.open(data, split="val").sha256 == dataset.sha256
    with pytest.raises(InputError, match="no entry 'test'"):
        datasets.open(data, split="test")
    write_text(data, "classes=3\nvalid=test.txt\nnames=obj.names")
    with pytest.raises(InputError, match=r"classes = 3, but obj.names names 2"):
        datasets.open(data)
    write_text(data, "valid=nowhere.txt")
    with pytest.raises(InputError, match=r"mentions nowhere.txt"):
        datasets.open(data)


def test_data_may_not_take_its_names_from_anywhere(folder: Path, tmp_path: Path) -> None:
    secret = write_text(tmp_path / "secrets" / "passwd", "root\nuser\n")
    listed = write_text(tmp_path / "lists" / "test.txt", f"{folder}/images/val/a.png\n")
    # A list may be anywhere.
    data = write_text(tmp_path / "a/b/c/d.data", f"valid = {listed}\nnames = {secret}\n")
    with pytest.raises(InputError, match=r"d.data: its names file .* outside .* --names"):
        datasets.open(data)
    assert datasets.open(data, names=secret).class_names == ("root", "user")
    write_text(data, f"valid = {listed}\nnames = nowhere")
    with pytest.raises(InputError, match=r"'nowhere' is not there; give --names"):
        datasets.open(data)


def test_a_list_that_names_a_missing_image(folder: Path) -> None:
    listed = write_text(folder / "some.txt", "images/val/a.png\nimages/val/z.png\n")
    dataset = datasets.open(listed, names=folder / "obj.names")
    assert [image.path.name for image in dataset] == ["a.png"]
    assert dict(dataset.report.counts) == {"missing_image": 1}


@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "\n  1: dog\n  0: cat"])
@pytest.mark.parametrize("val", ["images/val", "[images/val]", "val.txt"])
def test_yaml(folder: Path, names: str, val: str) -> None:
    write_text(folder / "val.txt", "images/val/a.png\nimages/val/b.png\n")
    path = write_text(folder / "data.yaml", f"path: .\ntrain: nowhere\nval: {val}\nnames: {names}")
    dataset = datasets.open(path)
    assert (len(dataset), dataset.objects, dataset.class_names) == (2, 2, ("cat", "dog"))
    # The folder holds it, and is enough.
    assert datasets.open(folder).sha256 == dataset.sha256
    with pytest.raises(InputError, match="train is nowhere, looked for as"):
        datasets.open(path, split="train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "must hold path, train, val and names"),
        ("names: [a]", "no entry 'val'"),
        ("val: images/val\nnames: 3", "names must list"),
        ("val: images/val\nnames: {1: a, 2: b}", "numbered 0 to 1"),
        ("val: 3\nnames: [a]", "must be a path or a list"),
        ("path: [a]\nval: images/val\nnames: [a]", "path must be a text"),
        ("a: [", "not valid YAML"),
    ],
)
def test_yaml_that_says_something_else(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        datasets.open(write_text(folder / "data.yaml", text))


def test_coco8(fixtures_dir: Path) -> None:
    dataset = datasets.open(fixtures_dir / "coco8")
    lines = sum(
        len(path.read_text().splitlines()) for path in (fixtures_dir / "coco8").rglob("*.txt")
    )
    assert (len(dataset), dataset.objects) == (8, lines) == (8, 30)
    assert dataset.report.ok
    assert len(datasets.open(fixtures_dir / "coco8", split="val")) == 4
    # A nameless folder numbers its classes.
    assert dataset.class_names == tuple(map(str, range(len(dataset.class_names))))
