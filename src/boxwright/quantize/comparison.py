"""The precisions of a backend side by side: how fast each is, and what it loses there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boxwright.errors import BoxwrightError
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.latency import (
    INT8,
    Choice,
    Latency,
    Timed,
    choose_precision,
    measure_latency,
    precisions_of,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from boxwright.backends.base import Runner
    from boxwright.model import Model
    from boxwright.quantize.objective import Objective


@dataclass(frozen=True)
class Compared:
    """What was measured.

    Attributes:
        latency: How fast.
        choice: Which precision to hand out.
        notes: What could not be measured, and why.
    """

    latency: Latency
    choice: Choice
    notes: tuple[str, ...] = ()


def compare_precisions(
    model: Model,
    quantized: Model | None,
    backend: str,
    pixels: NDArray[np.uint8],
    *,
    objective: Objective | None = None,
    float_value: float | None = None,
    known: Mapping[str, float] | None = None,
    max_drop: float | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> Compared:
    """Measure a model in every precision that a backend has here.

    Args:
        model: In float.
        quantized: The same in INT8, where there is one.
        backend: The runtime.
        pixels: One batch, uint8 ``(N, H, W, 3)``.
        objective: Measures what each precision loses.
        float_value: What the objective gives for the float model; measured where unknown.
        known: Drops that were measured on this backend before, by precision.
        max_drop: The budget in points.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        seed: Of everything random.
        progress: Told of each part.
    """
    names = dict.fromkeys(("fp32", *precisions_of(backend), INT8))
    models = {name: quantized if name == INT8 else model for name in names}
    runnable = {name: item for name, item in models.items() if item is not None}
    drops: dict[str, float | None] = {}
    notes: list[str] = []
    reference = float_value

    def examine(name: str, runner: Runner) -> None:
        nonlocal reference
        if objective is None or (known and name in known):
            drops[name] = known[name] if known and name in known else None
            return
        try:
            if reference is None:
                reference = objective.measure(model, progress=progress)
            drops[name] = reference - objective.measure(runnable[name], runner, progress)
        except BoxwrightError as error:
            notes.append(f"{name} could not be measured on {backend}: {error}")

    latency = measure_latency(
        *(runnable, backend),
        pixels=pixels,
        device=device,
        seed=seed,
        examine=examine,
        settled=lambda timed: _is_settled(timed, seed),
        progress=progress,
    )
    choice = choose_precision(latency, drops, max_drop, seed=seed)
    return Compared(latency, choice, tuple(notes))


def _is_settled(timed: Mapping[str, Timed], seed: int) -> bool:
    """Whether INT8 was shown to be faster or slower than the fastest float precision."""
    floats = [item for name, item in timed.items() if name != INT8]
    if INT8 not in timed or not floats:
        return True
    best = min(floats, key=lambda item: item.milliseconds.p50)
    ratio = timed[INT8].faster_than(best, seed)
    return not ratio.low <= 1.0 <= ratio.high
