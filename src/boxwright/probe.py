"""One real image that a quantised model keeps, to try on it what a backend makes of it.

A float plan is compared with its graph on random pixels. That says nothing of a quantised
one: its scales are those of real images, and on noise the answers of a right plan and of a
wrong one are both next to nothing (TensorRT 8.6 got yolov4-tiny's first layer wrong, and
AP 0.1 instead of 29.3, within 4 % of the graph's boxes on noise). So a quantised model keeps
one of the images it was calibrated on (metadata key ``boxwright.probe``), as a JPEG of its
input's size.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import InputError, ModelError
from boxwright.metadata import read_metadata, write_metadata

if TYPE_CHECKING:
    import onnx

    from boxwright.card import ModelCard

PROBE_KEY = "boxwright.probe"

_QUALITY = 90
_MAX_BYTES = 8 << 20

Pixels = NDArray[np.uint8]


def with_probe(proto: onnx.ModelProto, image: Pixels) -> None:
    """Keep an image, uint8 ``(H, W, 3)`` RGB of the model's size, in place of another."""
    from boxwright.images import import_cv2

    cv2 = import_cv2()
    settings = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    ok, data = cv2.imencode(".jpg", image[..., ::-1], settings)
    if not ok:
        raise InputError(f"an image of shape {list(image.shape)} cannot be kept as a JPEG")
    text = base64.b64encode(data.tobytes()).decode("ascii")
    write_metadata(proto, PROBE_KEY, text)


def probe_of(proto: onnx.ModelProto, card: ModelCard) -> Pixels | None:
    """The image that a model keeps, uint8 ``(H, W, 3)``; ``None`` where it keeps none.

    Raises:
        ModelError: It is no image of the model's size.
    """
    from boxwright.images import load_image

    text = read_metadata(proto, PROBE_KEY)
    if text is None:
        return None
    if len(text) > _MAX_BYTES:
        raise ModelError(f"the model's {PROBE_KEY} is larger than {_MAX_BYTES >> 20} MiB")
    height, width = card.input_size
    try:
        image = load_image(base64.b64decode(text, validate=True), max_pixels=height * width)
    except (binascii.Error, ValueError, InputError) as error:
        raise ModelError(f"the model's {PROBE_KEY} is no image: {error}") from error
    if image.shape != (height, width, 3):
        raise ModelError(
            f"the model's {PROBE_KEY} must be of its size, {height} x {width}, got "
            f"{image.shape[0]} x {image.shape[1]}"
        )
    return image
