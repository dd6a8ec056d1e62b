"""Images for a stage: those that can be read, the same ones every time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from boxwright.errors import ImageError, InputError
from boxwright.images import load_image

if TYPE_CHECKING:
    from boxwright.images import Pixels


def readable_sample(
    paths: Sequence[Path], count: int, seed: int
) -> tuple[list[tuple[Path, Pixels]], int]:
    """Up to `count` images drawn at random, in the order given, and how many were unreadable.

    Raises:
        InputError: Not one can be read.
    """
    order = list(range(len(paths)))
    random.Random(seed).shuffle(order)  # noqa: S311 - not a secret
    found: dict[int, Pixels] = {}
    damaged = 0
    for index in order:
        if len(found) == count:
            break
        try:
            found[index] = load_image(paths[index])
        except ImageError:
            damaged += 1
    if not found:
        raise InputError(f"none of the {len(paths)} images can be read")
    return [(paths[index], found[index]) for index in sorted(found)], damaged
