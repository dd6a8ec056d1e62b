"""What the graph keeps within the budget and the target does not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from boxwright import backends
from boxwright.model import Model
from boxwright.quantize import job
from boxwright.quantize.comparison import Compared
from boxwright.quantize.job import Outcome, Request, quantize_model
from boxwright.quantize.latency import Choice, Latency
from boxwright.quantize.rules import Rules
from tests.models import make_model
from tests.quantize.test_calibration import write_images

_BUDGET = 60.0


class Target:
    """A runtime that is not here: what its engines lose, in the order they are built."""

    def __init__(self, drops: list[float | None]) -> None:
        self._drops = iter(drops)
        self.built: list[Model] = []

    def compare(self, model: Model, quantized: Model, *_: Any, **__: Any) -> Compared:
        self.built.append(quantized)
        drop = next(self._drops)
        within = drop is not None and drop <= _BUDGET
        row = {"precision": "int8", "drop": drop, "median_ms": 1.0, "within_budget": within}
        if drop is None:
            return Compared(Latency("tensorrt", 1), Choice("fp16", "INT8 does not run", [row]))
        told = f"INT8 loses {drop:.2f} points on tensorrt"
        choice = Choice("int8" if within else "fp16", "INT8 is fast" if within else told, [row])
        return Compared(Latency("tensorrt", 1), choice)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "calibration", 4)
    write_images(folder / "others", 3, seed=9)
    return folder


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, drops: list[float | None], **given: Any
) -> tuple[Outcome, Target]:
    target = Target(drops)
    monkeypatch.setattr(job, "compare_precisions", target.compare)
    monkeypatch.setattr(type(backends.get("tensorrt")), "unavailable", lambda _: None)
    made = make_model()
    model = made.with_card(dataclasses.replace(made.card, score_threshold=0.05))
    request = Request(
        calibration=sorted((folder / "calibration").iterdir()),
        images=sorted((folder / "others").iterdir()),
        max_drop=_BUDGET,
        target="tensorrt",
        latency=True,
        heads=False,
        rules=Rules(min_channels=1, first=True),
    )
    return quantize_model(model, dataclasses.replace(request, **given)), target


def test_the_next_best_is_tried_on_the_target(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, target = run(folder, monkeypatch, [_BUDGET + 1, _BUDGET - 1])
    assert outcome.precision == "int8"
    assert outcome.met
    assert len(target.built) == 2
    first, second = (model.to_bytes() for model in target.built)
    assert first != second
    budget = outcome.budget
    assert budget is not None
    assert budget.chosen is not None
    others = [item for item in budget.candidates if item.ok and item is not budget.chosen]
    assert others, "the first was another"
    settled = rf"settled on {budget.chosen.variant.ranges} ranges.*, because .* did not keep"
    assert re.search(settled, budget.reason)
    told = (
        rf"INT8 loses {_BUDGET + 1:.2f} points on tensorrt; so next: {budget.chosen.variant.ranges}"
    )
    assert re.search(told, " ".join(outcome.notes))
    # What is handed out is what was measured.
    assert outcome.quantized is not None
    assert outcome.model.proto.graph == target.built[1].proto.graph
    (effect,) = [t.effect for t in outcome.model.card.transforms if t.name == "quantize"]
    assert effect["budget"]["chosen"]["method"] == budget.chosen.variant.method


def test_the_next_best_says_why_its_layers_are_in_float(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the best candidates one at least has the heads in float.
    drops: list[float | None] = [_BUDGET + 1, _BUDGET + 1, _BUDGET - 1]
    outcome, _ = run(folder, monkeypatch, drops, heads=True)
    assert outcome.quantized is not None
    assert outcome.budget is not None
    assert outcome.budget.chosen is not None
    assert outcome.budget.chosen.variant.keep == {"node/conv_19"}
    (reason,) = filter(None, (layer.reason for layer in outcome.quantized.placement.layers))
    assert reason == "gives a head's output", "no budget asked for that"
    (effect,) = [t.effect for t in outcome.model.card.transforms if t.name == "quantize"]
    assert effect["kept_in_float"] == {reason: 1}


def test_what_does_not_build_has_others_tried_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT 8.6 refuses some mixtures of INT8 and float."""
    outcome, target = run(folder, monkeypatch, [None, _BUDGET])
    assert (outcome.precision, len(target.built)) == ("int8", 2)


def test_builds_take_minutes_so_only_a_few_are_tried(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, target = run(folder, monkeypatch, [_BUDGET + n for n in (1, 2, 3)])
    assert outcome.precision == "fp16"
    assert not outcome.met, "on the target, whatever the graphs say"
    assert len(target.built) == 3
    assert len({model.to_bytes() for model in target.built}) == 3
    assert outcome.model.proto.graph != target.built[0].proto.graph, "it is the float model"
    # What was measured of the first is what is told.
    assert outcome.choice is not None
    assert outcome.choice.tried[0]["drop"] == _BUDGET + 1
    assert outcome.budget is not None
    assert "settled on" not in outcome.budget.reason


def test_one_that_holds_is_the_only_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, target = run(folder, monkeypatch, [0.0])
    assert (outcome.precision, len(target.built)) == ("int8", 1)


def test_without_a_budget_there_is_nothing_to_miss(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, target = run(folder, monkeypatch, [_BUDGET + 1], max_drop=None)
    assert len(target.built) == 1
