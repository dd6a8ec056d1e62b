"""What a build writes down about itself, for the receipt every engine carries."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Any

from boxwright.environment import describe_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boxwright.backends.base import BuildSpec
    from boxwright.card import ModelCard

RECEIPT_SCHEMA = 1


def build_receipt(
    card: ModelCard,
    spec: BuildSpec,
    *,
    backend: str,
    fingerprint: str | None,
    seconds: float,
    evidence: Mapping[str, Any],
) -> dict[str, Any]:
    """The receipt of a build; `boxwright verify` adds to it.

    Args:
        card: Card of the model that was built.
        spec: What was asked for.
        backend: Name of the backend that built it.
        fingerprint: Of the plan, or ``None`` where the backend runs the graph as it is.
        seconds: Wall-clock time of the build.
        evidence: What the backend has to say, such as ``layers`` and ``parity``.

    Returns:
        JSON values only.
    """
    return {
        "schema": RECEIPT_SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "build": {
            "backend": backend,
            "precision": spec.precision,
            "batch": list(spec.batch),
            "device": spec.device,
            "options": dict(spec.options),
            "fingerprint": fingerprint,
            "seconds": round(seconds, 3),
        },
        "sources": [dataclasses.asdict(file) for file in card.source_files],
        **evidence,
        "environment": describe_environment(),
    }
