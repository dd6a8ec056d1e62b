"""Quantising from request to outcome: what is measured, noted, handed out and kept on the card."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from boxwright import backends, datasets
from boxwright.backends.base import Runner
from boxwright.backends.comparison import judged_as
from boxwright.errors import BackendUnavailableError, BuildError, InputError
from boxwright.evaluate.report import quantized as page
from boxwright.model import Model
from boxwright.probe import PROBE_KEY, probe_of
from boxwright.quantize import job, on_target
from boxwright.quantize.comparison import Compared
from boxwright.quantize.job import REFUSED, Request, quantize_model
from boxwright.quantize.latency import Choice, Latency
from boxwright.quantize.legacy_cache import LegacyCache, read_legacy_cache, write_legacy_cache
from boxwright.quantize.legacy_ranges import cache_of, ranges_from_cache
from boxwright.quantize.objective import AgreementObjective, LabelledObjective
from boxwright.quantize.probing import ProbeCheck
from boxwright.quantize.rules import Rules
from tests.classifiers import make_classifier
from tests.models import make_model
from tests.quantize.looks import saw
from tests.ship.material import write_material

_RULES = Rules(min_channels=1, first=True)


@pytest.fixture(scope="module")
def model() -> Model:
    """One that finds something in noise."""
    made = make_model()
    return made.with_card(dataclasses.replace(made.card, score_threshold=0.05))


def test_the_float_model_agrees_with_itself(model: Model, others: list[Path]) -> None:
    objective = AgreementObjective(model, others)
    assert objective.measure(model) == pytest.approx(100.0)
    assert "4 images" in objective.name


def test_another_model_does_not_agree(model: Model, others: list[Path]) -> None:
    other = make_model(seed=5).with_card(model.card)
    assert AgreementObjective(model, others).measure(other) < 90


def test_a_model_that_finds_nothing_cannot_be_agreed_with(others: list[Path]) -> None:
    model = make_model()
    strict = model.with_card(dataclasses.replace(model.card, score_threshold=0.999))
    with pytest.raises(InputError, match=r"finds nothing above a score of 0\.999 in 4 images"):
        AgreementObjective(strict, others)


def test_ap_is_that_of_evaluate(tmp_path: Path, model: Model) -> None:
    from boxwright.evaluate.run import evaluate

    material = write_material(tmp_path)
    dataset = datasets.open(material["labels"], images=material["images"])
    expected = evaluate(model, dataset).accuracy.headline
    assert expected is not None
    assert LabelledObjective(dataset).measure(model) == pytest.approx(100 * expected, abs=1e-3)


def test_everything_is_on_the_card_and_in_the_report(
    model: Model, images: list[Path], others: list[Path], tmp_path: Path
) -> None:
    request = Request(
        calibration=images, images=others, max_drop=100, rules=_RULES, work=tmp_path / "work"
    )
    outcome = quantize_model(model, request)
    assert outcome.met
    assert outcome.precision == "int8"
    outcome.model.save(tmp_path / "quantized.onnx")
    assert probe_of(outcome.model.proto, model.card) is not None, "what backends try their build on"
    card = Model.load(tmp_path / "quantized.onnx").card
    step = card.transforms[-1]
    assert step.name == "quantize"
    tried = [item["method"] for item in step.effect["budget"]["candidates"]]
    assert tried[:4] == ["minmax", "percentile", "entropy", "mse"]
    assert [item["step"] for item in step.effect["budget"]["candidates"]][4:] == ["heads"]
    assert step.effect["notes"] == list(outcome.notes)
    html = str(page.render(card))
    assert "all 5 layers are in INT8" in html
    for word in (*tried, "chosen", "at least 100 are advised"):
        assert word in html
    assert {path.name for path in (tmp_path / "work").iterdir()} >= {
        "calibration.npz",
        "measurements.json",
    }


@pytest.mark.parametrize("bias", [False, True])
def test_no_image_goes_into_the_model_where_none_may(
    model: Model, images: list[Path], bias: bool
) -> None:
    """With biases corrected neither; all else is the same to the bit."""
    request = Request(calibration=images, method="minmax", rules=_RULES, bias=bias)
    with_one = quantize_model(model, request).model
    without = quantize_model(model, dataclasses.replace(request, probe=False)).model
    assert PROBE_KEY in {item.key for item in with_one.proto.metadata_props}
    assert PROBE_KEY not in {item.key for item in without.proto.metadata_props}
    assert judged_as(without) == "int8"
    kept = [item for item in with_one.proto.metadata_props if item.key != PROBE_KEY]
    assert kept == list(without.proto.metadata_props), "and nothing else is left out"
    assert with_one.proto.graph == without.proto.graph


def test_sensitivity_becomes_a_chart(model: Model, images: list[Path], others: list[Path]) -> None:
    outcome = quantize_model(
        model, Request(calibration=images, images=others, max_drop=0, rules=_RULES)
    )
    assert outcome.budget is not None
    assert len(outcome.budget.sensitivity) == 4
    html = str(page.render(outcome.model.card))
    assert html.count("<rect") == 4
    assert "Sensitivity of layers" in html


def test_a_card_without_quantisation_has_no_such_section(model: Model) -> None:
    assert page.render(model.card) is None


def test_a_strange_card_does_not_break_the_report(model: Model) -> None:
    from boxwright.card import Transform

    odd: list[dict[str, Any]] = [
        {"budget": [1], "choice": "x", "notes": 3, "layers": 2},
        {"budget": {"candidates": [{"drop": "much"}], "sensitivity": [{"sqnr_db": "<b>"}, 3]}},
        {"budget": {"candidates": [{"ok": ["<b>"]}]}},
        {"choice": {"tried": [{"median_ms": True}, "x"], "reason": "<script>"}},
        {"budget": {"candidates": [{"failed": "<b>", "value": None, "drop": None, "ok": False}]}},
    ]
    for effect in odd:
        card = model.card.with_transform(Transform("quantize", {}, {}, effect))
        html = str(page.render(card))
        assert "<script" not in html
        assert "<b>" not in html


def _without_calibrated(
    outcome: job.Outcome,
) -> list[str]:
    return [note for note in outcome.notes if "advised" not in note]


def test_images_calibrated_on_are_told_from_others_by_content(
    model: Model, images: list[Path], others: list[Path], tmp_path: Path
) -> None:
    shutil.copy(images[0], tmp_path / "renamed.png")
    request = Request(calibration=images, images=[*others, tmp_path / "renamed.png"], rules=_RULES)
    found = _without_calibrated(quantize_model(model, request))
    assert len(found) == 1
    assert found[0].startswith("WARNING: 1 of 5 images measured on were calibrated on as well")
    clean = dataclasses.replace(request, images=others)
    assert not _without_calibrated(quantize_model(model, clean))


def test_measuring_on_the_calibration_images_is_noted(model: Model, images: list[Path]) -> None:
    found = _without_calibrated(quantize_model(model, Request(calibration=images, rules=_RULES)))
    assert len(found) == 1
    assert "which flatters it" in found[0]


def test_a_named_method_measures_nothing_unless_asked(model: Model, images: list[Path]) -> None:
    outcome = quantize_model(model, Request(calibration=images, method="entropy", rules=_RULES))
    assert outcome.budget is None
    assert outcome.model.card.transforms[-1].parameters["method"] == "entropy"


def test_no_int8_within_the_budget_hands_out_the_float_model(
    model: Model, images: list[Path], others: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([100.0])
    monkeypatch.setattr(AgreementObjective, "measure", lambda *_, **__: next(answers, 10.0))
    outcome = quantize_model(
        model, Request(calibration=images, images=others, max_drop=1, rules=_RULES)
    )
    assert not outcome.met
    assert outcome.precision == "fp32"
    assert outcome.model.proto is model.proto
    step = outcome.model.card.transforms[-1]
    assert step.name == REFUSED
    assert "the best loses 90.00" in step.effect["budget"]["reason"]
    assert "the best loses 90.00" in str(page.render(outcome.model.card))


def test_a_runtime_that_refuses_int8_hands_out_the_float_model(
    model: Model,
    images: list[Path],
    others: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> Runner:
        raise BuildError("the plan computes another 'boxes'")

    saw(monkeypatch)
    monkeypatch.setattr(on_target, "load_precision", refuse)
    request = Request(
        calibration=images,
        images=others,
        max_drop=1,
        target="onnxruntime",
        latency=True,
        rules=_RULES,
        work=tmp_path,
    )
    outcome = quantize_model(model, request)
    assert not outcome.met
    assert outcome.precision == "fp32"
    assert outcome.budget is not None
    assert outcome.budget.reason.startswith("onnxruntime runs no candidate: the plan computes")
    outcome.model.save(tmp_path / "float.onnx")
    html = str(page.render(Model.load(tmp_path / "float.onnx").card))
    assert "the plan computes another" in html


def test_what_building_would_refuse_is_not_chosen(
    model: Model,
    images: list[Path],
    others: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A runtime whose plan computes something else."""
    closed: list[bool] = []

    def load(given: Model, *_: object) -> Runner:
        runner = backends.load(given, backend="onnxruntime")
        close, infer = runner.close, runner.infer
        monkeypatch.setattr(
            runner, "infer", lambda feed: {name: 3 * v for name, v in infer(feed).items()}
        )

        def close_and_tell() -> None:
            closed.append(True)
            close()

        monkeypatch.setattr(runner, "close", close_and_tell)
        return runner

    saw(monkeypatch)
    monkeypatch.setattr(on_target, "load_precision", load)
    request = Request(
        calibration=images,
        images=others,
        max_drop=100,
        method="minmax",
        target="onnxruntime",
        latency=True,
        rules=_RULES,
    )
    outcome = quantize_model(model, request)
    assert not outcome.met
    assert outcome.budget is not None
    (first, *_) = outcome.budget.candidates
    assert first.failed is not None
    assert "what onnxruntime makes of the model computes another" in first.failed
    assert len(closed) == len(outcome.budget.candidates)


