"""Does an engine agree with itself? Checks that need no reference and no labels.

Engines have been seen whose rows of a batch differ though their images do not, or whose
answer depends on what ran before. Four runs tell:

=================  ================================================================
check              what must not change the answer for an image
=================  ================================================================
``repeated run``   running the same batch again
``permuted batch`` its place within the batch
``duplicated row`` the same image standing beside it
``batch of one``   running it alone instead of in a batch
=================  ================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import InputError
from boxwright.model import BOXES, IMAGES, LANDMARKS, SCORES

if TYPE_CHECKING:
    from boxwright.backends.base import Runner

Pixels = NDArray[np.uint8]
Outputs = Mapping[str, NDArray[Any]]

# Runtimes may split a convolution differently for another batch size, which changes the order
# of sums: a few units in the last place of float32 per layer, so 1e-5 of a score, and of an
# image side for boxes, leaves two decimal orders. A mixed-up row differs by whole units.
TOLERANCE = {"fp32": 1e-5, "tf32": 5e-3, "fp16": 5e-3, "bf16": 2e-2, "int8": 5e-3}


@dataclass(frozen=True)
class ConsistencyCheck:
    """The outcome of one check.

    Attributes:
        name: Which check.
        ok: Whether it passed; ``True`` also where it was skipped.
        identical: Whether every bit agreed.
        score_difference: Largest difference of a score.
        box_difference: Largest difference of a box corner, as a part of the longer image
            side; boxes whose score never exceeds 0.001 do not count.
        tolerance: Largest difference accepted, of either.
        skipped: Why it could not run, else empty.
    """

    name: str
    ok: bool
    identical: bool
    score_difference: float
    box_difference: float
    tolerance: float
    skipped: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for the receipt."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.name}: skipped, {self.skipped}"
        if self.identical:
            return f"{self.name}: identical to the bit"
        verdict = "within" if self.ok else "FAILED,"
        return (
            f"{self.name}: {verdict} {self.tolerance:g} (scores differ by "
            f"{self.score_difference:.2g}, boxes by {self.box_difference:.2g} of the side)"
        )


def check_consistency(
    runner: Runner, images: Pixels, precision: str = "fp32"
) -> list[ConsistencyCheck]:
    """Run all four checks.

    Args:
        runner: The engine.
        images: uint8 ``(N, H, W, 3)`` at the network's size, N at least 2 and all different;
            noise will do where no photos are at hand.
        precision: Chooses the tolerance from :data:`TOLERANCE`.

    Raises:
        InputError: There are fewer than two images, or two are equal.
    """
    count = len(images)
    if count < 2 or len({image.tobytes() for image in images}) < count:
        raise InputError(f"consistency needs at least 2 different images, got {count}")
    if precision not in TOLERANCE:
        raise InputError(f"precision must be one of {sorted(TOLERANCE)}, got {precision!r}")
    tolerance, side = TOLERANCE[precision], float(max(images.shape[1:3]))
    fixed = next(spec.shape[0] for spec in runner.inputs if spec.name == IMAGES)
    if fixed == 1:
        return _of_single_images(runner, images, tolerance, side)
    batch = images if fixed is None else _fill(images, fixed)
    first = runner.infer({IMAGES: batch})

    def compare(name: str, other: Outputs, rows: NDArray[np.intp]) -> ConsistencyCheck:
        return _compare(name, _rows(first, rows), other, tolerance, side)

    everything = np.arange(len(batch))
    # A rotation moves every row, and by one, which catches rows read from a neighbour.
    rotated = np.roll(everything, 1)
    # Half the rows become copies of their neighbour.
    doubled = everything - everything % 2
    checks = [
        compare("repeated run", runner.infer({IMAGES: batch}), everything),
        compare("permuted batch", runner.infer({IMAGES: batch[rotated]}), rotated),
        compare("duplicated row", runner.infer({IMAGES: batch[doubled]}), doubled),
    ]
    if fixed is not None:
        skipped = f"the engine's batch is fixed at {fixed}"
        checks.append(_skipped("batch of one", tolerance, skipped))
        return checks
    singles = [runner.infer({IMAGES: image[None]}) for image in batch]
    joined = {name: np.concatenate([one[name] for one in singles]) for name in first}
    checks.append(compare("batch of one", joined, everything))
    return checks


def noise_images(count: int, height: int, width: int, seed: int = 0) -> Pixels:
    """Different images for :func:`check_consistency` where there are no photos.

    Smooth noise rather than white: a network's activations are then as lively as on photos.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.float32)
    rows = np.linspace(0, 7, height)
    columns = np.linspace(0, 7, width)
    low_row, low_column = rows.astype(int), columns.astype(int)
    high_row, high_column = np.minimum(low_row + 1, 7), np.minimum(low_column + 1, 7)
    row_part = (rows - low_row)[None, :, None, None].astype(np.float32)
    column_part = (columns - low_column)[None, None, :, None].astype(np.float32)
    vertical = coarse[:, low_row] * (1 - row_part) + coarse[:, high_row] * row_part
    smooth = (
        vertical[:, :, low_column] * (1 - column_part) + vertical[:, :, high_column] * column_part
    )
    pixels: Pixels = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
    return pixels


def _of_single_images(
    runner: Runner, images: Pixels, tolerance: float, side: float
) -> list[ConsistencyCheck]:
    """Checks for an engine whose batch is 1: only what ran before can matter."""
    first = runner.infer({IMAGES: images[:1]})
    for image in images[1:]:
        runner.infer({IMAGES: image[None]})
    again = runner.infer({IMAGES: images[:1]})
    checks = [_compare("repeated run", first, again, tolerance, side)]
    for name in ("permuted batch", "duplicated row", "batch of one"):
        checks.append(_skipped(name, tolerance, "the engine's batch is fixed at 1"))
    return checks


def _fill(images: Pixels, count: int) -> Pixels:
    """Exactly `count` images: the first ones, or repeated ones with a corner pixel changed."""
    filled = np.stack([images[i % len(images)] for i in range(count)])
    for i in range(len(images), count):
        filled[i, 0, 0] ^= np.uint8(1 + i // len(images))
    return filled


def _rows(outputs: Outputs, rows: NDArray[np.intp]) -> Outputs:
    return {name: value[rows] for name, value in outputs.items()}


def _compare(
    name: str, expected: Outputs, got: Outputs, tolerance: float, side: float
) -> ConsistencyCheck:
    # Outputs of other names, such as raw heads, are the parity check's business.
    places = [key for key in (BOXES, LANDMARKS) if key in expected]
    identical = all(
        np.array_equal(expected[key], got[key], equal_nan=True) for key in (*places, SCORES)
    )
    if identical:
        return ConsistencyCheck(name, True, True, 0.0, 0.0, tolerance)
    scores = _largest(expected[SCORES], got[SCORES])
    # A box without a score is noise that nobody sees; exp() may blow it up to any size.
    visible = np.maximum(expected[SCORES].max(axis=2), got[SCORES].max(axis=2)) > 0.001
    boxes = max(_largest(expected[key][visible], got[key][visible]) for key in places) / side
    ok = max(scores, boxes) <= tolerance
    return ConsistencyCheck(name, ok, False, scores, boxes, tolerance)


def _largest(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest difference; a NaN or an infinity on one side only is as large as can be."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    difference[same] = 0
    difference[~np.isfinite(difference)] = np.finfo(np.float64).max
    return float(difference.max(initial=0.0))


def _skipped(name: str, tolerance: float, reason: str) -> ConsistencyCheck:
    return ConsistencyCheck(name, True, False, 0.0, 0.0, tolerance, reason)
