from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boxwright import drawing
from boxwright.detections import Detections
from boxwright.drawing import class_colour, draw_detections, save_image
from boxwright.errors import InputError
from boxwright.images import load_image

if TYPE_CHECKING:
    from pathlib import Path


NAMES = ("person", "Fußgänger", "自転車", "", "a\nb\tc", "x" * 400)


def found(*rows: tuple[int, float, float, float, float]) -> Detections:
    """Rows of class, left, top, right, bottom."""
    return Detections(
        np.array([row[1:] for row in rows], np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, len(rows), dtype=np.float32),
        np.array([row[0] for row in rows], np.int64),
        NAMES,
    )


def grey(
    height: int = 200, width: int = 300
) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return np.full((height, width, 3), 90, np.uint8)


def test_frame_lies_on_the_box() -> None:
    image = grey()
    drawn = draw_detections(image, found((0, 100, 60, 200, 150)), labels=False, line_width=3)
    colour = list(class_colour(0))
    for row, column in ((60, 150), (149, 150), (100, 100), (100, 199), (62, 102)):
        assert drawn[row, column].tolist() == colour
    # Inside and outside of the frame, beyond the thin dark line, nothing changes.
    assert (drawn[64:146, 104:196] == 90).all()
    assert (drawn[:59] == 90).all()
    assert drawn[59, 150].tolist() == [45, 45, 45]


def test_colours_may_be_given() -> None:
    both = found((0, 10, 10, 50, 50), (0, 100, 100, 150, 150))
    drawn = draw_detections(grey(), both, labels=False, colours=[(1, 2, 3), (4, 5, 6)])
    assert drawn[10, 30].tolist() == [1, 2, 3]
    assert drawn[100, 120].tolist() == [4, 5, 6]
    with pytest.raises(InputError, match="1 colours for 2 detections"):
        draw_detections(grey(), both, colours=[(1, 2, 3)])


def test_input_is_not_changed() -> None:
    image = grey()
    drawn = draw_detections(image, found((0, 10, 10, 50, 50)))
    assert (image == 90).all()
    assert not np.shares_memory(drawn, image)
    assert not np.shares_memory(draw_detections(image, found()), image)


def test_label_is_above_the_box_in_its_colour() -> None:
    drawn = draw_detections(grey(), found((0, 100, 60, 200, 150)), font_size=14)
    label = (drawn[40:58, 100:140] == class_colour(0)).all(axis=-1)
    assert label.mean() > 0.5
    ink = (drawn[40:58, 100:140] == 255).all(axis=-1)
    assert ink.any()


@pytest.mark.parametrize(
    "box", [(0, 0, 300, 200), (-50, -50, 10, 10), (280, 190, 400, 300), (0, 150, 300, 199)]
)
def test_label_stays_inside(box: tuple[float, float, float, float]) -> None:
    only_box = draw_detections(grey(), found((0, *box)), labels=False)
    labelled = draw_detections(grey(), found((0, *box)))
    rows, columns = np.nonzero((only_box != labelled).any(axis=-1))
    # A label is some 70 x 15 pixels; a part cut off at an edge would be missing here.
    assert columns.max() - columns.min() > 40
    assert rows.max() - rows.min() > 7


