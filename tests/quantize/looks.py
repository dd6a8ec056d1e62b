"""What a first look at INT8's speed saw, made up: small networks are fast in no precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from boxwright.evaluate.timing import Summary
from boxwright.quantize import speed
from boxwright.quantize.latency import Latency, Timed
from boxwright.quantize.variants import Workshop


def timed(name: str, rounds: Sequence[float]) -> Timed:
    return Timed(name, Summary.of(rounds), tuple(rounds))


def latency_of(**milliseconds: float) -> Latency:
    """Rounds around these times; ``_`` in a name stands for a comma and a blank."""
    names = {name: name.replace("__", ", ").replace("_", " ") for name in milliseconds}
    rounds = (1.0, 1.01, 0.99, 1.0, 1.005)
    return Latency(
        "some",
        1,
        {names[n]: timed(names[n], [ms * r for r in rounds]) for n, ms in milliseconds.items()},
    )


def saw(monkeypatch: pytest.MonkeyPatch, **milliseconds: float) -> list[Workshop]:
    """Let the look see these times; nothing by default, so that the search decides all."""
    asked: list[Workshop] = []

    def look(workshop: Workshop, *_: Any, **__: Any) -> speed.Look:
        asked.append(workshop)
        forms = speed.forms_of(workshop) if milliseconds else {}
        return speed.judge(latency_of(**milliseconds), forms, ["fp32"])

    monkeypatch.setattr(speed, "look", look)
    return asked
