"""Whether what a backend compiled still computes what the portable graph says.

A compiler that fuses, reorders and chooses kernels may get one of them wrong. Every
backend that compiles runs the portable graph and its own plan on one fixed image at build
time, writes the difference into the receipt, and refuses a plan that computes something
else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from boxwright.backends.base import Tensors
    from boxwright.card import ModelCard
    from boxwright.model import Model

# A float32 plan that is further from the plain graph than this computes something else.
# Float noise measures 1e-7 to 1e-5 on trained and untrained detectors.
MAX_NRMSE = 1e-2

# A quantised graph rounds after every layer, and where a sum falls close to a half, two right
# orders of adding round apart; that goes on through all layers. On noise, where all scores
# are close to nothing, EfficientDet-Lite0's differ from the reference by an nrmse of 0.50
# to 0.52, whether ONNX Runtime optimises it, runs it as it is, or OpenVINO does; in root mean
# square that is 0.0004. So up to a step of 8 bits is let pass there, as long as the values
# have something in common: those of another computation have an nrmse of 1 or more.
QUANTISED_STEP = 1 / 256
MAX_QUANTISED_NRMSE = 0.8


def is_quantised(model: Model) -> bool:
    """Whether a model's graph rounds to integers between its layers."""
    return any(node.op_type == "QuantizeLinear" for node in model.proto.graph.node)


def sample_images(card: ModelCard, count: int = 1) -> NDArray[np.uint8]:
    """Fixed random images of a model's size: uint8 ``(count, H, W, 3)``."""
    height, width = card.input_size
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def compare_outputs(
    expected: Tensors,
    got: Tensors,
    *,
    plan: str,
    limit: float = MAX_NRMSE,
    quantised: bool = False,
) -> dict[str, Any]:
    """Distance of every output from what the portable graph computes.

    Args:
        expected: The portable graph's outputs.
        got: The plan's outputs on the same images.
        plan: What it is, for the message: ``"ONNX Runtime's optimised graph"``.
        limit: Largest normalised root-mean-square error of an output.
        quantised: The graph rounds between its layers (:func:`is_quantised`): an output may
            also differ by :data:`QUANTISED_STEP` of its largest value (of 1, where that is
            less) in root mean square, up to an nrmse of :data:`MAX_QUANTISED_NRMSE`.

    Returns:
        By output: ``max_abs``, ``nrmse`` (norm of the difference over the norm of the
        expected values) and ``finiteness_differs``; JSON values only.

    Raises:
        BuildError: An output is further away than `limit`, or missing.
    """
    parity = {}
    for name, values in expected.items():
        if name not in got or got[name].shape != values.shape:
            shown = "nothing" if name not in got else f"shape {list(got[name].shape)}"
            raise BuildError(
                f"{plan} gives {shown} for {name!r}, and the model shape {list(values.shape)}"
            )
        found = _distance(values, got[name])
        allowed = allowed_nrmse(values, limit) if quantised else limit
        if found["nrmse"] > allowed or found["finiteness_differs"]:
            raise BuildError(
                f"{plan} computes another {name!r} than the model: "
                f"nrmse {found['nrmse']:.2g}, at most {allowed:.2g} expected"
            )
        parity[name] = found
    return parity


def allowed_nrmse(expected: NDArray[Any], limit: float) -> float:
    """What nrmse a quantised model's output may have: `limit`, or what a step makes of it."""
    values = expected.astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return limit
    step = QUANTISED_STEP * max(1.0, float(np.abs(values).max()))
    norm, error = float(np.linalg.norm(values)), step * math.sqrt(values.size)
    # Where all is 0, the distance is the error itself.
    return max(limit, min(error / norm, MAX_QUANTISED_NRMSE) if norm else error)


def _distance(expected: NDArray[Any], got: NDArray[Any]) -> Mapping[str, Any]:
    """Distance of two arrays; a graph of random weights may well hold infinities."""
    a, b = expected.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    # Where weights are arbitrary, exp() overflows in one order of operations and not in
    # another: only a noticeable share of such values speaks for a different computation.
    differing = int((np.isfinite(a) != np.isfinite(b)).sum())
    a, b = a[finite], b[finite]
    norm = float(np.linalg.norm(a))
    error = float(np.linalg.norm(b - a))
    return {
        "max_abs": float(np.abs(b - a).max(initial=0.0)),
        "nrmse": error / norm if norm else error,
        "finiteness_differs": differing > 0.001 * expected.size,
    }
