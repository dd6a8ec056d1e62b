"""Which part of an image a box stands for, and cutting it out.

A crop is described by where its pixels come from: an affine map from the crop to the image,
both in pixels whose first one reaches from 0 to 1. What lies outside the image has a pad
value; pixels are interpolated as ``cv2.resize`` does, bilinear on pixel centres.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, get_args

import numpy as np

from boxwright.card import Crop, CropShape
from boxwright.errors import CardError, InputError
from boxwright.images import import_cv2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.card import ModelCard, TemplatePoint
    from boxwright.preprocess import Pixels

# OpenCV's warp takes sides below 2¹⁵.
_MAX_SIDE = 1 << 14


def resolve_crop(given: Crop | str | None, card: ModelCard) -> Crop:
    """What an attribute model is to see: what is asked for, else its card's crop, else the box.

    Args:
        given: A crop, or text: ``box``, ``square`` or ``aligned``, and a scale if need be, such
            as ``square:1.5``. A template comes from the card.
        card: The attribute model's.

    Raises:
        InputError: The text is of another form, the scale out of range, or the card has no
            template to align to.
    """
    own = card.crop or Crop()
    if given is None:
        return own
    if isinstance(given, str):
        shape, _, scale = given.partition(":")
        if shape not in get_args(CropShape):
            raise InputError(
                f"a crop must be one of {', '.join(get_args(CropShape))}, with a scale if need "
                f"be, such as square:1.5, got {given!r}"
            )
        try:
            given = Crop(shape, float(scale) if scale else 1.0, own.template)  # type: ignore[arg-type]
        except ValueError as error:
            raise InputError(f"a crop's scale must be a number, got {given!r}") from error
    if given.shape == "aligned" and not given.template:
        raise InputError(
            f"{card.name} has no template that crops could be aligned to; take box or square, "
            "or import it again"
        )
    try:
        dataclasses.replace(card, crop=given)
    except CardError as error:
        raise InputError(str(error).removeprefix("model card: ")) from error
    return given


def crop_map(
    box: NDArray[np.float32],
    crop: Crop,
    size: tuple[int, int],
    points: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """Where in the image each place of a crop comes from.

    Args:
        box: `xyxy` in the image's pixels.
        crop: The rule.
        size: ``(height, width)`` of the crop.
        points: ``(P, 2)``, the landmarks of the template in its order, in the image's pixels;
            for a crop that is aligned.

    Returns:
        float64 ``(2, 3)``: a place ``(x, y, 1)`` of the crop times this is its place in the
        image.
    """
    if crop.shape == "aligned" and points is not None:
        return _aligned(points.astype(np.float64), crop.template, crop.scale, size)
    left, top, right, bottom = crop_region(box, crop)
    return np.array(
        [[(right - left) / size[1], 0, left], [0, (bottom - top) / size[0], top]], np.float64
    )


def crop_region(box: NDArray[np.float32], crop: Crop) -> tuple[float, float, float, float]:
    """What a crop of the shape ``box`` or ``square`` takes of an image.

    Returns:
        Left, top, right, bottom. It may reach beyond the image, and is one pixel wide and high
        at least.
    """
    left, top, right, bottom = (float(value) for value in box)
    width, height = right - left, bottom - top
    if crop.shape == "square":
        width = height = max(width, height)
    half_width = max(width * crop.scale, 1.0) / 2
    half_height = max(height * crop.scale, 1.0) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def _aligned(
    points: NDArray[np.float64],
    template: tuple[TemplatePoint, ...],
    scale: float,
    size: tuple[int, int],
) -> NDArray[np.float64]:
    """The inverse of the similarity that brings the points nearest to the template.

    Least squares over rotation, scale and shift, measured in the crop (Umeyama 1991, without
    reflection). With x + iy for a point it is one division: of `points` p and `template` t,
    each less its mean, the factor is ``sum(conj(p) t) / sum(|p|²)``.
    """
    middle = complex(size[1], size[0]) / 2
    # A scale of 2 shows twice as much, so the face is half as large about the middle.
    target = middle + (np.array([complex(t.x, t.y) for t in template]) - middle) / scale
    source = points[:, 0] + 1j * points[:, 1]
    p, t = source - source.mean(), target - target.mean()
    spread, product = float((np.abs(p) ** 2).sum()), complex((p.conj() * t).sum())
    # Points all in one place say neither how large nor how turned it is: a pixel for a pixel.
    back = spread / product if spread > 1e-6 and abs(product) > 1e-6 else 1 + 0j
    shift = source.mean() - back * target.mean()
    return np.array([[back.real, -back.imag, shift.real], [back.imag, back.real, shift.imag]])


def cut_crop(
    image: Pixels,
    region: tuple[float, float, float, float],
    size: tuple[int, int],
    pad_value: int,
) -> Pixels:
    """A region of an image, stretched to a size.

    Args:
        image: uint8 ``(H, W, 3)``.
        region: Left, top, right, bottom in pixels, fractions included.
        size: ``(height, width)`` of the result.
        pad_value: For what lies outside the image.
    """
    left, top, right, bottom = region
    back = np.array(
        [[(right - left) / size[1], 0, left], [0, (bottom - top) / size[0], top]], np.float64
    )
    return warp_crop(image, back, size, pad_value)


def warp_crop(
    image: Pixels, back: NDArray[np.float64], size: tuple[int, int], pad_value: int
) -> Pixels:
    """The crop that a map describes.

    Args:
        image: uint8 ``(H, W, 3)``.
        back: As :func:`crop_map` gives it.
        size: ``(height, width)`` of the result.
        pad_value: For what lies outside the image.
    """
    cv2 = import_cv2()
    height, width = image.shape[:2]
    corners = np.array([[x, y, 1] for x in (0, size[1]) for y in (0, size[0])]) @ back.T
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    # The part that the crop touches, with the neighbours that interpolation reads.
    x0, y0 = max(math.floor(left) - 2, 0), max(math.floor(top) - 2, 0)
    x1, y1 = min(math.ceil(right) + 2, width), min(math.ceil(bottom) + 2, height)
    if x1 <= x0 or y1 <= y0:
        return np.full((*size, 3), pad_value, np.uint8)
    step = -(-max(x1 - x0, y1 - y0) // _MAX_SIDE)
    part = np.ascontiguousarray(image[y0:y1:step, x0:x1:step])
    # Pixel u of the crop has its centre at u + 0.5, as pixel x of the image at x + 0.5.
    inner = back.copy()
    inner[:, 2] += back[:, :2].sum(axis=1) / 2 - (x0, y0)
    inner /= step
    inner[:, 2] -= 0.5
    result: Pixels = cv2.warpAffine(
        part,
        inner,
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(pad_value,) * 3,
    )
    return result
