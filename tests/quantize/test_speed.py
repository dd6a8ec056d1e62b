"""A look at INT8's speed before a search: by times that are made up, and real ones."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from boxwright.errors import BuildError
from boxwright.evaluate.report import quantized as page
from boxwright.model import Model
from boxwright.quantize import speed
from boxwright.quantize.budget import BudgetResult, Candidate, Leaning
from boxwright.quantize.calibration import calibrate
from boxwright.quantize.comparison import Compared
from boxwright.quantize.job import REFUSED, Request, quantize_model
from boxwright.quantize.latency import Choice, Latency
from boxwright.quantize.rules import Rules
from boxwright.quantize.speed import Look, forms_of, judge
from boxwright.quantize.variants import Variant, Workshop
from tests.models import make_images, make_model
from tests.quantize.looks import latency_of, saw, timed

_RULES = Rules(min_channels=1, first=True)
_FORMS = {
    "int8": frozenset({"head", "apart"}),
    "int8 with heads": frozenset({"apart"}),
    "int8 without depthwise": frozenset({"head"}),
    "int8 with heads, without depthwise": frozenset[str](),
}


@pytest.fixture(scope="module")
def model() -> Model:
    """One that finds something in noise."""
    made = make_model()
    return made.with_card(dataclasses.replace(made.card, score_threshold=0.05))


def seen(**milliseconds: float) -> Look:
    return judge(latency_of(**milliseconds), _FORMS, ["fp32", "fp16"])


# Milliseconds by form, and what follows: hopeless, heads, depthwise.
_CASES: list[tuple[dict[str, float], bool, str | None, str | None]] = [
    # Everything gains.
    (
        {"int8": 5, "int8_with_heads": 4, "int8_without_depthwise": 6},
        *(False, "int8", "int8"),
    ),
    # Only with depthwise layers in float is it faster; heads are judged beside that.
    (
        {
            "int8": 12,
            "int8_with_heads": 11,
            "int8_without_depthwise": 8,
            "int8_with_heads__without_depthwise": 9,
        },
        *(False, "float", "float"),
    ),
    # No form is faster than float.
    ({"int8": 12, "int8_with_heads": 11}, True, "int8", None),
    # Kinds of layers that make no difference.
    (
        {"int8": 5, "int8_with_heads": 5, "int8_without_depthwise": 5},
        *(False, "neither", "neither"),
    ),
    # As fast as float is not faster.
    ({"int8": 10}, True, None, None),
]


@pytest.mark.parametrize(("times", "hopeless", "heads", "depthwise"), _CASES)
def test_what_follows_from_times(
    times: dict[str, float], hopeless: bool, heads: str | None, depthwise: str | None
) -> None:
    found = seen(fp32=10, **times)
    assert found.hopeless == hopeless
    assert found.leaning == Leaning(heads, depthwise)  # type: ignore[arg-type]
    assert ("was not shown to be faster" in found.reason) == hopeless
    if hopeless:
        assert "no layers were searched" in found.choice(None).reason
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["against"] == "fp32"


def test_depthwise_layers_in_float_do_not_pay_where_that_is_slower_than_float() -> None:
    slow = {"int8_without_depthwise": 12, "int8_with_heads__without_depthwise": 11}
    assert not seen(fp32=10, int8=8, **slow).leaning.float_depthwise_pays
    assert seen(
        fp32=10, int8=8, **{**slow, "int8_without_depthwise": 9}
    ).leaning.float_depthwise_pays
    assert seen(fp32=10, int8=8).leaning.float_depthwise_pays, "not known"


def test_int8_is_held_against_the_fastest_float() -> None:
    assert not seen(fp32=10, int8=5).hopeless
    found = seen(fp32=10, fp16=4, int8=5)
    assert found.hopeless
    assert found.floats == "fp16"
    assert "0.80 times as fast as FP16" in found.reason
    # What FP16 loses was not measured, so it is not handed out unseen.
    assert found.choice(0.5).precision == "fp32"
    assert found.choice(None).precision == "fp16"


def test_what_a_busy_machine_leaves_open_is_open() -> None:
    noisy = Latency(
        "some",
        1,
        {
            "fp32": timed("fp32", [10.0] * 5),
            "int8": timed("int8", [5.0, 5.0, 5.0, 5.0, 5.0]),
            "int8 with heads": timed("x", [3.0, 8.0, 4.0, 6.0, 5.0]),
        },
    )
    found = judge(noisy, _FORMS, ["fp32"])
    assert found.leaning == Leaning(None, None)


def test_forms_that_do_not_run_leave_it_to_the_search() -> None:
    failed = dict.fromkeys(_FORMS, "no kernels")
    found = judge(Latency("some", 1, {"fp32": timed("fp32", [1.0] * 5)}, failed), _FORMS, ["fp32"])
    assert not found.hopeless
    assert found.fastest is None
    assert found.to_dict()["forms"][0]["failed"] == "no kernels"
    without_float = judge(
        Latency("some", 1, {"int8": timed("int8", [1.0] * 5)}, {"fp32": "no memory"}),
        *(_FORMS, ["fp32"]),
    )
    assert not without_float.hopeless
    assert without_float.floats is None


def test_what_would_be_faster_and_loses_too_much_is_told() -> None:
    found = seen(fp32=10, int8=5, int8_without_depthwise=7)

    def candidate(keep: frozenset[str], drop: float) -> Candidate:
        return Candidate("ranges", Variant(keep=keep), 1, 50 - drop, drop, drop <= 0.5, 1.0)

    tried = tuple(
        candidate(_FORMS[name], drop)
        for name, drop in (("int8", 4.0), ("int8", 3.0), ("int8 without depthwise", 0.1))
    )
    budget = BudgetResult("AP", 50.0, 0.5, None, None, tried, (), "")
    assert found.lossy(budget) == [
        "int8 (2 layers in float) is 2.00 times as fast as FP32, and loses 3.00 points, where "
        "0.5 are allowed"
    ]
    assert seen(fp32=10, int8=12).lossy(budget) == []
    # What does not run loses no number of points.
    refused = dataclasses.replace(tried[0], drop=math.inf, value=-math.inf, failed="no kernel")
    assert found.lossy(dataclasses.replace(budget, candidates=(refused,))) == []


def test_a_runtime_is_looked_at(model: Model, images: list[Path]) -> None:
    workshop = Workshop(model, calibrate(model, images), rules=_RULES, heads=True)
    assert {name: len(keep) for name, keep in forms_of(workshop).items()} == {
        "int8": 1,
        "int8 with heads": 0,
        "int8 without depthwise": 2,
        "int8 with heads, without depthwise": 1,
    }
    found = speed.look(workshop, Variant(), "onnxruntime", make_images(model, 1))
    assert set(found.latency.timed) == {"fp32", *forms_of(workshop)}
    assert found.floats == "fp32"
    assert all(form.ratio is not None for form in found.forms)


def test_what_is_undecided_is_looked_at_longer(
    model: Model, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Workshop(model, calibrate(model, images), rules=_RULES)
    answers: list[bool] = []

    def measure(*_: Any, settled: Any, **__: Any) -> Latency:
        fp32 = timed("fp32", [1.0] * 5)
        for rounds in ([2.0] * 5, [0.5] * 5, [0.5, 2.0, 0.8, 1.5, 1.1]):
            answers.append(settled({"fp32": fp32, "int8": timed("int8", rounds)}))
        return Latency("some", 1, {"fp32": fp32})

    monkeypatch.setattr(speed, "measure_latency", measure)
    speed.look(workshop, Variant(), "onnxruntime", make_images(model, 1))
    assert answers == [True, True, False]


def request_of(images: list[Path], others: list[Path], **changes: Any) -> Request:
    values: dict[str, Any] = {
        "calibration": images,
        "images": others,
        "max_drop": 100,
        "method": "minmax",
        "target": "onnxruntime",
        "latency": True,
        "rules": _RULES,
        **changes,
    }
    return Request(**values)


def test_nothing_is_searched_where_int8_is_slower(
    model: Model,
    images: list[Path],
    others: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saw(monkeypatch, fp32=1.0, int8=1.3, int8_without_depthwise=1.2)
    monkeypatch.setattr("boxwright.quantize.job.search", _never)
    outcome = quantize_model(model, request_of(images, others))
    assert outcome.met, "no budget was missed"
    assert outcome.precision == "fp32"
    assert outcome.quantized is None
    assert outcome.choice is not None
    assert "no layers were searched" in outcome.choice.reason
    assert {row["precision"] for row in outcome.choice.tried} >= {"fp32", "int8"}
    assert any("build it with --precision fp32" in note for note in outcome.notes)
    outcome.model.save(tmp_path / "float.onnx")
    card = Model.load(tmp_path / "float.onnx").card
    assert card.transforms[-1].name == REFUSED
    html = str(page.render(card))
    assert "Whether INT8 can be faster" in html
    assert "int8 without depthwise" in html
    assert "0.83 (" in html
    assert "over the budget" not in html
    json.dumps(outcome.to_dict(), allow_nan=False)


def _never(*_: object, **__: object) -> None:
    raise AssertionError("it must not come to this")


def _int8_wins(monkeypatch: pytest.MonkeyPatch, precision: str = "int8") -> None:
    def compare(*_: object, **__: object) -> Compared:
        row = {"drop": 0.0, "median_ms": 1.0, "within_budget": True}
        tried = [{"precision": "int8", **row}]
        return Compared(Latency("onnxruntime", 1), Choice(precision, "so it was said", tried))

    monkeypatch.setattr("boxwright.quantize.job.compare_precisions", compare)


def test_int8_by_name_is_searched_all_the_same(
    model: Model, images: list[Path], others: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    saw(monkeypatch, fp32=1.0, int8=1.3)
    _int8_wins(monkeypatch, "fp32")
    outcome = quantize_model(model, request_of(images, others, insist=True))
    assert outcome.budget is not None
    assert outcome.look is not None
    assert "no layers were searched" not in outcome.look.reason
    assert outcome.precision == "int8"


def test_the_search_follows_what_was_seen_and_all_of_it_is_kept(
    model: Model, images: list[Path], others: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    saw(monkeypatch, fp32=2.0, int8=1.3, int8_with_heads=1.3, int8_without_depthwise=1.1)
    _int8_wins(monkeypatch)
    outcome = quantize_model(model, request_of(images, others))
    assert outcome.quantized is not None
    reasons = sorted(str(layer.reason) for layer in outcome.quantized.placement.layers)
    assert reasons == [*("None",) * 4, "depthwise, and INT8 is no faster there"]
    effect = outcome.model.card.transforms[-1].effect
    assert effect["look"]["faster_depthwise"] == "float"
    assert effect["look"] == outcome.to_dict()["look"]


@pytest.mark.parametrize(
    "changes", [{"max_drop": None}, {"latency": False}, {"target": "tensorrt", "latency": False}]
)
def test_without_a_budget_or_speed_to_measure_nothing_is_looked_at(
    model: Model,
    images: list[Path],
    others: list[Path],
    changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = saw(monkeypatch)
    _int8_wins(monkeypatch)
    outcome = quantize_model(model, request_of(images, others, **changes))
    assert asked == []
    assert outcome.look is None


def test_heads_stay_in_float_without_a_budget_or_where_they_shall(
    model: Model, images: list[Path], others: list[Path]
) -> None:
    def in_float(**changes: Any) -> list[str]:
        request = request_of(images, others, latency=False, target=None, **changes)
        found = quantize_model(model, request).quantized
        assert found is not None
        return [str(layer.reason) for layer in found.placement.layers if layer.reason is not None]

    assert in_float() == []
    assert in_float(max_drop=None) == ["gives a head's output"]
    assert in_float(heads=False) == ["gives a head's output"]
    assert in_float(keep=["node/conv_19"]) == ["asked to stay in float"]
    with_heads = dataclasses.replace(_RULES, heads=True)
    assert in_float(max_drop=None, heads=False, rules=with_heads) == []


def test_what_a_runtime_made_is_compared_with_one_float_run(
    model: Model, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All variants of one model have it in common; corrected biases are another network."""
    from boxwright import backends
    from boxwright.backends import onnxruntime
    from boxwright.quantize.probing import ProbeCheck

    ran: list[bool] = []
    plain = onnxruntime.float_outputs

    def count(*given: Any) -> Any:
        ran.append(True)
        return plain(*given)

    monkeypatch.setattr(onnxruntime, "float_outputs", count)
    workshop = Workshop(model, calibrate(model, images), images=images, rules=_RULES)
    check = ProbeCheck("onnxruntime")
    variants = [Variant(), Variant("mse"), Variant(keep=frozenset(workshop.layers[:1]))]
    for number, variant in enumerate([*variants, Variant(bias=True), Variant("mse", bias=True)]):
        made = workshop.make(variant).model
        with backends.load(made, backend="onnxruntime") as runner:
            check(made, runner)
        assert len(ran) == max(1, number - 1)

    def wrong(*given: Any) -> Any:
        raise BuildError("computed again")

    monkeypatch.setattr(onnxruntime, "float_outputs", wrong)
    made = workshop.make(Variant()).model
    with backends.load(made, backend="onnxruntime") as runner:
        check(made, runner)
