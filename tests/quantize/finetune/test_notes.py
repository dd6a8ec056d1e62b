"""What a user is told of a fine-tuned model that was tried and not taken."""

from __future__ import annotations

import pytest

from boxwright.quantize.candidates import BudgetResult, Candidate
from boxwright.quantize.finetune.notes import tuning_notes
from boxwright.quantize.variants import Variant

_HEAD = frozenset({"head"})


def candidate(drop: float, keep: frozenset[str], *, tuned: bool = False) -> Candidate:
    variant = Variant(keep=keep, tuned=tuned)
    return Candidate("some", variant, 5 - len(keep), 50 - drop, drop, drop <= 0.5, 1.0)


@pytest.mark.parametrize(
    ("lost", "chosen", "told"),
    [
        # With the head in float, as all that is tried at first.
        (0.3, candidate(0.2, _HEAD), "not taken: it loses 0.30 points, and without 0.20"),
        (0.9, candidate(0.2, _HEAD), "loses 0.90 points, too many for the budget"),
        (0.9, None, "loses 0.90 points, too many for the budget"),
        (
            0.3,
            candidate(0.4, frozenset()),
            "loses 0.30 points, and without 0.40, with 5 layers in INT8 instead of 4",
        ),
    ],
)
def test_why_it_was_not_taken(lost: float, chosen: Candidate | None, told: str) -> None:
    tuned = candidate(lost, _HEAD, tuned=True)
    tried = (tuned,) if chosen is None else (tuned, chosen)
    (note,) = tuning_notes(BudgetResult("AP", 50.0, 0.5, chosen, None, tried, (), ""))
    assert note.endswith(told)
