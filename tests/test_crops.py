from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from boxwright.card import Crop, TemplatePoint
from boxwright.crops import crop_map, crop_region, cut_crop, resolve_crop, warp_crop
from boxwright.errors import InputError
from tests.classifiers import make_classifier

TEMPLATE = tuple(
    TemplatePoint(name, x, y)
    for name, x, y in (("a", 38.8, 52.2), ("b", 74.0, 52.0), ("c", 56.5, 72.2), ("d", 42.0, 92.9))
)
SIZE = (112, 112)
BOX = np.zeros(4, np.float32)


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(rows, np.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("crop", "expected"),
    [
        (Crop(), (10, 20, 30, 60)),
        (Crop("box", 1.5), (5, 10, 35, 70)),
        (Crop("square"), (0, 20, 40, 60)),
        (Crop("square", 1.5), (-10, 10, 50, 70)),
    ],
)
def test_the_crop_rules(crop: Crop, expected: tuple[float, ...]) -> None:
    assert crop_region(boxes((10, 20, 30, 60))[0], crop) == pytest.approx(expected)


def test_a_crop_is_what_opencv_resizes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    part = cut_crop(image, (10, 20, 42, 36), (16, 32), 0)
    assert np.array_equal(part, image[20:36, 10:42])
    # Inside, where the crop's edge is not the image's; the warp rounds to 1/32 of a pixel.
    ours = cut_crop(image, (10, 20, 42, 36), (24, 48), 0)[2:-2, 2:-2].astype(int)
    theirs = cv2.resize(image[20:36, 10:42], (48, 24), interpolation=cv2.INTER_LINEAR)
    assert np.abs(ours - theirs[2:-2, 2:-2]).max() <= 4


def test_outside_the_image_is_the_pad_value() -> None:
    image = np.full((10, 10, 3), 200, np.uint8)
    part = cut_crop(image, (-10, 0, 10, 10), (10, 20), 7)
    assert (part[:, :9] == 7).all()
    assert (part[:, 11:] == 200).all()
    assert (cut_crop(image, (50, 50, 60, 60), (4, 4), 7) == 7).all()


def test_an_image_wider_than_opencv_warps() -> None:
    image = np.zeros((40, 40_000, 3), np.uint8)
    image[:, 20_000:] = 255
    part = cut_crop(image, (0, 0, 40_000, 40), (4, 8), 0)
    assert part[2, :, 0].tolist() == [0, 0, 0, 0, 255, 255, 255, 255]


def aligned_map(points: Any, scale: float = 1.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    crop = Crop("aligned", scale, TEMPLATE)
    return crop_map(BOX, crop, SIZE, np.asarray(points, np.float32))


def least_squares(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The similarity nearest to the template, as NumPy's solver finds it: image to crop."""
    rows, wanted = [], []
    for (x, y), target in zip(points, TEMPLATE, strict=True):
        rows += [(x, -y, 1, 0), (y, x, 0, 1)]
        wanted += [target.x, target.y]
    a, b, dx, dy = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
    return np.array([[a, -b, dx], [b, a, dy], [0, 0, 1]])


@pytest.mark.parametrize("seed", range(5))
def test_alignment_is_least_squares(seed: int) -> None:
    """Turned any way, with errors that no similarity takes away."""
    random = np.random.default_rng(seed)
    angle, size = random.uniform(-3, 3), random.uniform(0.1, 20)
    turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flat = np.array([(p.x, p.y) for p in TEMPLATE]) + random.normal(0, 4, (4, 2))
    points = (flat @ turn.T + random.uniform(-200, 900, 2)).astype(np.float32)
    back = np.concatenate([aligned_map(points), [[0, 0, 1]]])
    assert back @ least_squares(points.astype(float)) == pytest.approx(np.eye(3), abs=1e-3)


def test_aligned_pixels_are_those_of_opencv() -> None:
    """As insightface warps: its points and template count from a pixel's centre."""
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), 3), np.uint8)
    points = np.array([(150, 90), (230, 100), (180, 150), (150, 200)], np.float32)
    matrix = least_squares(points.astype(float))
    shifted = matrix[:2].copy()
    shifted[:, 2] += matrix[:2, :2].sum(axis=1) / 2 - 0.5
    expected = cv2.warpAffine(image, shifted, SIZE, borderValue=0)
    got = warp_crop(image, aligned_map(points), SIZE, 0)
    assert np.abs(got.astype(int) - expected).max() <= 2
    assert got.std() > 2


def test_a_wider_aligned_crop_shows_more_about_its_middle() -> None:
    points = np.array([(150, 90), (230, 100), (180, 150), (150, 200)], np.float32)
    near, far = aligned_map(points), aligned_map(points, 2.0)
    middle = np.array([56, 56, 1])
    assert far @ middle == pytest.approx(near @ middle)
    assert far[:, :2] == pytest.approx(2 * near[:, :2])


def test_points_in_one_place_give_a_crop_all_the_same() -> None:
    back = aligned_map([(30, 40)] * 4)
    assert back[:, :2] == pytest.approx(np.eye(2))
    image = np.full((80, 60, 3), 9, np.uint8)
    assert warp_crop(image, back, SIZE, 0).max() == 9
    for far in (1e7, -1e7):
        points = np.random.default_rng(1).uniform(0, 1e7, (4, 2)) + far
        assert warp_crop(image, aligned_map(points), SIZE, 3).shape == (*SIZE, 3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Crop("aligned", 1.0, TEMPLATE)),
        ("aligned", Crop("aligned", 1.0, TEMPLATE)),
        ("aligned:1.2", Crop("aligned", 1.2, TEMPLATE)),
        ("box", Crop("box", 1.0, TEMPLATE)),
        ("square:1.5", Crop("square", 1.5, TEMPLATE)),
        (Crop("box", 2.0), Crop("box", 2.0)),
    ],
)
def test_the_crop_is_the_argument_then_the_cards(given: Crop | str | None, expected: Crop) -> None:
    card = make_classifier(crop=Crop("aligned", 1.0, TEMPLATE)).card
    assert resolve_crop(given, card) == expected


def test_the_crop_without_either_is_the_box() -> None:
    assert resolve_crop(None, make_classifier().card) == Crop("box", 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("round", "must be one of square, box, aligned, .* got 'round'"),
        ("box:wide", "a crop's scale must be a number, got 'box:wide'"),
        ("box:0", "scale above 0 and up to 16"),
        ("box:nan", "scale above 0 and up to 16"),
        (":2", "must be one of"),
        ("aligned", "colours has no template"),
    ],
)
def test_crops_that_cannot_be(given: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_crop(given, make_classifier().card)
