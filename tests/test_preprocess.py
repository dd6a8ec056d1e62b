from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.card import ModelCard
from boxwright.errors import InputError
from boxwright.images import Pixels, load_image
from boxwright.preprocess import Geometry, Preprocessor, resize_darknet

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from boxwright.card import Interpolation, Resize


def card(size: tuple[int, int] = (416, 416), pad_value: int = 128) -> ModelCard:
    return ModelCard("test", ("thing",), size, pad_value=pad_value)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def darknet_resize(image: Pixels, height: int, width: int) -> NDArray[np.float32]:
    """``resize_image`` of Darknet's ``src/image.c``, written out pixel by pixel, times 255."""
    one = np.float32(1)
    source = image.astype(np.float32)
    rows, columns = source.shape[:2]
    across = np.float32(columns - 1) / np.float32(max(width - 1, 1))
    down = np.float32(rows - 1) / np.float32(max(height - 1, 1))
    part = np.empty((rows, width, 3), np.float32)
    for c in range(width):
        if c == width - 1 or columns == 1:
            part[:, c] = source[:, columns - 1]
            continue
        position = np.float32(c) * across
        low = int(position)
        weight = position - np.float32(low)
        part[:, c] = (one - weight) * source[:, low] + weight * source[:, low + 1]
    result = np.empty((height, width, 3), np.float32)
    for r in range(height):
        if r == height - 1 or rows == 1:
            result[r] = part[rows - 1]
            continue
        position = np.float32(r) * down
        low = int(position)
        weight = position - np.float32(low)
        result[r] = (one - weight) * part[low] + weight * part[low + 1]
    return result


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((60, 80), (41, 41)),  # smaller
        ((20, 30), (64, 96)),  # larger
        ((60, 80), (60, 41)),  # one axis only
        ((300, 2), (30, 1)),  # down to one column
        ((2, 300), (1, 30)),  # down to one row
        ((7, 9), (1, 1)),
        ((1, 1), (5, 4)),  # from a single pixel
        ((1, 9), (4, 4)),
        ((3000, 4), (7, 5)),  # rows that are never used
    ],
)
def test_darknet_resize_is_darknets(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = noise(*source)
    exact = darknet_resize(image, *target)
    ours = resize_darknet(image, target)
    assert ours.shape == (*target, 3)
    # Half a level of rounding, and what float32 itself leaves.
    assert np.abs(ours - exact).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(ours[-1, -1], image[-1, -1])


def test_last_row_is_a_copy_even_where_float32_falls_short() -> None:
    # 415 * float32(439 / 415) is just below 439: Darknet's last row turns black here.
    assert np.float32(415) * (np.float32(439) / np.float32(415)) < 439
    image = noise(440, 900)
    error = np.abs(resize_darknet(image, (416, 700)) - darknet_resize(image, 416, 700))
    assert error[-1].max() <= 0.5 + 1e-4


def test_half_rounds_up() -> None:
    image = np.array([[[0] * 3, [1] * 3, [4] * 3]], np.uint8)
    assert resize_darknet(image, (1, 5))[0, :, 0].tolist() == [0, 1, 1, 3, 4]


def test_darknet_differs_from_opencv(fixtures_dir: Path) -> None:
    photo = load_image(fixtures_dir / "photos" / "dog.jpg")
    stretch = {
        kind: Preprocessor(card(), resize="stretch", interpolation=kind).prepare(photo)[0]
        for kind in ("darknet", "opencv")
    }
    exact = darknet_resize(photo, 416, 416)
    assert np.abs(stretch["darknet"] - exact).max() <= 0.5 + 1e-4
    assert np.abs(stretch["opencv"] - exact).max() > 20


def test_unchanged_size_is_a_copy() -> None:
    image = noise(416, 416)
    prepared, _ = Preprocessor(card(), interpolation="darknet").prepare(image)
    np.testing.assert_array_equal(prepared, image)
    assert not np.shares_memory(prepared, image)


def test_opencv_letterbox() -> None:
    image = noise(60, 80)
    prepared, geometry = Preprocessor(card((50, 40), pad_value=114)).prepare(image)
    assert geometry == Geometry((60, 80), (50, 40), (30, 40), (10.0, 0.0))
    np.testing.assert_array_equal(prepared[10:40], cv2.resize(image, (40, 30)))
    assert (prepared[:10] == 114).all()
    assert (prepared[40:] == 114).all()


# Expected sizes worked out by hand from letterbox_image in Darknet's src/image.c.
@pytest.mark.parametrize(
    ("source", "target", "content", "offset"),
    [
        ((576, 768), (416, 416), (312, 416), (52.0, 0.0)),
        ((768, 576), (416, 416), (416, 312), (0.0, 52.0)),
        ((427, 640), (416, 416), (277, 416), (69.5, 0.0)),  # 277.55: integer division
        ((100, 100), (288, 352), (288, 288), (0.0, 32.0)),
        ((1, 10000), (416, 416), (1, 416), (207.5, 0.0)),  # Darknet would make it 0 high
    ],
)
def test_darknet_letterbox_sizes(
    source: tuple[int, int],
    target: tuple[int, int],
    content: tuple[int, int],
    offset: tuple[float, float],
) -> None:
    preprocessor = Preprocessor(card(target), resize="letterbox", interpolation="darknet")
    assert preprocessor.geometry(source) == Geometry(source, target, content, offset)


def test_darknet_letterbox_pixels() -> None:
    image = noise(427, 640)
    preprocessor = Preprocessor(card(), resize="letterbox", interpolation="darknet")
    prepared, _ = preprocessor.prepare(image)
    # (416 - 277) / 2 is 69 in Darknet's integers; the fill of 0.5 becomes 128.
    np.testing.assert_array_equal(prepared[69:346], resize_darknet(image, (277, 416)))
    assert (prepared[:69] == 128).all()
    assert (prepared[346:] == 128).all()


def test_darknet_maps_boxes_back_as_darknet_does() -> None:
    # correct_yolo_boxes in Darknet's src/yolo_layer.c, for the box of the whole network.
    geometry = Preprocessor(card(), interpolation="darknet").geometry((427, 640))
    net, new_h, height = 416, 277, 427
    centre = (0.5 - (net - new_h) / 2.0 / net) / (new_h / net) * height
    size = 1.0 * net / new_h * height
    whole = np.array([[0.0, 0.0, 416.0, 416.0]])
    expected = [0, centre - size / 2, 640, centre + size / 2]
    np.testing.assert_allclose(geometry.to_source(whole)[0], expected, rtol=1e-12)


sides = st.integers(1, 3000)


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.integers(1, 700), st.integers(1, 700), st.data())
def test_geometry_invariants(
    height: int, width: int, rows: int, columns: int, data: st.DataObject
) -> None:
    resizes: tuple[Resize, ...] = ("letterbox", "stretch")
    interpolations: tuple[Interpolation, ...] = ("darknet", "opencv")
    resize = data.draw(st.sampled_from(resizes))
    interpolation = data.draw(st.sampled_from(interpolations))
    geometry = Preprocessor(
        card((rows, columns)), resize=resize, interpolation=interpolation
    ).geometry((height, width))
    for part, whole, offset in zip(
        geometry.content_size, (rows, columns), geometry.offset, strict=True
    ):
        assert 1 <= part <= whole
        assert offset >= 0
        assert offset + part <= whole
    # One side always fills the input.
    assert geometry.content_size[0] == rows or geometry.content_size[1] == columns
    boxes = np.array([[0, 0, width, height], [1.5, 2.5, width / 3, height / 7]])
    np.testing.assert_allclose(geometry.to_source(geometry.to_input(boxes)), boxes, atol=1e-6)


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("interpolation", ["darknet", "opencv"])
def test_a_drawn_box_is_found_where_geometry_says(
    resize: Resize, interpolation: Interpolation
) -> None:
    image = np.zeros((300, 200, 3), np.uint8)
    image[60:180, 50:150] = 255
    preprocessor = Preprocessor(
        card((320, 384), pad_value=0),
        resize=resize,
        interpolation=interpolation,
    )
    prepared, geometry = preprocessor.prepare(image)
    rows, columns = np.nonzero(prepared[..., 0] > 127)
    found = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    np.testing.assert_allclose(geometry.to_source(found), [[50, 60, 150, 180]], atol=1.5)


