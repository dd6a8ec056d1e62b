"""Whether what a backend compiled still computes what the portable graph says.

A compiler that fuses, reorders and chooses kernels may get one of them wrong. Every
backend that compiles runs the portable graph and its own plan on one fixed image at build
time, writes the difference into the receipt, and refuses a plan that computes something
else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from boxwright.backends.base import Tensors
    from boxwright.card import ModelCard

# A float32 plan that is further from the plain graph than this computes something else.
# Float noise measures 1e-7 to 1e-5 on trained and untrained detectors.
MAX_NRMSE = 1e-2


def sample_images(card: ModelCard, count: int = 1) -> NDArray[np.uint8]:
    """Fixed random images of a model's size: uint8 ``(count, H, W, 3)``."""
    height, width = card.input_size
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def compare_outputs(
    expected: Tensors, got: Tensors, *, plan: str, limit: float = MAX_NRMSE
) -> dict[str, Any]:
    """Distance of every output from what the portable graph computes.

    Args:
        expected: The portable graph's outputs.
        got: The plan's outputs on the same images.
        plan: What it is, for the message: ``"ONNX Runtime's optimised graph"``.
        limit: Largest normalised root-mean-square error of an output.

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
        if found["nrmse"] > limit or found["finiteness_differs"]:
            raise BuildError(
                f"{plan} computes another {name!r} than the model: "
                f"nrmse {found['nrmse']:.2g}, at most {limit} expected"
            )
        parity[name] = found
    return parity


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
