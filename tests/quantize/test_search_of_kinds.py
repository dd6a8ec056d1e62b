"""Heads and depthwise convolutions in a search: what is tried, and what the table says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from boxwright.model import Model
from boxwright.quantize.budget import (
    DEPTHWISE_NOT_FASTER,
    HEAD_NOT_FASTER,
    BudgetResult,
    Leaning,
    search,
)
from boxwright.quantize.calibration import calibrate
from boxwright.quantize.layers import HEAD, KEPT
from boxwright.quantize.rules import Rules
from boxwright.quantize.variants import BUDGET, Variant, Workshop
from tests.models import make_model
from tests.quantize.test_budget import Judge, heads, int8_layers

_RULES = Rules(min_channels=1, first=True)
# The layers of the small network, by what they are.
_DEPTHWISE, _HEAD = "node/conv_7", "node/conv_19"
_PLAIN = ("node/conv_3", "node/conv_10", "node/conv_13")


@pytest.fixture(scope="module")
def workshop(model: Model, images: list[Path]) -> Workshop:
    return Workshop(model, calibrate(model, images), images=images, rules=_RULES, heads=True)


def found_by(
    workshop: Workshop,
    price: Callable[[set[str]], float],
    *,
    leaning: Leaning | None = None,
    most: int = 32,
    variants: Sequence[Variant] = (Variant("minmax"),),
    bias: bool | None = False,
) -> BudgetResult:
    return search(
        *(workshop, Judge(price), 0.5),
        variants=variants,
        bias=bias,
        heads=lambda: heads(workshop.model),
        leaning=leaning,
        most=most,
    )


def steps(found: BudgetResult) -> list[str]:
    return [item.step for item in found.candidates]


def reasons(found: BudgetResult) -> dict[str, str]:
    assert found.quantized is not None
    layers = found.quantized.placement.layers
    return {layer.name: layer.reason for layer in layers if layer.reason is not None}


def test_a_workshop_knows_its_kinds_of_layers(workshop: Workshop, model: Model) -> None:
    assert workshop.heads == (_HEAD,)
    assert workshop.depthwise == (_DEPTHWISE,)
    assert set(workshop.layers) == {*_PLAIN, _DEPTHWISE, _HEAD}
    usual = Workshop(model, workshop.calibration, rules=_RULES)
    assert usual.heads == ()
    assert _HEAD not in usual.layers
    kept = Workshop(model, workshop.calibration, rules=_RULES, heads=True, keep=[_HEAD, _PLAIN[0]])
    assert kept.heads == ()
    found = {layer.name: layer.reason for layer in kept.make(Variant()).placement.layers}
    assert found[_HEAD] == found[_PLAIN[0]] == KEPT


def test_heads_are_put_in_int8_where_the_budget_allows(workshop: Workshop) -> None:
    found = found_by(workshop, lambda layers: 0.05 * len(layers))
    assert steps(found) == ["ranges", "heads"]
    assert found.candidates[0].variant.keep == {_HEAD}
    assert reasons(found) == {}
    assert "all 5 layers are in INT8" in found.reason


def test_heads_that_the_budget_needs_stay_in_float_and_say_so(workshop: Workshop) -> None:
    found = found_by(workshop, lambda layers: 2.0 * (_HEAD in layers))
    assert steps(found) == ["ranges", "heads"]
    assert reasons(found) == {_HEAD: BUDGET}
    assert "1 of 5 layers stay in float, 1 of which give heads' outputs" in found.reason


def test_biases_are_corrected_where_the_heads_miss_the_budget_without(workshop: Workshop) -> None:
    asked: list[tuple[bool, bool]] = []

    class Corrected(Judge):
        def measure(self, model, runner=None, progress=None):  # type: ignore[no-untyped-def]
            step = model.card.transforms[-1:]
            bias = bool(step) and "bias_correction" in step[0].parameters
            asked.append((_HEAD in int8_layers(model), bias))
            return 50.0 - (2.0 if asked[-1] == (True, False) else 0.0)

    found = search(workshop, Corrected(lambda _: 0.0), 0.5, variants=[Variant()])
    assert asked == [(False, False), (False, False), (True, False), (True, True)]
    assert found.chosen is not None
    assert found.chosen.variant.bias
    assert found.chosen.int8_layers == 5


def test_heads_are_not_tried_where_int8_gains_no_speed(workshop: Workshop) -> None:
    for faster in ("float", "neither"):
        found = found_by(workshop, lambda _: 0.0, leaning=Leaning(heads=faster))
        assert steps(found) == ["ranges"]
        assert reasons(found) == {_HEAD: HEAD_NOT_FASTER}
    found = found_by(workshop, lambda _: 0.0, leaning=Leaning(heads="int8"))
    assert reasons(found) == {}


def test_heads_are_not_tried_where_nothing_meets_the_budget_or_evaluations_ran_out(
    workshop: Workshop,
) -> None:
    missed = found_by(workshop, lambda layers: 3.0 * bool(layers))
    assert "heads" not in steps(missed)
    ended = found_by(workshop, lambda _: 0.0, most=2)
    assert steps(ended) == ["ranges"]
    assert reasons(ended) == {_HEAD: HEAD}
    assert found_by(workshop, lambda _: 0.0, most=3).reason.startswith("all 5")


def test_the_budget_counts_for_layers_and_heads_together(workshop: Workshop) -> None:
    """A layer stays in float, and then the head may not."""
    bad = _PLAIN[1]
    found = found_by(workshop, lambda layers: 1.0 * (bad in layers) + 0.3 * (_HEAD in layers))
    assert reasons(found) == {bad: BUDGET}
    assert found.candidates[-1].step == "heads"
    assert found.candidates[-1].variant.keep == {bad}


def test_several_heads_are_tried_together_then_each(images: list[Path]) -> None:
    model = _model_of_three_heads()
    workshop = Workshop(model, calibrate(model, images), images=images, rules=_RULES, heads=True)
    assert len(workshop.heads) == 3
    bad = workshop.heads[1]
    found = found_by(workshop, lambda layers: 1.0 * (bad in layers))
    assert steps(found) == ["ranges", "heads", "heads", "heads", "heads"]
    assert reasons(found) == {bad: BUDGET}
    # Two that are too much together: the first is taken, the others are told apart.
    found = found_by(workshop, lambda layers: 0.3 * len(layers & set(workshop.heads)))
    assert reasons(found) == dict.fromkeys(workshop.heads[1:], BUDGET)
    # Evaluations that run out leave the rest as the rule has it.
    ended = found_by(workshop, lambda layers: 1.0 * (bad in layers), most=4)
    assert reasons(ended) == dict.fromkeys(workshop.heads[1:], HEAD)


def _model_of_three_heads() -> Model:
    """The small network, whose decoding reads the sum of three convolutions."""
    from onnx import numpy_helper

    model = make_model()
    graph = model.proto.graph
    head = next(node for node in graph.node if node.name == _HEAD)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    outputs = [head.output[0]]
    at = next(i for i, node in enumerate(graph.node) if node.name == _HEAD) + 1
    for number in (1, 2):
        twin = type(head)()
        twin.CopyFrom(head)
        twin.name, twin.output[0] = f"{_HEAD}_{number}", f"twin_{number}"
        values = numpy_helper.to_array(weights[head.input[1]]) / (number + 1)
        graph.initializer.append(numpy_helper.from_array(values, f"twin_{number}/weights"))
        twin.input[1] = f"twin_{number}/weights"
        graph.node.insert(at, twin)
        outputs.append(twin.output[0])
        at += 1
    for node in graph.node:
        if node.name != _HEAD and head.output[0] in node.input:
            node.input[list(node.input).index(head.output[0])] = "joined"
    total = type(head)()
    total.op_type, total.name = "Sum", "node/joined"
    total.input.extend(outputs)
    total.output.append("joined")
    graph.node.insert(at, total)
    return Model(model.proto, model.card)


def test_depthwise_layers_are_put_in_float_first_where_the_budget_is_missed(
    workshop: Workshop,
) -> None:
    found = found_by(workshop, lambda layers: 1.0 * (_DEPTHWISE in layers))
    assert steps(found) == ["ranges", "depthwise", "heads"]
    assert reasons(found) == {_DEPTHWISE: BUDGET}


def test_depthwise_layers_in_float_are_tried_with_every_way_to_choose_ranges(
    workshop: Workshop,
) -> None:
    """What is best with them in INT8 may be worse than another without."""

    class Ranges(Judge):
        def measure(self, model, runner=None, progress=None):  # type: ignore[no-untyped-def]
            layers = int8_layers(model)
            if not layers:
                return 50.0
            method = model.card.transforms[-1].parameters["method"]
            if _DEPTHWISE in layers:
                return {"minmax": 30.0, "entropy": 45.0}[method]
            return {"minmax": 50.0, "entropy": 47.0}[method]

    found = search(
        *(workshop, Ranges(lambda _: 0.0), 0.5),
        variants=[Variant("minmax"), Variant("entropy")],
        bias=False,
        heads=lambda: heads(workshop.model),
    )
    tried = [(item.step, item.variant.method) for item in found.candidates]
    assert tried[:4] == [
        ("ranges", "minmax"),
        ("ranges", "entropy"),
        ("depthwise", "entropy"),
        ("depthwise", "minmax"),
    ]
    assert found.chosen is not None
    assert found.chosen.variant.method == "minmax"


def test_the_search_begins_with_depthwise_layers_in_float_where_that_is_faster(
    workshop: Workshop,
) -> None:
    found = found_by(workshop, lambda _: 0.0, leaning=Leaning(depthwise="float"))
    assert [item.variant.keep for item in found.candidates] == [
        {_HEAD, _DEPTHWISE},
        {_DEPTHWISE},
    ]
    assert reasons(found) == {_DEPTHWISE: DEPTHWISE_NOT_FASTER}
    bad = _PLAIN[2]
    found = found_by(
        workshop, lambda layers: 1.0 * (bad in layers), leaning=Leaning(depthwise="float")
    )
    assert reasons(found) == {_DEPTHWISE: DEPTHWISE_NOT_FASTER, bad: BUDGET}


def test_depthwise_layers_in_float_are_not_tried_where_that_is_slower_than_float(
    workshop: Workshop,
) -> None:
    """On ONNX Runtime yolo-fastest-1.1-xl takes 1.4 times as long so as in float32."""
    leaning = Leaning(depthwise="int8", float_depthwise_pays=False)
    found = found_by(workshop, lambda layers: 1.0 * (_DEPTHWISE in layers), leaning=leaning)
    assert "depthwise" not in steps(found)
    assert reasons(found)[_DEPTHWISE] == BUDGET
    assert found.met


def test_depthwise_layers_that_gain_no_speed_are_not_given_back(images: list[Path]) -> None:
    model = _model_of_depthwise_layers()
    workshop = Workshop(model, calibrate(model, images), images=images, rules=_RULES)
    apart = workshop.depthwise
    assert len(apart) == 2

    def price(layers: set[str]) -> float:
        return 1.0 * (apart[0] in layers)

    found = found_by(workshop, price, leaning=Leaning(depthwise="neither"))
    assert reasons(found) == {**dict.fromkeys(apart, DEPTHWISE_NOT_FASTER), _HEAD: HEAD}
    assert found.sensitivity == ()
    for faster in ("int8", None):
        found = found_by(workshop, price, leaning=Leaning(depthwise=faster))
        assert reasons(found) == {apart[0]: BUDGET, _HEAD: HEAD}
        assert {name for group in found.sensitivity for name in group.layers} == set(apart)


def test_a_depthwise_layer_and_another_are_both_found(images: list[Path]) -> None:
    model = _model_of_depthwise_layers()
    workshop = Workshop(model, calibrate(model, images), images=images, rules=_RULES)
    bad = {workshop.depthwise[1], _PLAIN[0]}
    found = found_by(workshop, lambda layers: 1.0 * len(layers & bad))
    assert set(reasons(found)) == {*bad, _HEAD}
    # Where depthwise ones gain nothing, they all stay.
    found = found_by(
        workshop, lambda layers: 1.0 * len(layers & bad), leaning=Leaning(depthwise="neither")
    )
    assert set(reasons(found)) == {*bad, *workshop.depthwise, _HEAD}
    assert found.met


def _model_of_depthwise_layers() -> Model:
    """The small network, whose third convolution is depthwise as well."""
    from onnx import numpy_helper

    model = make_model()
    graph = model.proto.graph
    node = next(node for node in graph.node if node.name == "node/conv_10")
    tensor = next(tensor for tensor in graph.initializer if tensor.name == node.input[1])
    values = numpy_helper.to_array(tensor)[:, :1]
    tensor.CopyFrom(numpy_helper.from_array(values.copy(), tensor.name))
    next(a for a in node.attribute if a.name == "group").i = 16
    return Model(model.proto, model.card)
