"""An imported Caffe network beside OpenCV's own reading of the same files.

OpenCV 4 reads prototxt and caffemodel by code of its own; OpenCV 5 dropped that. Compared
are the tensors that enter the decoding, fed by arithmetic in numpy: agreement says that
both read layers, weights and pixels alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from boxwright.errors import ImportFailedError
from boxwright.images import import_cv2
from boxwright.importers import running
from boxwright.importers.registry import Check, Verification
from boxwright.model import IMAGES, Model

# Of the largest value: float32 sums in another order, with batch norm folded in ours only.
_TOLERANCE = 1e-4


def verify(prototxt: Path, caffemodel: Path, model: Model, images: int = 2) -> Verification:
    """Compare `model` with OpenCV's answer on made-up images.

    Raises:
        ImportFailedError: This OpenCV has no Caffe importer, or refuses the network.
    """
    cv2 = import_cv2()
    if not hasattr(cv2, "dnn") or not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise ImportFailedError(
            f"OpenCV {cv2.__version__} has no Caffe importer; it comes with "
            "opencv-python-headless below 5"
        )
    transform = next((t for t in model.card.transforms if t.name == "import:caffe"), None)
    if transform is None:
        raise ImportFailedError(f"the model was not imported from {caffemodel}")
    tensors, pixels = transform.parameters["tensors"], transform.parameters["pixels"]
    gaps = dict.fromkeys(tensors, 0.0)
    try:
        net = cv2.dnn.readNetFromCaffe(str(prototxt), str(caffemodel))
        for seed in range(images):
            image = running.picture(model.card.input_size, seed)
            net.setInput(feed_of(image, pixels))
            theirs = dict(zip(tensors, net.forward(list(tensors)), strict=True))
            ours = running.run(model.proto, {IMAGES: image[None]}, list(tensors.values()))
            for layer, tensor in tensors.items():
                gaps[layer] = max(gaps[layer], gap(ours[tensor], theirs[layer]))
    except cv2.error as error:
        reason = " ".join(str(getattr(error, "err", "") or error).split())[:200]
        raise ImportFailedError(
            f"OpenCV {cv2.__version__} cannot run {prototxt.name}, so nothing was compared: "
            f"{reason}"
        ) from error
    reason = "relative to its largest value; float32 sums in another order"
    checks = tuple(Check(f"layer {name}", gap, _TOLERANCE, reason) for name, gap in gaps.items())
    return Verification(f"OpenCV {cv2.__version__} on {prototxt.name}", checks)


def feed_of(image: np.ndarray[Any, Any], pixels: dict[str, Any]) -> np.ndarray[Any, Any]:
    """What Caffe was fed for an RGB image, ``(1, C, H, W)``."""
    x = image.astype(np.float64)
    if pixels["channels"] == "grey":
        x = x @ np.array([[0.299], [0.587], [0.114]])
    elif pixels["channels"] == "bgr":
        x = x[..., ::-1]
    x = (x - np.array(pixels["mean"])) * pixels["scale"]
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32)


def gap(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    """The largest difference, relative to the largest value; infinite for another size."""
    if ours.size != theirs.size:
        return float("inf")
    scale = max(float(np.abs(theirs).max()), 1e-12)
    return float(np.abs(ours.reshape(-1) - theirs.reshape(-1)).max()) / scale
