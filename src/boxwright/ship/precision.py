"""The stage of a ship that quantises, and chooses the precision to build."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.errors import BudgetMissedError, ImageError, InputError
from boxwright.images import load_image
from boxwright.quantize.comparison import compare_precisions
from boxwright.quantize.job import Outcome, Request, quantize_model
from boxwright.quantize.objective import (
    DEFAULT_AGREEMENT_DROP,
    DEFAULT_DROP,
    AgreementObjective,
    LabelledObjective,
    Objective,
)
from boxwright.quantize.variants import prepared

if TYPE_CHECKING:
    from boxwright.datasets import Dataset
    from boxwright.model import Model
    from boxwright.progress import ProgressCallback
    from boxwright.ship.settings import ShipSettings

# Agreement settles on fewer images than AP: every detection is a label.
_MOST_IMAGES = 200


def choose(
    settings: ShipSettings,
    model: Model,
    dataset: Dataset | None,
    images: Sequence[Path],
    work: Path,
    progress: ProgressCallback,
) -> tuple[Model, dict[str, Any]]:
    """The model to build, and JSON values of how it was chosen, its precision among them.

    Raises:
        BudgetMissedError: INT8 was asked for by name, and on the target it loses more than is
            allowed, or does not run.
    """
    stated = settings.budgets.max_drop
    usual = DEFAULT_DROP if dataset is not None else DEFAULT_AGREEMENT_DROP
    max_drop = usual if stated is None else stated
    sample = _readable(images, _MOST_IMAGES if dataset is None else 1, settings.seed)
    if not settings.calibration or "int8" not in settings.precisions:
        return model, _floats(settings, model, dataset, sample, max_drop, progress)
    from boxwright.images import find_images

    request = Request(
        calibration=find_images(settings.calibration),
        dataset=dataset,
        images=() if dataset is not None else sample,
        max_drop=max_drop,
        target=settings.backend,
        latency=True,
        insist=settings.precision == "int8",
        device=settings.device,
        seed=settings.seed,
        work=work,
    )
    outcome = quantize_model(model, request, progress)
    if settings.precision == "int8":
        return _insisted(outcome)
    if outcome.quantized is None and outcome.choice is None:
        compared = _floats(settings, model, dataset, sample, max_drop, progress)
        return outcome.model, {**outcome.to_dict(), **compared, "notes": _missed(outcome)}
    return outcome.model, outcome.to_dict()


def _readable(paths: Sequence[Path], count: int, seed: int) -> list[Path]:
    """Up to `count` images drawn at random, in the order given; their pixels are not kept.

    Raises:
        InputError: Not one can be read.
    """
    order = list(range(len(paths)))
    random.Random(seed).shuffle(order)  # noqa: S311 - not a secret
    found: list[int] = []
    for index in order:
        if len(found) == count:
            break
        with contextlib.suppress(ImageError):
            load_image(paths[index])
            found.append(index)
    if not found:
        raise InputError(f"none of the {len(paths)} images can be read")
    return [paths[index] for index in sorted(found)]


def _insisted(outcome: Outcome) -> tuple[Model, dict[str, Any]]:
    """INT8, whether it is faster or not, but not beyond the budget."""
    if outcome.precision == "int8":
        return outcome.model, outcome.to_dict()
    found = outcome.choice or outcome.budget
    reason = "it cannot be had" if found is None else found.reason
    raise BudgetMissedError(
        f"INT8 was asked for, and {reason}; --precision auto builds the fastest that keeps to "
        "the budget"
    )


def _missed(outcome: Outcome) -> list[str]:
    reason = [] if outcome.budget is None else [f"no INT8: {outcome.budget.reason}"]
    return [*outcome.notes, *reason]


def _floats(
    settings: ShipSettings,
    model: Model,
    dataset: Dataset | None,
    sample: Sequence[Path],
    max_drop: float,
    progress: ProgressCallback,
) -> dict[str, Any]:
    """The precisions that need no calibration."""
    objective: Objective = (
        AgreementObjective(model, sample, progress)
        if dataset is None
        else LabelledObjective(dataset)
    )
    compared = compare_precisions(
        model,
        None,
        settings.backend,
        prepared(model, sample[:1]),
        objective=objective,
        max_drop=max_drop,
        device=settings.device,
        seed=settings.seed,
        progress=progress,
    )
    return {
        "precision": compared.choice.precision,
        "latency": compared.latency.to_dict(),
        "choice": compared.choice.to_dict(),
        "notes": list(compared.notes),
    }