def test_labels_keep_clear_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    places = []
    draw_label = drawing._draw_label

    def spy(draw: object, place: tuple[float, float, float, float], *rest: object) -> None:
        places.append(place)
        draw_label(draw, place, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(drawing, "_draw_label", spy)
    draw_detections(grey(), found(*[(0, 100, 60, 200, 150)] * 4))
    assert len(places) == 4
    for i, first in enumerate(places):
        assert all(drawing._overlap(first, second) == 0 for second in places[i + 1 :])


def test_best_is_on_top() -> None:
    drawn = draw_detections(
        grey(), found((0, 50, 50, 150, 150), (1, 50, 50, 150, 150)), labels=False
    )
    assert drawn[50, 100].tolist() == list(class_colour(0))


def test_label_text() -> None:
    one = found((0, 0, 0, 9, 9))
    assert drawing._label_text(one, 0, "person", True) == "person 90%"
    assert drawing._label_text(one, 0, "a\nb", False) == "a b"
    tracked = Detections(one.xyxy, one.score, one.class_id, NAMES, np.array([17]))
    assert drawing._label_text(tracked, 0, "person", True) == "person #17 90%"


def test_letters_without_a_font_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_WIDER_FONTS", ())
    drawing._fonts.cache_clear()
    try:
        assert drawing._writable("Fußgänger é", 12)[0] == "Fu?ganger e"
        assert drawing._writable("plain", 12)[0] == "plain"
    finally:
        drawing._fonts.cache_clear()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.lists(
        st.tuples(st.integers(0, 5), *[st.floats(-500, 900, width=32)] * 4),
        max_size=5,
    ),
)
def test_any_box_in_any_image(
    height: int, width: int, rows: list[tuple[int, float, float, float, float]]
) -> None:
    upright = [(c, min(x, u), min(y, v), max(x, u), max(y, v)) for c, x, y, u, v in rows]
    drawn = draw_detections(grey(height, width), found(*upright))
    assert drawn.shape == (height, width, 3)
    assert drawn.dtype == np.uint8


def test_colours_differ_and_repeat() -> None:
    colours = [class_colour(i) for i in range(32)]
    distances = [
        float(np.linalg.norm(np.subtract(a, b))) for i, a in enumerate(colours) for b in colours[:i]
    ]
    assert min(distances) > 20
    assert class_colour(32) == class_colour(0)
    assert class_colour(1) == (0xE6, 0x9F, 0x00)


def test_ink_has_contrast() -> None:
    assert drawing._ink((0, 0, 0)) == (255, 255, 255)
    assert drawing._ink((255, 255, 255)) == (0, 0, 0)
    assert drawing._ink((0xF0, 0xE4, 0x42)) == (0, 0, 0)


def test_wrong_image() -> None:
    with pytest.raises(InputError, match="uint8"):
        draw_detections(np.zeros((4, 4, 3)), found())  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_saved_image_reads_back(tmp_path: Path, suffix: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    path = tmp_path / "new" / f"image{suffix}"
    save_image(path, image)
    np.testing.assert_array_equal(load_image(path), image)
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".jpg", "JPEG"), (".jpeg", "JPEG"), (".webp", "WEBP")]
)
def test_saved_format_follows_the_suffix(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"image{suffix}"
    save_image(path, grey())
    with Image.open(path) as image:
        assert image.format == kind
    assert np.abs(load_image(path).astype(int) - 90).max() < 4


def test_unwritable(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.jpg.*got '\.xyz'"):
        save_image(tmp_path / "image.xyz", grey())
    with pytest.raises(InputError, match="uint8"):
        save_image(tmp_path / "image.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        save_image(tmp_path / "file" / "image.png", grey())


def test_landmarks_are_dots_at_their_pixels() -> None:
    one = found((0, 100, 60, 200, 150))
    points = np.array([[[150.5, 100.5], [-4e6, 5], [299.9, 199.9]]], np.float32)
    plain = draw_detections(grey(), one, labels=False, line_width=3)
    drawn = draw_detections(grey(), replace(one, landmarks=points), labels=False, line_width=3)
    colour = list(class_colour(0))
    changed = np.argwhere((drawn != plain).any(axis=2))
    dot = changed[(changed < 190).all(axis=1)]
    assert dot.mean(axis=0).tolist() == [100, 150]
    assert drawn[100, 150].tolist() == drawn[101, 151].tolist() == colour
    assert drawn[98, 150].tolist() == [45, 45, 45]
    assert drawn[199, 299].tolist() == colour
    assert len(dot) == 25