def test_what_a_runtime_makes_of_int8_passes_as_building_it_does(
    model: Model, images: list[Path]
) -> None:
    made = quantize_model(model, Request(calibration=images, method="minmax", rules=_RULES))
    assert made.quantized is not None
    assert probe_of(made.model.proto, made.model.card) is not None
    with backends.load(made.model, backend="onnxruntime") as runner:
        ProbeCheck("onnxruntime")(made.model, runner)


def test_int8_that_is_not_faster_is_not_handed_out(
    model: Model, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(*_: object, **__: object) -> Compared:
        latency = Latency("onnxruntime", 1)
        return Compared(latency, Choice("fp16", "INT8 is not faster: 6 ms against 5 ms", []))

    monkeypatch.setattr(job, "compare_precisions", compare)
    request = Request(
        calibration=images, method="minmax", target="onnxruntime", latency=True, rules=_RULES
    )
    outcome = quantize_model(model, request)
    assert outcome.precision == "fp16"
    assert outcome.quantized is not None
    assert outcome.model.proto is model.proto
    assert any("build it with --precision fp16" in note for note in outcome.notes)


def test_latency_needs_no_sound_image_of_the_dataset(
    model: Model, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluation goes on where one is damaged; so does what comes after it."""
    made = write_material(tmp_path)
    dataset = datasets.open(made["labels"], images=made["images"])
    dataset.images[0].path.write_bytes(b"no image")
    seen: list[tuple[int, ...]] = []

    def compare(*given: Any, **_: object) -> Compared:
        seen.append(given[3].shape)
        return Compared(Latency("onnxruntime", 1), Choice("int8", "INT8 is the fastest", []))

    monkeypatch.setattr(job, "compare_precisions", compare)
    request = Request(
        calibration=images,
        dataset=dataset,
        method="minmax",
        target="onnxruntime",
        latency=True,
        rules=_RULES,
    )
    quantize_model(model, request)
    assert seen == [(1, *model.card.input_size, 3)]


def test_a_run_that_was_stopped_measures_nothing_twice(
    model: Model,
    images: list[Path],
    others: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = Request(calibration=images, images=others, rules=_RULES, work=tmp_path)
    first = quantize_model(model, request)
    monkeypatch.setattr(AgreementObjective, "measure", _never)
    second = quantize_model(model, request)
    assert first.budget is not None
    assert second.budget is not None
    assert second.budget.chosen is not None
    assert [item.value for item in second.budget.candidates] == [
        item.value for item in first.budget.candidates
    ]
    assert second.budget.chosen.seconds == 0.0
    assert second.model.to_bytes() == first.model.to_bytes(), "the same work, the same file"


def _never(*_: object, **__: object) -> float:
    raise AssertionError("measured again")


_REFUSED: list[tuple[Callable[[list[Path]], Request], type[Exception], str]] = [
    (lambda _: Request(), InputError, "needs images to calibrate on"),
    (
        lambda images: Request(calibration=images, latency=True),
        InputError,
        "latency is measured on a target",
    ),
    (
        lambda _: Request(from_cache=Path("x"), method="entropy"),
        InputError,
        "holds ranges, no histograms",
    ),
    (lambda _: Request(from_cache=Path("x"), bias=True), InputError, "give --calibration too"),
    (lambda _: Request(from_cache=Path("x"), max_drop=1), InputError, "a budget needs images"),
    (
        lambda _: Request(from_cache=Path("x"), target="onnxruntime", latency=True),
        InputError,
        "latency is measured on images",
    ),
    (
        lambda images: Request(calibration=images, keep=["no such"]),
        InputError,
        "cannot keep 'no such' in float",
    ),
    (
        lambda images: Request(calibration=images, target="some"),
        InputError,
        "target must be one of",
    ),
]


@pytest.mark.parametrize(("request_of", "error", "message"), _REFUSED)
def test_what_does_not_fit_together_is_refused(
    model: Model,
    images: list[Path],
    request_of: Callable[[list[Path]], Request],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        quantize_model(model, request_of(images))


@pytest.mark.parametrize("changes", [{"method": "minmax"}, {"max_drop": 1.0, "target": "openvino"}])
def test_a_model_without_a_layer_for_int8_is_refused_before_it_is_calibrated(
    model: Model, images: list[Path], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came out was the float model, to be built with `--precision int8`."""
    monkeypatch.setattr(job, "calibrate", _never)
    # The heads of a model are not enough: all that is tried begins with them in float.
    names = [f"node/conv_{number}" for number in (3, 7, 10, 13)]
    request = Request(calibration=images, rules=_RULES, keep=names, **changes)
    with pytest.raises(InputError, match="no layer that may be quantised under these rules"):
        quantize_model(model, dataclasses.replace(request, latency=request.target is not None))


def test_latency_on_a_backend_that_is_not_there_is_refused(
    model: Model, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxwright import backends

    backend = backends.get("onnxruntime")
    monkeypatch.setattr(type(backend), "unavailable", lambda _: "not today")
    with pytest.raises(BackendUnavailableError, match="not today"):
        quantize_model(
            model, Request(calibration=images, target="onnxruntime", latency=True, rules=_RULES)
        )


def test_a_classifier_is_quantised_without_measuring(images: list[Path]) -> None:
    # Its one convolution counts as a head.
    rules = dataclasses.replace(_RULES, heads=True)
    classifier = _classifier_with_a_convolution()
    outcome = quantize_model(classifier, Request(calibration=images, rules=rules))
    assert outcome.budget is None
    assert outcome.model.quantized
    with pytest.raises(InputError, match="a budget is about detections"):
        quantize_model(classifier, Request(calibration=images, rules=rules, max_drop=1))


def _classifier_with_a_convolution() -> Model:
    """It gives each channel of the means as it is."""
    made = make_classifier()
    graph = made.proto.graph
    cast, mean, *rest = graph.node
    weights = np.eye(3, dtype=np.float32)[:, :, None, None]
    graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    mean.output[0], rest[0].input[0], rest[1].input[0] = "plain", "means", "means"
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    graph.initializer.append(axes)
    added = [
        helper.make_node("Unsqueeze", ["plain", "axes"], ["image"]),
        helper.make_node("Conv", ["image", "weights"], ["convolved"], name="conv"),
        helper.make_node("Squeeze", ["convolved", "axes"], ["means"]),
    ]
    del graph.node[:]
    graph.node.extend([cast, mean, *added, *rest])
    return made


def test_ranges_of_a_cache_give_the_same_model(
    model: Model, images: list[Path], tmp_path: Path
) -> None:
    made = quantize_model(model, Request(calibration=images, method="minmax", rules=_RULES))
    path = tmp_path / "calibration.cache"
    write_legacy_cache(path, cache_of(made.calibration, "minmax"))
    assert read_legacy_cache(path).algorithm == "MinMaxCalibration"
    again = quantize_model(model, Request(from_cache=path, rules=_RULES))
    assert made.quantized is not None
    assert again.quantized is not None
    assert set(again.quantized.amax) == set(made.quantized.amax)
    for name, amax in made.quantized.amax.items():
        assert again.quantized.amax[name] == pytest.approx(amax, rel=1e-6)


def test_a_cache_without_ranges_for_the_heads_leaves_them_in_float(
    model: Model, images: list[Path], others: list[Path], tmp_path: Path
) -> None:
    made = quantize_model(model, Request(calibration=images, method="minmax", rules=_RULES))
    assert made.quantized is not None
    path = tmp_path / "calibration.cache"
    write_legacy_cache(path, LegacyCache.from_amax(made.quantized.amax))
    request = Request(from_cache=path, images=others, max_drop=100, rules=_RULES)
    found = quantize_model(model, request)
    assert found.precision == "int8"
    assert any("no ranges for them" in note for note in found.notes)


def test_a_cache_of_another_network_is_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "calibration.cache"
    write_legacy_cache(path, LegacyCache.from_amax({"data": 1.0, "prob": 0.0}))
    with pytest.raises(InputError, match=r"has no range for 4 of 4 tensors.*'data', 'prob'"):
        quantize_model(model, Request(from_cache=path, rules=_RULES))
    found = ranges_from_cache(model, path)
    assert found.amax("data") == pytest.approx(1.0)
    assert list(found.range("data")) == pytest.approx([-1.0, 1.0])
    assert found.amax("prob") == 0.0
