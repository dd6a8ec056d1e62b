"""The search for the fewest float layers, with a judge whose answers are known."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from boxwright.backends.base import Runner
from boxwright.errors import BuildError, ImageError, InputError
from boxwright.graph.session import plain_session
from boxwright.model import Model
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize import measuring, sensitivity
from boxwright.quantize.budget import Place, search
from boxwright.quantize.calibration import calibrate
from boxwright.quantize.canonical import canonical_runner
from boxwright.quantize.measurements import Measurements
from boxwright.quantize.objective import HeadReference
from boxwright.quantize.rules import Rules
from boxwright.quantize.sensitivity import groups_of, measure_sensitivity, worst_first
from boxwright.quantize.variants import Variant, Workshop, prepared
from tests.models import make_images, make_model

_RULES = Rules(min_channels=1, first=True, heads=True)


@pytest.fixture(scope="module")
def workshop(model: Model, images: list[Path]) -> Workshop:
    return Workshop(model, calibrate(model, images), images=images, rules=_RULES)


def int8_layers(model: Model) -> set[str]:
    """Names of the convolutions that read a dequantised tensor."""
    made = {n.output[0]: n.op_type for n in model.proto.graph.node}
    return {
        node.name
        for node in model.proto.graph.node
        if node.op_type == "Conv" and made.get(node.input[0]) == "DequantizeLinear"
    }


class Judge:
    """An objective with a price for each layer in INT8."""

    name = "made-up points"
    key = "made-up"
    images: Sequence[Path] = (Path("one.png"),)

    def __init__(self, price: Callable[[set[str]], float]) -> None:
        self._price = price
        self.asked = 0

    def measure(
        self, model: Model, runner: Runner | None = None, progress: ProgressCallback = silent
    ) -> float:
        if runner is not None:
            runner.close()
        self.asked += 1
        return 50.0 - self._price(int8_layers(model))


def heads(model: Model) -> HeadReference:
    return HeadReference(model, make_images(model, 2))


def test_all_layers_in_int8_are_chosen_where_the_budget_allows(workshop: Workshop) -> None:
    judge = Judge(lambda layers: 0.01 * len(layers))
    found = search(workshop, judge, 0.5, variants=[Variant("minmax")])
    assert found.met
    assert found.quantized is not None
    assert found.chosen is not None
    assert int8_layers(found.quantized.model) == set(workshop.layers)
    assert len(workshop.layers) == 5
    assert found.chosen.drop == pytest.approx(0.05)
    assert judge.asked == 2, "the float model and one candidate"


@pytest.mark.parametrize("culprits", [(0,), (4,), (1, 3), (0, 2, 4)])
def test_exactly_the_layers_that_cost_too_much_stay_in_float(
    model: Model, workshop: Workshop, culprits: tuple[int, ...]
) -> None:
    """Whatever the sensitivity says: giving back finds which were kept in vain."""
    bad = {workshop.layers[number] for number in culprits}
    judge = Judge(lambda layers: 1.0 * len(layers & bad))
    found = search(workshop, judge, 0.5, variants=[Variant("minmax")], heads=lambda: heads(model))
    assert found.chosen is not None
    assert found.quantized is not None
    assert found.chosen.variant.keep == bad
    assert int8_layers(found.quantized.model) == set(workshop.layers) - bad
    assert f"{len(bad)} of 5 layers stay in float" in found.reason


def test_a_budget_that_no_mixture_meets_is_said_so(model: Model, workshop: Workshop) -> None:
    judge = Judge(lambda layers: 3.0 if layers else 0.0)
    found = search(workshop, judge, 0.5, variants=[Variant("minmax")], heads=lambda: heads(model))
    assert not found.met
    assert found.quantized is None
    assert found.chosen is None
    assert "no mixture of INT8 and float layers" in found.reason
    assert "loses 3.00" in found.reason
    assert all(item.ok is False for item in found.candidates)


def test_without_a_budget_the_variant_that_loses_least_is_taken(workshop: Workshop) -> None:
    scales = {
        variant.method: workshop.make(variant).amax
        for variant in (Variant("minmax"), Variant("percentile", 90.0))
    }
    assert scales["minmax"] != scales["percentile"]
    answers = iter([50.0, 44.0, 47.0])
    judge = Judge(lambda layers: 0.0)
    judge.measure = lambda *_, **__: next(answers)  # type: ignore[method-assign]
    found = search(workshop, judge, None, variants=[Variant("minmax"), Variant("percentile", 90.0)])
    assert found.chosen is not None
    assert found.chosen.variant.method == "percentile"
    assert found.chosen.ok is None
    assert found.met


def test_the_number_of_evaluations_is_bounded(model: Model, workshop: Workshop) -> None:
    judge = Judge(lambda layers: 1.0 * bool(layers & set(workshop.layers[::2])))
    found = search(
        workshop, judge, 0.5, variants=[Variant("minmax")], heads=lambda: heads(model), most=4
    )
    assert judge.asked <= 4
    assert len(found.candidates) == judge.asked - 1


def test_bias_correction_is_tried_where_the_budget_is_missed_and_kept_where_it_helps(
    workshop: Workshop,
) -> None:
    asked: list[bool] = []

    class Corrected(Judge):
        def measure(
            self, model: Model, runner: Runner | None = None, progress: ProgressCallback = silent
        ) -> float:
            step = model.card.transforms[-1:]
            corrected = bool(step) and "bias_correction" in step[0].parameters
            asked.append(corrected)
            return 50.0 if corrected or not step else 40.0

    found = search(workshop, Corrected(lambda _: 0.0), 0.5, variants=[Variant("minmax")])
    assert asked == [False, False, True]
    assert found.chosen is not None
    assert found.chosen.variant.bias
    never = search(
        workshop, Corrected(lambda _: 0.0), 0.5, variants=[Variant("minmax")], bias=False
    )
    assert not never.met


def test_nothing_is_measured_twice_and_a_killed_search_goes_on(
    model: Model, workshop: Workshop, tmp_path: Path
) -> None:
    bad = {workshop.layers[2]}
    path = tmp_path / "measurements.json"

    def run(judge: Judge) -> object:
        return search(
            *(workshop, judge, 0.5),
            variants=[Variant("minmax")],
            heads=lambda: heads(model),
            measurements=Measurements(path),
        ).chosen

    class Killed(Judge):
        def measure(
            self, model: Model, runner: Runner | None = None, progress: ProgressCallback = silent
        ) -> float:
            if self.asked == 4:
                raise KeyboardInterrupt
            return super().measure(model, runner, progress)

    price = lambda layers: 1.0 * len(layers & bad)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        run(Killed(price))
    kept = len(json.loads(path.read_text())["entries"])
    assert kept == 4 + len(workshop.layers)  # objective and sensitivities
    whole = Judge(price)
    search(workshop, whole, 0.5, variants=[Variant("minmax")], heads=lambda: heads(model))
    rest = Judge(price)
    first = run(rest)
    assert rest.asked == whole.asked - 4
    again = Judge(price)
    assert getattr(run(again), "variant", None) == getattr(first, "variant", 0)
    assert again.asked == 0


def test_candidates_can_be_measured_on_a_runtime(workshop: Workshop) -> None:
    loaded: list[Model] = []

    def load(model: Model) -> Runner:
        loaded.append(model)
        return canonical_runner(model)

    place = Place("some runtime", "some-runtime-1", load)
    judge = Judge(lambda _: 0.0)
    kept = Measurements()
    found = search(workshop, judge, 0.5, variants=[Variant()], place=place, measurements=kept)
    assert len(loaded) == 1, "the float model is computed as ever"
    assert found.objective == "made-up points, run by some runtime"
    search(workshop, judge, 0.5, variants=[Variant()], measurements=kept)
    assert judge.asked == 3, "what one runtime gave is not what another gives"


def refusing(refused: Callable[[set[str]], bool]) -> Place:
    """A runtime whose compiler gets some mixtures of layers wrong, and says so."""

    def load(model: Model) -> Runner:
        if refused(int8_layers(model)):
            raise BuildError("its plan computes another 'scores' than the model")
        return canonical_runner(model)

    return Place("some runtime", "some-runtime-1", load)


def test_a_candidate_that_a_runtime_refuses_is_one_that_failed(
    model: Model, workshop: Workshop, tmp_path: Path
) -> None:
    """The search goes on, and finds what is built."""
    bad = workshop.layers[2]
    judge = Judge(lambda layers: 0.0)
    kept = Measurements(tmp_path / "measurements.json")
    found = search(
        *(workshop, judge, 0.5),
        variants=[Variant("minmax"), Variant("entropy")],
        heads=lambda: heads(model),
        measurements=kept,
        place=refusing(lambda layers: bad in layers),
    )
    assert found.chosen is not None
    assert found.chosen.variant.keep == {bad}
    first = found.candidates[0]
    assert first.ok is False
    assert first.failed == "its plan computes another 'scores' than the model"
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))["candidates"]
    assert told[0]["drop"] is told[0]["value"] is None
    assert told[0]["failed"] == first.failed
    assert "failed" not in found.chosen.to_dict()
    # It may have been for want of memory: the next search asks again.
    again = search(
        *(workshop, judge, 0.5),
        variants=[Variant("minmax")],
        measurements=Measurements(tmp_path / "measurements.json"),
        place=refusing(lambda layers: False),
    )
    assert again.chosen is not None
    assert not again.chosen.variant.keep


@pytest.mark.parametrize("max_drop", [0.5, None])
def test_a_runtime_that_refuses_everything_is_told_with_its_reason(
    model: Model, workshop: Workshop, max_drop: float | None
) -> None:
    found = search(
        *(workshop, Judge(lambda layers: 0.0), max_drop),
        variants=[Variant("minmax")],
        heads=lambda: heads(model),
        place=refusing(bool),
    )
    assert not found.met
    assert found.quantized is None
    assert found.reason == (
        "some runtime runs no candidate: its plan computes another 'scores' than the model"
    )
    assert not any(item.variant.bias for item in found.candidates)


def test_without_a_budget_what_runs_is_chosen(workshop: Workshop) -> None:
    answers = iter([True, False])
    found = search(
        *(workshop, Judge(lambda layers: 9.0 * bool(layers)), None),
        variants=[Variant("minmax"), Variant("entropy")],
        place=refusing(lambda layers: next(answers)),
    )
    assert found.chosen is not None
    assert found.chosen.variant.method == "entropy"
    assert found.chosen.drop == pytest.approx(9.0)


def test_a_fault_of_an_image_ends_the_search(workshop: Workshop) -> None:
    class Blind(Judge):
        def measure(
            self, model: Model, runner: Runner | None = None, progress: ProgressCallback = silent
        ) -> float:
            if runner is not None:
                runner.close()
                raise ImageError("cannot read one.png")
            return super().measure(model, runner, progress)

    with pytest.raises(ImageError):
        search(
            *(workshop, Blind(lambda layers: 0.0), 0.5),
            variants=[Variant()],
            place=refusing(lambda layers: False),
        )


def test_bad_arguments_are_refused(workshop: Workshop, model: Model, images: list[Path]) -> None:
    judge = Judge(lambda _: 0.0)
    with pytest.raises(InputError, match="one variant at least"):
        search(workshop, judge, 0.5, variants=[])
    with pytest.raises(InputError, match="max_drop must be 0 to 100"):
        search(workshop, judge, -1.0)
    none = Workshop(
        model, workshop.calibration, images=images, rules=Rules(min_channels=512, first=False)
    )
    with pytest.raises(InputError, match="no layer that may be quantised"):
        search(none, judge, 0.5)


def test_progress_never_exceeds_its_total(model: Model, workshop: Workshop) -> None:
    seen: list[tuple[int, int | None]] = []

    def progress(stage: str, done: int, total: int | None) -> None:
        if stage.startswith("measure candidates"):
            seen.append((done, total))

    bad = {workshop.layers[1], workshop.layers[3]}
    judge = Judge(lambda layers: 1.0 * len(layers & bad))
    search(
        *(workshop, judge, 0.5),
        variants=[Variant()],
        heads=lambda: heads(model),
        progress=progress,
    )
    assert seen[0][0] == 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert all(total is not None and done <= total for done, total in seen)


def test_groups_hold_every_layer_once() -> None:
    layers = [f"layer {number}" for number in range(11)]
    for most in (1, 3, 11, 40):
        groups = groups_of(layers, most)
        assert [name for group in groups for name in group.layers] == layers
        assert len(groups) == min(most, 11)
        sizes = [len(group.layers) for group in groups]
        assert max(sizes) - min(sizes) <= 1
    assert groups_of([]) == []


def test_a_layer_of_unequal_channels_is_the_most_sensitive(images: list[Path]) -> None:
    """Its input mixes values of very different size, which one scale cannot serve."""
    model = _model_with_an_outlier()
    workshop = Workshop(model, calibrate(model, images), rules=_RULES)
    groups = measure_sensitivity(workshop, Variant(), heads(model), Measurements())
    assert [group.layers for group in groups] == [(name,) for name in workshop.layers]
    assert worst_first(groups)[0].layers == ("node/conv_5",), [
        (group.name, group.sqnr) for group in groups
    ]


def _model_with_an_outlier() -> Model:
    """The tiny model, in which a third convolution reads one channel a thousand times as
    large as the others and weighs it as little."""
    from onnx import numpy_helper

    model = make_model()
    graph = model.proto.graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    weights = {tensor.name: tensor for tensor in graph.initializer}
    third = convolutions[2]
    third.name = "node/conv_5"
    source = next(node for node in graph.node if third.input[0] in node.output)
    factors = np.ones((1, 16, 1, 1), np.float32)
    factors[0, 0] = 1000.0
    graph.initializer.append(numpy_helper.from_array(factors, "factors"))
    scaled = type(source)()
    scaled.op_type, scaled.name = "Mul", "node/outlier"
    scaled.input.extend([third.input[0], "factors"])
    scaled.output.append("outlier")
    at = next(i for i, node in enumerate(graph.node) if node.name == third.name)
    third.input[0] = "outlier"
    graph.node.insert(at, scaled)
    values = numpy_helper.to_array(weights[third.input[1]]).copy()
    values[:8, 0] /= 1000.0
    weights[third.input[1]].CopyFrom(numpy_helper.from_array(values, third.input[1]))
    return model


def test_no_quantised_layer_is_no_error(model: Model, workshop: Workshop) -> None:
    reference = heads(model)
    nothing = workshop.make(Variant(keep=frozenset(workshop.layers)))
    assert reference.sqnr(nothing.model) > 100
    assert reference.sqnr(workshop.make(Variant()).model) < 60


def test_the_canonical_runner_computes_what_the_graph_says(workshop: Workshop) -> None:
    """Against ONNX Runtime that optimises nothing; rounding decides otherwise now and then."""
    quantized = workshop.make(Variant()).model
    images = make_images(quantized, 2)
    expected = plain_session(quantized.proto).run(None, {"images": images})
    with canonical_runner(quantized) as runner:
        got = runner.infer({"images": images})
    for value, name in zip(expected, (o.name for o in runner.outputs), strict=True):
        assert np.linalg.norm(got[name] - value) <= 1e-2 * np.linalg.norm(value)


def test_images_are_prepared_as_detection_does(model: Model, images: list[Path]) -> None:
    pixels = prepared(model, images[:2])
    assert pixels.shape == (2, *model.card.input_size, 3)
    assert pixels.dtype == np.uint8


def test_a_measurement_belongs_to_everything_it_depends_on(
    model: Model, images: list[Path], workshop: Workshop
) -> None:
    calibration = workshop.calibration
    others = [
        Workshop(model, calibrate(model, images[:3]), images=images, rules=_RULES),
        Workshop(make_model(seed=1), calibrate(make_model(seed=1), images), rules=_RULES),
        Workshop(model, calibration, images=images, rules=Rules(min_channels=1, first=True)),
        Workshop(model, calibration, images=images, rules=_RULES, keep=[workshop.layers[0]]),
    ]
    variants = [
        Variant(),
        Variant("mse"),
        Variant("percentile"),
        Variant("percentile", 99.0),
        Variant(keep=frozenset(workshop.layers[:1])),
        Variant(bias=True),
    ]
    keys = [workshop.key(variant) for variant in variants]
    keys += [other.key(Variant()) for other in others]
    # As where ranges come from a calibration cache, and biases alone from images.
    corrected = Workshop(model, calibration, images=images[::-1], rules=_RULES)
    keys.append(corrected.key(Variant(bias=True)))
    assert corrected.key(Variant()) == workshop.key(Variant())
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == len(keys)


def test_another_version_measures_again(
    workshop: Workshop, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Measurements()

    def asked() -> int:
        judge = Judge(lambda layers: 1.0 * bool(layers))
        search(
            *(workshop, judge, 0.5),
            variants=[Variant()],
            heads=lambda: heads(model),
            measurements=kept,
        )
        return judge.asked

    first = asked()
    assert asked() == 0
    for module in (measuring, sensitivity):
        monkeypatch.setattr(module, "canonical_key", lambda: {"onnxruntime": "another"})
    before = kept.reused
    assert asked() == first
    assert kept.reused == before


def test_measurements_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "measurements.json"
    path.write_text('{"my": "notes"}')
    with pytest.raises(InputError, match="something else is there"):
        Measurements(path)
    assert path.read_text() == '{"my": "notes"}'
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="something else is there"):
        Measurements(path)


def test_damaged_measurements_are_measured_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "measurements.json"
    kept = Measurements(path)
    assert kept.value({"a": 1}, lambda: 2.5) == 2.5
    assert Measurements(path).get({"a": 1}) == 2.5
    path.write_text(path.read_text().replace("2.5", '"much"'))
    assert Measurements(path).get({"a": 1}) is None
    assert "everything is measured again" in caplog.text


def test_two_processes_keep_what_both_measured(tmp_path: Path) -> None:
    path = tmp_path / "measurements.json"
    first, second = Measurements(path), Measurements(path)
    first.value({"a": 1}, lambda: 1.0)
    second.value({"b": 1}, lambda: 2.0)
    first.value({"c": 1}, lambda: 3.0)
    kept = Measurements(path)
    assert [kept.get({name: 1}) for name in "abc"] == [1.0, 2.0, 3.0]
    assert first.get({"b": 1}) == 2.0
    assert [item.name for item in tmp_path.iterdir()] == ["measurements.json"]


def _measure_many(path: Path, name: str) -> None:
    kept = Measurements(path)
    for number in range(20):
        kept.value({name: number}, lambda number=number: float(number))  # type: ignore[misc]


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "measurements.json"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_measure_many, args=(path, name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    kept = Measurements(path)
    assert all(kept.get({name: number}) == number for name in "ab" for number in range(20))
