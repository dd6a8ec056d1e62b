"""The images with the most errors are shown, worst first, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxwright.datasets import Dataset, GroundTruth, LabelledImage
from boxwright.detections import Detections
from boxwright.errors import InputError
from boxwright.evaluate.disagreement import disagreement
from boxwright.evaluate.sampling import readable_sample
from boxwright.evaluate.worst import (
    AGREED,
    EXTRA,
    MISSING,
    MOVED,
    RENAMED,
    disagreement_colours,
    side_by_side,
    worst_images,
)
from boxwright.images import load_image
from tests.cli.material import write_image

CLASSES = ("cat", "dog")
BOXES = ((0, 0, 10, 10), (20, 20, 10, 10))


def _image(folder: Path, number: int) -> LabelledImage:
    path = write_image(folder / f"{number}.png", seed=number)
    return LabelledImage(path, number, 60, 40, GroundTruth.from_xywh(BOXES, [0, 1]))


def _found(*items: tuple[float, float, int, float]) -> Detections:
    """Boxes of 10 pixels: left, top, class, score."""
    table = np.array(items, np.float32).reshape(-1, 4)
    corners = np.concatenate([table[:, :2], table[:, :2] + 10], axis=1)
    return Detections(corners, table[:, 3], table[:, 2].astype(np.int64), CLASSES)


def test_the_worst_images_come_first(tmp_path: Path) -> None:
    images = tuple(_image(tmp_path, number) for number in (1, 2, 3))
    dataset = Dataset("d", "coco", CLASSES, (1, 2), images)
    right = _found((0, 0, 0, 0.9), (20, 20, 1, 0.8))
    one_weak = _found((0, 0, 0, 0.9), (20, 20, 1, 0.1))
    one_wrong = _found((0, 0, 1, 0.9), (40, 5, 1, 0.5), (20, 20, 1, 0.5))
    pictures = worst_images(dataset, [right, one_weak, one_wrong], 0.25)
    assert [(p.name, p.caption.split(" (")[0]) for p in pictures] == [
        ("3.png", "1 of 2 objects missed, 2 of 3 detections wrong"),
        ("2.png", "1 of 2 objects missed, 0 of 1 detections wrong"),
    ]
    assert [title for title, _ in pictures[0].sides] == ["labels", "engine"]
    images[2].path.unlink()
    assert [p.name for p in worst_images(dataset, [right, one_weak, one_wrong], 0.25)] == ["2.png"]


def test_source_and_engine_side_by_side(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    sample = [(path, load_image(path))] * 6
    some, none = _found((0, 0, 0, 0.9)), _found()
    pictures = side_by_side(sample, [some] * 6, [some] * 2 + [none] + [some] * 3)
    assert len(pictures) == 4
    assert [picture.caption for picture in pictures] == [
        "0 found by both, 1 by the source alone, 0 by the engine alone",
        *["1 found by both, 0 by the source alone, 0 by the engine alone"] * 3,
    ]
    assert pictures[0].sides[0][1] != pictures[0].sides[1][1]


def test_what_differs_has_a_colour_of_its_own() -> None:
    engine = _found((0, 0, 0, 0.9), (20, 0, 0, 0.8), (40, 0, 0, 0.7), (0, 20, 0, 0.6))
    source = _found((40, 20, 0, 0.9), (0, 0, 0, 0.9), (20, 0, 1, 0.8), (42, 0, 0, 0.7))
    found = disagreement(engine, source)
    assert disagreement_colours(found, 0, 4) == [AGREED, RENAMED, MOVED, EXTRA]
    assert disagreement_colours(found, 1, 4) == [MISSING, AGREED, RENAMED, MOVED]


def test_the_sample_is_the_same_every_time_and_readable(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / f"{i}.png", seed=i) for i in range(8)]
    paths[3].write_bytes(b"no image")
    first, _ = readable_sample(paths, 4, seed=1)
    assert [path for path, _ in first] == [path for path, _ in readable_sample(paths, 4, 1)[0]]
    assert [path for path, _ in first] == sorted(path for path, _ in first)
    assert {path for path, _ in first} != {path for path, _ in readable_sample(paths, 4, 2)[0]}
    everything, damaged = readable_sample(paths, 99, seed=0)
    assert len(everything) == 7
    assert damaged == 1
    with pytest.raises(InputError, match="none of the 1 images can be read"):
        readable_sample(paths[3:4], 2, seed=0)
