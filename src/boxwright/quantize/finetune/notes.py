"""What a user should know of how fine-tuning went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxwright.quantize.finetune.tune import PARAMETERS

if TYPE_CHECKING:
    from boxwright.quantize.budget import BudgetResult
    from boxwright.quantize.quantizer import Quantized


def untouched_note(quantized: Quantized) -> tuple[str, ...]:
    """That a model is as it was, where training brought its heads no nearer."""
    told = quantized.model.card.transforms[-1].parameters.get(PARAMETERS)
    if told is None or told["best_step"]:
        return ()
    return (
        f"fine-tuning brought the heads no nearer to the float model's on images held back "
        f"(error {told['error']['before']:.3f}), so the model is as it was without; more "
        "images may help",
    )


def tuning_notes(found: BudgetResult) -> tuple[str, ...]:
    """Why a search that tried fine-tuning did not choose it."""
    tried = [item for item in found.candidates if item.variant.tuned]
    if not tried:
        return ()
    if found.chosen is not None and found.chosen.variant.tuned:
        return () if found.quantized is None else untouched_note(found.quantized)
    item = tried[0]
    if item.failed is not None:
        return (f"the fine-tuned model was not taken, for it does not run: {item.failed}",)
    if found.chosen is None or item.ok is False:
        return (f"the fine-tuned model loses {item.drop:.2f} points, too many for the budget",)
    mine, others = item.int8_layers, found.chosen.int8_layers
    more = "" if mine == others else f", with {others} layers in INT8 instead of {mine}"
    return (
        f"the fine-tuned model was not taken: it loses {item.drop:.2f} points, and without "
        f"{found.chosen.drop:.2f}{more}",
    )
