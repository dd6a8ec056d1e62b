"""Drawing detections, legibly at any size of image, and saving the picture."""

from __future__ import annotations

import contextlib
import functools
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import InputError
from boxwright.files import atomic_write

if TYPE_CHECKING:
    from PIL import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from boxwright.detections import Detections

    Font = FreeTypeFont | ImageFont

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]
_Rectangle = tuple[float, float, float, float]

# The first seven are Okabe and Ito's colours for the colour-blind. The rest were chosen
# one by one, each the farthest in CIELAB from all before it, as seen with normal vision,
# protanopia and deuteranopia (Machado et al. 2009), among colours of medium lightness.
_PALETTE_TEXT = """
    0072b2 e69f00 009e73 d55e00 56b4e9 cc79a7 f0e442 4444ff 00ee88 dd0044 8877ff 88eecc
    44eeff ee9955 11cc88 337744 8899ff aa4411 bb0099 bb2277 7744dd dddd66 00bbcc cc6666
    5566cc 33ccaa 889933 77eeaa 99cc33 bb5599 77cc66 4499dd
"""
_PALETTE = tuple(_PALETTE_TEXT.split())

# Pillow's own font has ASCII letters only; these are looked for where a name needs more.
_WIDER_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "arial.ttf",
)

_FORMATS = {
    ".bmp": ("BMP", {}),
    ".jpeg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".jpg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".png": ("PNG", {"compress_level": 3}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".webp": ("WEBP", {"quality": 90}),
}


def class_colour(class_id: int) -> Colour:
    """The RGB colour of a class: always the same, well apart from its neighbours'."""
    code = _PALETTE[class_id % len(_PALETTE)]
    return int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)


def draw_detections(
    image: Pixels,
    detections: Detections,
    *,
    labels: bool = True,
    scores: bool = True,
    line_width: int | None = None,
    font_size: int | None = None,
    colours: Sequence[Colour] | None = None,
) -> Pixels:
    """Draw boxes and labels on a copy of an image.

    Boxes are drawn worst first, so that the best lie on top; landmarks are dots. Labels stay
    inside the image and, where there is room, clear of each other; a label that is wider
    than the image is left out.

    Args:
        image: uint8 ``(H, W, 3)``, RGB.
        detections: In pixels of `image`.
        labels: Write the class name (attributes, and track number) at each box.
        scores: Write the score beside it, in per cent.
        line_width: Of the boxes, in pixels; by default it grows with the image.
        font_size: Of the labels, in pixels; by default it grows with the image.
        colours: RGB of each detection, instead of its class's.

    Returns:
        A new uint8 ``(H, W, 3)`` array.

    Raises:
        InputError: The image is of another type or shape, or the colours of another number.
    """
    if colours is None:
        colours = [class_colour(number) for number in detections.class_id.tolist()]
    if len(colours) != len(detections):
        raise InputError(f"got {len(colours)} colours for {len(detections)} detections")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"the image must be uint8 of shape (H, W, 3), got {image.dtype} {image.shape}"
        )
    result = image.copy()
    if not len(detections) or 0 in image.shape:
        return result
    diagonal = float(np.hypot(*image.shape[:2]))
    width = max(1, round(diagonal / 320)) if line_width is None else line_width
    for i in reversed(range(len(detections))):
        _draw_box(result, detections.xyxy[i], colours[i], width)
        if detections.landmarks is not None:
            _draw_points(result, detections.landmarks[i], colours[i], width)
    if not labels:
        return result
    size = max(10, round(diagonal / 55)) if font_size is None else font_size
    return _draw_labels(result, detections, scores, size, width, colours)


