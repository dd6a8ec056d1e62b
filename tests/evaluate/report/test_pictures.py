"""Pictures in a page: bounded, drawn at the size they are shown, kept for later."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxwright.detections import Detections
from boxwright.evaluate.report import pictures
from boxwright.evaluate.report.pictures import MAX_BYTES, SIDE, Picture, draw, within_budget
from tests.evaluate.report.material import make_picture


def test_a_picture_is_small_whatever_the_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 3000, 3), np.uint8)
    content = draw(pixels, Detections.empty(("cat",)))
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG"
        assert image.size == (SIDE, SIDE // 2)
    assert len(content) < 200 << 10


def test_a_small_image_is_not_blown_up_and_a_thin_one_not_lost() -> None:
    for height, width in ((20, 30), (1, 4000)):
        pixels = np.zeros((height, width, 3), np.uint8)
        with Image.open(io.BytesIO(draw(pixels, Detections.empty(())))) as image:
            assert image.size == (min(width, SIDE), min(height, 20))


def test_boxes_lie_where_they_belong() -> None:
    pixels = np.full((1280, 1280, 3), 128, np.uint8)
    corners = np.array([[640, 640, 1000, 1000]], np.float32)
    box = Detections(corners, np.array([0.5], np.float32), np.array([0]), ("cat",))
    with Image.open(io.BytesIO(draw(pixels, box))) as image:
        drawn = np.asarray(image).astype(int)
    coloured = np.abs(drawn - 128).max(axis=2) > 60
    rows, columns = np.nonzero(coloured[330:])
    assert 315 <= columns.min() <= 325
    assert 495 <= columns.max() <= 505
    assert 495 <= rows.max() + 330 <= 505
    pointed = replace(box, landmarks=np.array([[[800, 900]]]))
    with Image.open(io.BytesIO(draw(pixels, pointed))) as image:
        dot = np.argwhere(np.abs(np.asarray(image).astype(int) - drawn).max(axis=2) > 60)
    assert dot.mean(axis=0) == pytest.approx([450, 400], abs=1.5)


def test_the_first_pictures_that_fit_are_kept() -> None:
    picture = Picture("a", "", (("x", b"1" * 400), ("y", b"2" * 200)), "accurate")
    assert picture.size == 600
    assert len(within_budget([picture] * 5, 1900)) == 3
    assert within_budget([picture], 599) == []
    assert MAX_BYTES <= 4 << 20


def test_pictures_are_kept_for_a_later_report(tmp_path: Path) -> None:
    shown = [make_picture("one"), make_picture("two", "faithful")]
    pictures.save(shown, tmp_path / "p")
    assert pictures.read(tmp_path / "p") == shown
    assert pictures.read(tmp_path / "none") == []


def test_an_image_that_is_gone_is_no_picture(tmp_path: Path) -> None:
    assert pictures.load_pixels(tmp_path / "none.jpg") is None


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff"])
def test_a_picture_is_an_address_that_holds_it(content: bytes) -> None:
    address = pictures.data_uri(content)
    assert address.startswith("data:image/jpeg;base64,")
    assert not set('"<>&') & set(address)