@pytest.mark.parametrize("interpolation", ["darknet", "opencv"])
def test_batch_equals_one_by_one(interpolation: Interpolation) -> None:
    preprocessor = Preprocessor(card((64, 96)), interpolation=interpolation)
    images = [noise(50, 40), noise(10, 200, 1), noise(64, 96, 2)]
    batch, geometries = preprocessor.prepare_batch(images)
    assert batch.shape == (3, 64, 96, 3)
    for image, pixels, geometry in zip(images, batch, geometries, strict=True):
        alone, where = preprocessor.prepare(image)
        np.testing.assert_array_equal(pixels, alone)
        assert geometry == where
    assert preprocessor.prepare_batch([])[0].shape == (0, 64, 96, 3)


def test_arguments_win_over_the_card() -> None:
    assert Preprocessor(card()).settings == {
        "input_size": [416, 416],
        "resize": "letterbox",
        "interpolation": "opencv",
        "pad_value": 128,
    }
    changed = Preprocessor(card(), resize="stretch", interpolation="darknet").settings
    assert (changed["resize"], changed["interpolation"]) == ("stretch", "darknet")


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match=r"resize must be one of letterbox, stretch, got 'crop'"):
        Preprocessor(card(), resize="crop")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="interpolation must be one of"):
        Preprocessor(card(), interpolation="cubic")  # type: ignore[arg-type]
    wrong: tuple[Any, ...] = (
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    )
    for image in wrong:
        with pytest.raises(InputError, match=r"uint8 of shape \(H, W, 3\)"):
            Preprocessor(card()).prepare(image)


def test_image_is_not_changed() -> None:
    image = noise(50, 40)
    before = image.copy()
    kinds: tuple[Interpolation, ...] = ("darknet", "opencv")
    for interpolation in kinds:
        Preprocessor(card(), interpolation=interpolation).prepare(image)
    np.testing.assert_array_equal(image, before)


def test_darknet_resize_is_fast() -> None:
    # 4 ms on one core when written; the bound is loose, for a loop over pixels takes 500.
    image = noise(576, 768)
    resize_darknet(image, (416, 416))
    start = time.perf_counter()
    for _ in range(5):
        resize_darknet(image, (416, 416))
    assert (time.perf_counter() - start) / 5 < 0.05