def _draw_box(image: Pixels, xyxy: NDArray[np.float32], colour: Colour, width: int) -> None:
    """A frame whose outer edge is the box, between two thin dark lines that set it off."""
    height, columns = image.shape[:2]
    edges = np.clip(np.rint(xyxy), 0, [columns, height, columns, height]).astype(int)
    left, top, right, bottom = edges.tolist()
    edge = 1 if width > 1 else 0
    for x0, y0, x1, y1 in _frame(left - edge, top - edge, right + edge, bottom + edge, edge):
        _darken(image, x0, y0, x1, y1)
    for x0, y0, x1, y1 in _frame(left + width, top + width, right - width, bottom - width, edge):
        _darken(image, x0, y0, x1, y1)
    for x0, y0, x1, y1 in _frame(left, top, right, bottom, width):
        image[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = colour


def _draw_points(image: Pixels, points: NDArray[np.float32], colour: Colour, width: int) -> None:
    """Square dots, each a little wider than a box's line, in a thin dark frame."""
    height, columns = image.shape[:2]
    # Pixels far outside the image would be numbers too large for an int.
    places = np.clip(np.floor(points), -2 * width, [columns + 2 * width, height + 2 * width])
    for x, y in places.astype(int).tolist():
        x0, y0, x1, y1 = x - width // 2, y - width // 2, x + width // 2 + 1, y + width // 2 + 1
        for frame in _frame(x0 - 1, y0 - 1, x1 + 1, y1 + 1, 1):
            _darken(image, *frame)
        image[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = colour


def _frame(
    left: int, top: int, right: int, bottom: int, width: int
) -> Iterator[tuple[int, int, int, int]]:
    """Four bars that do not overlap, as ``(x0, y0, x1, y1)``; none where nothing is left."""
    if right <= left or bottom <= top or width < 1:
        return
    across, down = min(width, right - left), min(width, bottom - top)
    yield left, top, right, top + down
    yield left, max(bottom - down, top + down), right, bottom
    yield left, top + down, left + across, bottom - down
    yield max(right - across, left + across), top + down, right, bottom - down


def _darken(image: Pixels, x0: int, y0: int, x1: int, y1: int) -> None:
    area = image[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    area //= 2


def _draw_labels(
    image: Pixels,
    detections: Detections,
    scores: bool,
    size: int,
    line_width: int,
    colours: Sequence[Colour],
) -> Pixels:
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    taken: list[_Rectangle] = []
    placed = []
    attributes = detections.attribute_texts()
    for i, name in enumerate(detections.names()):
        label = _label_text(detections, i, name, scores, attributes[i])
        text, font = _writable(label, size)
        place = _place_label(draw, text, font, detections.xyxy[i], canvas.size, taken, line_width)
        if place is not None:
            taken.append(place)
            placed.append((place, text, font, colours[i]))
    for place, text, font, colour in reversed(placed):
        _draw_label(draw, place, text, font, colour)
    return np.array(canvas)


def _label_text(
    detections: Detections, index: int, name: str, scores: bool, attributes: tuple[str, ...] = ()
) -> str:
    # A class name may hold anything; a line break would change the label's height.
    parts = [" ".join(text.split()) or "?" for text in (name, *attributes)]
    if detections.track_id is not None:
        parts.append(f"#{detections.track_id[index]}")
    if scores:
        parts.append(f"{detections.score[index]:.0%}")
    return " ".join(parts)


def _padding(font: Font) -> int:
    return max(2, round(getattr(font, "size", 10) / 4))


def _label_size(draw: ImageDraw.ImageDraw, text: str, font: Font) -> tuple[float, float]:
    # One height for all labels, whatever letters they hold.
    _left, top, _right, bottom = draw.textbbox((0, 0), "Hg", font=font)
    padding = _padding(font)
    return draw.textlength(text, font=font) + 2 * padding, bottom - top + 1.5 * padding


def _place_label(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: Font,
    xyxy: NDArray[np.float32],
    image_size: tuple[int, int],
    taken: list[_Rectangle],
    line_width: int,
) -> _Rectangle | None:
    """The first free place of: above, below, inside at the top, inside at the bottom."""
    width, height = _label_size(draw, text, font)
    if width > image_size[0] or height > image_size[1]:
        return None
    left, top, right, bottom = (float(value) for value in np.rint(xyxy))
    columns = (left, right - width)
    rows = (top - height, top + line_width, bottom, bottom - height - line_width)
    options = []
    for y in rows:
        for x in columns:
            x0 = min(max(x, 0), image_size[0] - width)
            if 0 <= y <= image_size[1] - height:
                options.append((x0, y, x0 + width, y + height))
    if not options:
        x0 = min(max(left, 0), image_size[0] - width)
        y0 = min(max(top, 0), image_size[1] - height)
        options.append((x0, y0, x0 + width, y0 + height))
    return min(options, key=lambda place: sum(_overlap(place, other) for other in taken))


def _overlap(first: _Rectangle, second: _Rectangle) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)


def _draw_label(
    draw: ImageDraw.ImageDraw, place: _Rectangle, text: str, font: Font, colour: Colour
) -> None:
    left, top, right, bottom = (round(value) for value in place)
    draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
    box = draw.textbbox((0, 0), "Hg", font=font)
    baseline = (bottom + top - box[1] - box[3]) / 2
    draw.text((left + _padding(font), baseline), text, fill=_ink(colour), font=font)


def _ink(colour: Colour) -> Colour:
    """Black or white, whichever has more contrast (WCAG 2.2 relative luminance)."""
    linear = [(c / 255) ** 2.2 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def _writable(text: str, size: int) -> tuple[str, Font]:
    """The text and a font that has its letters; without one, accents go, then letters."""
    fonts = _fonts(size)
    for font in fonts[:1] if text.isascii() else fonts:
        if all(_has_glyph(font, letter) for letter in text):
            return text, font
    plain = unicodedata.normalize("NFKD", text)
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return bare.encode("ascii", "replace").decode(), fonts[0]


@functools.lru_cache(maxsize=8)
def _fonts(size: int) -> list[Font]:
    from PIL import ImageFont

    fonts: list[Font] = [ImageFont.load_default(size)]
    for name in _WIDER_FONTS:
        with contextlib.suppress(OSError):
            fonts.append(ImageFont.truetype(name, size))
    return fonts


@functools.lru_cache(maxsize=4096)
def _has_glyph(font: Font, letter: str) -> bool:
    # A font draws every letter it lacks as the same box, also that for a non-character.
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))


def save_image(path: str | Path, image: Pixels) -> None:
    """Write an RGB image; the suffix says the format, and nothing is left half-written.

    Args:
        path: Ends in ``.jpg``, ``.png``, ``.webp``, ``.bmp`` or ``.tif``.
        image: uint8 ``(H, W, 3)``, RGB.

    Raises:
        InputError: The suffix is unknown, the array is no image, or the file cannot be
            written.
    """
    from PIL import Image

    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(
            f"cannot write {path}: the suffix must be one of {' '.join(sorted(_FORMATS))}, "
            f"got {suffix!r}"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"an image to write must be uint8 of shape (H, W, 3), got {image.dtype} {image.shape}"
        )
    kind, options = _FORMATS[suffix]
    settings: dict[str, Any] = dict(options)
    with atomic_write(path) as stream:
        Image.fromarray(image).save(stream, kind, **settings)
