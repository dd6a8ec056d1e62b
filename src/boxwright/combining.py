"""Plans of several engine files in one, and plans left out."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from boxwright.builds import merged, without_builds
from boxwright.engine import Engine
from boxwright.errors import EngineError, InputError, NoPlanError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def combine(
    engine: Engine,
    output: str | Path,
    *,
    add: Sequence[Engine] = (),
    drop: Sequence[str] = (),
) -> Engine:
    """An engine with the plans of others, and without some, as a new file.

    Of a fingerprint that two files have, the plan and the record of the first are kept.

    Args:
        engine: What the result is, but for its plans.
        output: The file to write or replace; it may be the engine's own.
        add: Engines built from the same model, on other machines or for other backends.
        drop: Fingerprints of plans to leave out, or patterns with ``*`` for several.

    Raises:
        EngineError: A file is damaged, is of another model, or the result would exceed
            4 GiB.
        NoPlanError: `drop` names a plan that none of the files has.
        InputError: `output` cannot be written, or is one of `add`.
    """
    for other in add:
        _check_same_model(engine, other)
    owners = {plan: source for source in reversed((engine, *add)) for plan in source.plans}
    dropped = _matching(owners, drop)
    receipt = merged(engine.receipt, (other.receipt for other in add))
    content: dict[str, Iterator[bytes]] = {
        plan: source.plan_pieces(plan)
        for plan, source in owners.items()
        if source is not engine and plan not in dropped
    }
    return engine.with_plans(
        output, content, without=dropped, receipt=without_builds(receipt, dropped)
    )


def _check_same_model(engine: Engine, other: Engine) -> None:
    if other.model_sha256 != engine.model_sha256:
        raise EngineError(
            f"{other.path} was built from another model than {engine.path}: SHA-256 "
            f"{other.model_sha256[:16]}... instead of {engine.model_sha256[:16]}...; plans go "
            "together only with the very model they were built from"
        )
    if other.card != engine.card:
        raise EngineError(f"{other.path} and {engine.path} disagree about their model's card")
    for source in (engine, other):
        source.verify_model()


def _matching(owners: dict[str, Engine], patterns: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for pattern in patterns:
        if not pattern:
            raise InputError("the plan to drop has no name; is a variable not set?")
        names = fnmatch.filter(owners, pattern)
        if not names:
            raise NoPlanError(
                f"there is no plan {pattern!r} to drop; there are: {', '.join(owners) or 'none'}"
            )
        found.update(dict.fromkeys(names))
    return list(found)
