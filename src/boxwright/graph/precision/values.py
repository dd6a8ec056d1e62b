"""Constants in float16: what they lose, and their conversion.

float16 (IEEE 754 binary16) has 11 bits of significand. Its largest finite value is 65504,
its smallest normal one 2^-14 = 6.1e-5, and below that its steps are 2^-24 = 6.0e-8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.graph.precision.report import Weights

if TYPE_CHECKING:
    import onnx

LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
SMALLEST = 2.0**-24

# Rounding to 11 bits costs a tensor of normal values about 2.1e-4 of its norm (half a step,
# evenly distributed). Where small values lose several times as much on top, they matter.
MOST_UNDERFLOW = 1e-3


def floats(tensor: onnx.TensorProto) -> NDArray[np.float32]:
    """A float32 tensor's values."""
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor), np.float32)


def judge(name: str, values: NDArray[np.float32]) -> Weights:
    """What float16 does to these values."""
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    small = finite[(finite > 0) & (finite < SMALLEST_NORMAL)]
    rounded = small.astype(np.float16).astype(np.float64)
    norm = float(np.linalg.norm(finite))
    return Weights(
        name=name,
        count=int(values.size),
        largest=float(finite.max(initial=0.0)),
        overflowing=int((finite > LARGEST).sum()),
        lost=int((rounded == 0).sum()),
        subnormal=int(small.size),
        share=float(np.linalg.norm(small - rounded)) / norm if norm else 0.0,
    )


def to_float16(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Rounded to nearest; what exceeds 65504 becomes that, infinities stay.

    Weights that exceed it are never given here: it is for bounds, such as those of Clip.
    """
    clipped = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), values)
    return np.asarray(clipped.astype(np.float16))


def scale_to_float16(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Scales of quantisation, none of which may become 0.

    A normal scale is rounded to nearest. Of a subnormal one up to half would be lost, and
    what it scales would then be clipped: it is rounded up.
    """
    rounded = values.astype(np.float16)
    small = (values < SMALLEST_NORMAL) & (rounded.astype(np.float32) < values)
    above = np.nextafter(rounded, np.float16(np.inf))
    return np.asarray(np.where(small, above, rounded), np.float16)


def holds_scale(values: NDArray[np.float32]) -> bool:
    """Whether these can be scales of quantisation in float16."""
    return bool(np.all(np.isfinite(values) & (values > 0) & (values <= LARGEST)))


def quantised(
    values: NDArray[np.float32], scale: NDArray[np.float16], zero: NDArray[Any], axis: int
) -> NDArray[Any]:
    """What QuantizeLinear makes of a constant: rounded half to even, then saturated.

    Args:
        values: The constant.
        scale: A scalar, or one for each index along `axis`.
        zero: The zero point, of the result's type and the scale's shape.
        axis: Along which the scales lie.
    """
    shape = [1] * values.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    wide = scale.astype(np.float64).reshape(shape if scale.size > 1 else ())
    offset = zero.astype(np.float64).reshape(shape if zero.size > 1 else ())
    limits = np.iinfo(zero.dtype)
    found = np.rint(values.astype(np.float64) / wide) + offset
    return np.asarray(np.clip(found, limits.min, limits.max).astype(zero.dtype))
