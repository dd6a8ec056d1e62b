"""Whether what a backend compiled still computes what the portable graph says.

A compiler that fuses, reorders and chooses kernels may get one of them wrong. Every
backend that compiles runs the portable graph and its own plan on one fixed image at build
time, writes the difference into the receipt, and refuses a plan that computes something
else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from boxwright.errors import BuildError
from boxwright.probe import probe_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from boxwright.backends.base import Tensors
    from boxwright.model import Model

# A float32 plan that is further from the plain graph than this computes something else.
# Float noise measures 1e-7 to 1e-5 on trained and untrained detectors.
MAX_NRMSE = 1e-2

# A quantised graph rounds after every layer, and where a sum falls close to a half, two right
# orders of adding round apart; that goes on through all layers. A backend may also round in
# other places than the portable graph does. Boxes of trained networks differ by 0.02 to 0.05
# on noise. Scores are close to nothing there: EfficientDet-Lite0's differ by an nrmse of 0.5,
# yolo-fastest's by 1.5, which is 0.0004 in root mean square. So a step of 8 bits is let pass
# where no value is larger than a step; where there are such, they must have something in
# common: those of another computation have an nrmse of 1 or more.
MAX_NRMSE_INT8 = 0.3
QUANTISED_STEP = 1 / 256
MAX_QUANTISED_NRMSE = 0.8

# On a real image with objects, right plans of trained networks are 0.03 to 0.35 (scores) off
# the float network, and one whose first layer TensorRT 8.6 got wrong is 1.0 off.
MAX_NRMSE_IMAGE = 0.5
# A graph may be further off than that itself; its plan then may be this many times as far, but
# not so far that it has nothing in common with the float network: that is 1 and more.
MAX_RATIO_TO_GRAPH = 1.5
MAX_NRMSE_AT_ALL = 0.9

Judged = Literal["float", "int8", "int8 on an image"]


def fixed_batch(model: Model) -> int | None:
    """How many images the graph takes at a time, where it leaves no choice."""
    batch = model.proto.graph.input[0].type.tensor_type.shape.dim[0]
    return batch.dim_value or None


def judged_as(model: Model) -> Judged:
    """How the outputs of a model on :func:`sample_images` are judged."""
    if not model.quantized:
        return "float"
    return "int8" if probe_of(model.proto, model.card) is None else "int8 on an image"


def sample_images(model: Model, count: int | None = None) -> NDArray[np.uint8]:
    """Images to compare on: the one that a quantised model keeps, else fixed random ones.

    Args:
        model: The model.
        count: How many; by default as many as its graph takes at a time, or one.

    Returns:
        uint8 ``(count, H, W, 3)``.

    Raises:
        ModelError: What the model keeps is no image of its size.
    """
    count = count or fixed_batch(model) or 1
    height, width = model.card.input_size
    kept = probe_of(model.proto, model.card) if model.quantized else None
    if kept is not None:
        return np.repeat(kept[None], count, axis=0)
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def compare_outputs(
    expected: Tensors,
    got: Tensors,
    *,
    plan: str,
    limit: float = MAX_NRMSE,
    judged: Judged = "float",
    floats: Tensors | None = None,
) -> dict[str, Any]:
    """Distance of every output from what the portable graph computes.

    Args:
        expected: The portable graph's outputs.
        got: The plan's outputs on the same images.
        plan: What it is, for the message: ``"ONNX Runtime's optimised graph"``.
        limit: Largest normalised root-mean-square error of an output; of a quantised
            graph at least :data:`MAX_NRMSE_INT8`.
        judged: What the outputs are of (:func:`judged_as`). Of a quantised graph on noise
            (``int8``) an output may also differ by :data:`QUANTISED_STEP` of its largest
            value (of 1, where that is less) in root mean square; where it holds more than
            that, up to an nrmse of :data:`MAX_QUANTISED_NRMSE`. It may not be all the same
            where it should not. On a real image (``int8 on an image``) `floats` judge.
        floats: What the graph gave before it was quantised (:func:`float_outputs`). A plan
            rounds in other places than its graph, and may come closer to them: it is refused
            where it is further from them than :data:`MAX_NRMSE_IMAGE`, and than
            :data:`MAX_RATIO_TO_GRAPH` times the graph, and always beyond
            :data:`MAX_NRMSE_AT_ALL`.

    Returns:
        By output: ``max_abs``, ``nrmse`` (norm of the difference over the norm of the
        expected values) and ``finiteness_differs``; with `floats` also ``nrmse_to_float``
        and ``graph_nrmse_to_float``; JSON values only.

    Raises:
        BuildError: An output is further away than that, missing, or not finite where the
            portable graph's is.
    """
    parity = {}
    for name, values in expected.items():
        if name not in got or got[name].shape != values.shape:
            shown = "nothing" if name not in got else f"shape {list(got[name].shape)}"
            raise BuildError(
                f"{plan} gives {shown} for {name!r}, and the model shape {list(values.shape)}"
            )
        found = _distance(values, got[name])
        allowed = limit
        if judged == "int8":
            allowed = allowed_nrmse(values, max(limit, MAX_NRMSE_INT8))
        if judged != "float" and not _is_flat(values) and _is_flat(got[name]):
            raise BuildError(
                f"{plan} gives {got[name].flat[0]:g} for all of {name!r}, and the model does not"
            )
        if found["finiteness_differs"]:
            # Distances are those of the finite values: of none at all, 0.
            raise BuildError(
                f"{plan} computes another {name!r} than the model: values are infinite or no "
                "numbers in one of them and finite in the other"
            )
        if floats is not None:
            found = {**found, **_to_float(floats[name], values, got[name], name, plan)}
        elif found["nrmse"] > allowed:
            raise BuildError(
                f"{plan} computes another {name!r} than the model: "
                f"nrmse {found['nrmse']:.2g}, at most {allowed:.2g} expected"
            )
        parity[name] = found
    return parity


def _to_float(
    floats: NDArray[Any], expected: NDArray[Any], got: NDArray[Any], name: str, plan: str
) -> dict[str, float]:
    """How far a quantised plan and its graph are from the graph in float."""
    graph, own = (_distance(floats, values)["nrmse"] for values in (expected, got))
    allowed = min(max(MAX_NRMSE_IMAGE, MAX_RATIO_TO_GRAPH * graph), MAX_NRMSE_AT_ALL)
    if own <= allowed:
        return {"nrmse_to_float": own, "graph_nrmse_to_float": graph}
    if not graph <= MAX_NRMSE_AT_ALL:
        raise BuildError(
            f"the quantised model itself has little in common with the model before: on an image "
            f"it was calibrated on, {name!r} has an nrmse of {graph:.2g} to it, and {own:.2g} as "
            f"{plan} computes it; at most {allowed:.2g} expected; try other ranges (--method), or "
            "--max-drop, which finds layers to keep in float"
        )
    raise BuildError(
        f"{plan} computes another {name!r} than the model: on an image it was calibrated "
        f"on, nrmse {own:.2g} to the model before it was quantised, where the quantised "
        f"model itself has {graph:.2g}; at most {allowed:.2g} expected"
    )


def _is_flat(values: NDArray[Any]) -> bool:
    return bool((values == values.flat[0]).all()) if values.size else True


def allowed_nrmse(expected: NDArray[Any], limit: float) -> float:
    """What nrmse a quantised model's output may have: `limit`, or what a step makes of it."""
    values = expected.astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return limit
    step = QUANTISED_STEP * max(1.0, float(np.abs(values).max()))
    norm, error = float(np.linalg.norm(values)), step * math.sqrt(values.size)
    if norm <= error:
        # On noise there may be no score above a step: rounding is then all there is to see.
        # Where all is 0, the distance is the error itself.
        return max(limit, error / norm if norm else error)
    return max(limit, min(error / norm, MAX_QUANTISED_NRMSE))


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
