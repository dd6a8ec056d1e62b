"""Pictures in a page: small JPEG files inside it, with a budget for all of them together."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from boxwright.errors import ImageError
from boxwright.files import atomic_write, write_text

if TYPE_CHECKING:
    from boxwright.detections import Detections
    from boxwright.drawing import Colour
    from boxwright.images import Pixels

SIDE = 640
"""Longest side of a picture, in pixels."""

MAX_BYTES = 3 << 20
"""All pictures of a page together, before they are written as text."""

_QUALITIES = (82, 70, 55, 40)
_TARGET_BYTES = 110 << 10
_INDEX = "pictures.json"


@dataclass(frozen=True)
class Picture:
    """One or two drawings of one image, side by side.

    Attributes:
        name: The image.
        caption: What there is to see.
        sides: ``(title, JPEG content)`` each.
        topic: The section it belongs to: ``faithful`` or ``accurate``.
    """

    name: str
    caption: str
    sides: tuple[tuple[str, bytes], ...]
    topic: str

    @property
    def size(self) -> int:
        """Bytes of all sides."""
        return sum(len(content) for _, content in self.sides)


def draw(
    pixels: Pixels,
    detections: Detections,
    *,
    scores: bool = True,
    colours: Sequence[Colour] | None = None,
) -> bytes:
    """An image with its boxes as a JPEG of bounded size, legible at that size.

    Boxes are drawn after the image was made small, so that lines and labels keep theirs.
    """
    from PIL import Image

    from boxwright.drawing import draw_detections

    height, width = pixels.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    factor = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    points = detections.landmarks
    scaled = replace(
        detections,
        xyxy=detections.xyxy * factor,
        landmarks=None if points is None else points * factor[:2],
    )
    drawn = draw_detections(small, scaled, scores=scores, font_size=13, colours=colours)
    return _jpeg(Image.fromarray(drawn))


def within_budget(pictures: Iterable[Picture], limit: int = MAX_BYTES) -> list[Picture]:
    """The first pictures that fit in `limit` bytes together."""
    kept, used = [], 0
    for picture in pictures:
        if used + picture.size > limit:
            break
        kept.append(picture)
        used += picture.size
    return kept


def data_uri(content: bytes) -> str:
    """JPEG content as an address that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def save(pictures: Sequence[Picture], folder: Path) -> None:
    """Write pictures into a folder, for a later report; its index is written last."""
    items = []
    for number, picture in enumerate(pictures):
        sides = []
        for side, (title, content) in enumerate(picture.sides):
            name = f"{number:02d}-{side}.jpg"
            with atomic_write(folder / name) as stream:
                stream.write(content)
            sides.append([title, name])
        items.append(
            {
                "name": picture.name,
                "caption": picture.caption,
                "sides": sides,
                "topic": picture.topic,
            }
        )
    write_text(folder / _INDEX, json.dumps(items, indent=2) + "\n")


def read(folder: Path) -> list[Picture]:
    """What :func:`save` wrote; nothing where there is none."""
    if not (folder / _INDEX).is_file():
        return []
    return [
        Picture(
            item["name"],
            item["caption"],
            tuple((title, (folder / name).read_bytes()) for title, name in item["sides"]),
            item["topic"],
        )
        for item in json.loads((folder / _INDEX).read_bytes())
    ]


def load_pixels(path: Path) -> Pixels | None:
    """An image for a picture, or ``None`` where it cannot be read: the report goes on."""
    from boxwright.images import load_image

    try:
        return load_image(path)
    except ImageError:
        return None


def _jpeg(image: object) -> bytes:
    from PIL import Image

    assert isinstance(image, Image.Image)  # noqa: S101 - drawn above
    content = b""
    for quality in _QUALITIES:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality, optimize=True)
        content = stream.getvalue()
        if len(content) <= _TARGET_BYTES:
            break
    return content
