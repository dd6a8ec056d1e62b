"""Fine-tuning brings the heads nearer, the same way every time, and can be stopped."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tracemalloc
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from onnx import numpy_helper

from boxwright import backends
from boxwright.errors import BackendUnavailableError, InputError, MissingExtraError
from boxwright.evaluate.npz import read_npz, write_npz
from boxwright.images import load_image
from boxwright.model import Model
from boxwright.quantize.calibration import calibrate
from boxwright.quantize.finetune.checkpoint import Checkpoint, load_checkpoint
from boxwright.quantize.finetune.images import Lessons, varied
from boxwright.quantize.finetune.network import Network
from boxwright.quantize.finetune.training import Rates, Settings, Trainer, rate_at
from boxwright.quantize.finetune.tune import Tuner, head_tensors
from boxwright.quantize.insert import weight_scales
from boxwright.quantize.job import Request, quantize_model
from boxwright.quantize.objective import HeadReference
from boxwright.quantize.quantizer import Quantized, prepare, quantize
from boxwright.quantize.variants import Variant, Workshop, prepared
from boxwright.ranges import ranges_of
from tests.quantize.finetune.short import RULES, SHORT
from tests.quantize.test_insert import assert_canonical

pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture(scope="module")
def tuned(model: Model, images: list[Path], quantized: Quantized) -> Quantized:
    return Tuner(model, images, dataclasses.replace(SHORT, steps=60)).tune(quantized)


def told(found: Quantized) -> Any:
    return found.model.card.transforms[-1].parameters["fine_tuning"]


def test_the_heads_come_nearer(
    model: Model, images: list[Path], quantized: Quantized, tuned: Quantized
) -> None:
    """By a measure of its own, computed by ONNX Runtime, on images that were not learnt from."""
    reference = HeadReference(model, prepared(model, [images[4], images[9]]))
    assert reference.sqnr(tuned.model) > reference.sqnr(quantized.model) + 3
    error = told(tuned)["error"]
    assert error["after"] < 0.7 * error["before"]


def test_it_is_a_portable_quantised_model_as_before(
    model: Model, quantized: Quantized, tuned: Quantized
) -> None:
    from boxwright.quantize.quantizer import prepare

    shapes = [
        [(node.op_type, node.name, list(node.input)) for node in found.model.proto.graph.node]
        for found in (quantized, tuned)
    ]
    assert shapes[0] == shapes[1]
    assert tuned.model.quantized
    assert_canonical(tuned.model.proto, prepare(model).proto)


def test_what_shares_a_scale_still_does(quantized: Quantized, tuned: Quantized) -> None:
    groups: dict[int, set[float]] = {}
    for tensor in tuned.placement.tensors:
        groups.setdefault(tensor.group, set()).add(tuned.amax[tensor.name])
    assert all(len(values) == 1 for values in groups.values())
    assert len(groups) < len(tuned.placement.tensors)
    assert tuned.amax != quantized.amax
    constants = {t.name: numpy_helper.to_array(t) for t in tuned.model.proto.graph.initializer}
    for tensor in tuned.placement.tensors:
        scale = float(constants[f"{tensor.name}/scale"])
        assert scale * 127 == pytest.approx(tuned.amax[tensor.name])


def test_weights_have_the_scales_that_follow_from_them(
    quantized: Quantized, tuned: Quantized
) -> None:
    constants = {t.name: numpy_helper.to_array(t) for t in tuned.model.proto.graph.initializer}
    before = {t.name: numpy_helper.to_array(t) for t in quantized.model.proto.graph.initializer}
    layers = tuned.placement.quantized
    for layer in layers:
        weights, scales = constants[layer.weights], constants[f"{layer.weights}/scale"]
        np.testing.assert_array_equal(scales, weight_scales(weights))
        assert not np.array_equal(weights, before[layer.weights])
    assert layers


def test_the_card_says_what_was_done(tuned: Quantized) -> None:
    step = tuned.model.card.transforms[-1]
    assert "torch" in step.versions
    found = told(tuned)
    assert (found["steps"], found["batch"], found["images"]) == (60, 2, 10)
    assert 0 < found["best_step"] <= 60


def test_ranges_are_those_of_the_network_as_it_is_now(
    quantized: Quantized, tuned: Quantized
) -> None:
    before, after = ranges_of(quantized.model.proto), ranges_of(tuned.model.proto)
    assert set(before) == set(after)
    assert before != after


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_backends_build_it(backend: str, tuned: Quantized, tmp_path: Path) -> None:
    if (reason := backends.available()[backend]) is not None:
        pytest.skip(f"{backend} cannot work here: {reason}")
    engine = backends.build(tuned.model, backend=backend, output=tmp_path / "tuned.bw")
    assert engine.receipt["build"]["precision"] == "int8"


def test_the_same_again_is_the_same_to_the_bit(
    model: Model, images: list[Path], quantized: Quantized
) -> None:
    first, second = (Tuner(model, images, SHORT).tune(quantized) for _ in range(2))
    assert first.model.proto.SerializeToString() == second.model.proto.SerializeToString()
    other = Tuner(model, images, dataclasses.replace(SHORT, seed=1)).tune(quantized)
    assert other.model.proto.SerializeToString() != first.model.proto.SerializeToString()


class _StoppedError(Exception):
    pass


def test_a_stopped_training_goes_on_to_the_same_bits(
    model: Model,
    images: list[Path],
    quantized: Quantized,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from boxwright.quantize.finetune import training

    whole = Tuner(model, images, SHORT).tune(quantized)
    monkeypatch.setattr(training, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(training, "_SAVE_SHARE", 0)

    def stop(stage: str, done: int, total: int | None) -> None:
        if stage == "fine-tuning" and done == 7:
            raise _StoppedError

    tuner = Tuner(model, images, SHORT, tmp_path)
    with pytest.raises(_StoppedError):
        tuner.tune(quantized, stop)
    (kept,) = tmp_path.iterdir()
    assert b"pickle" not in kept.read_bytes()
    seen: list[int] = []

    def note(stage: str, done: int, total: int | None) -> None:
        if stage == "fine-tuning":
            seen.append(done)

    gone_on = tuner.tune(quantized, note)
    assert seen[0] == 7
    assert gone_on.model.proto.SerializeToString() == whole.model.proto.SerializeToString()
    seen.clear()
    again = tuner.tune(quantized, note)
    assert seen == [12]
    assert again.model.proto.SerializeToString() == whole.model.proto.SerializeToString()


@pytest.mark.parametrize(
    "damage", ["cut", "far too many steps", "no number", "other numbers", "another training"]
)
def test_a_damaged_checkpoint_is_not_gone_on_with(
    damage: str, model: Model, images: list[Path], quantized: Quantized, tmp_path: Path
) -> None:
    tuner = Tuner(model, images, dataclasses.replace(SHORT, steps=2), tmp_path)
    whole = tuner.tune(quantized)
    (kept,) = tmp_path.iterdir()
    arrays = read_npz(kept)
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:-100])
    elif damage == "far too many steps":
        header = arrays["boxwright_finetuning"].tobytes()
        header = header.replace(b'"step": 2', b'"step": ' + b"9" * 400)
        write_npz(kept, {**arrays, "boxwright_finetuning": np.frombuffer(header, np.uint8)})
    elif damage == "no number":
        header = arrays["boxwright_finetuning"].tobytes()
        header = header.replace(b'"step": 2', b'"step": Infinity')
        write_npz(kept, {**arrays, "boxwright_finetuning": np.frombuffer(header, np.uint8)})
    elif damage == "other numbers":
        write_npz(kept, {**arrays, "best": np.full_like(arrays["best"], np.nan)})
    else:
        header = arrays["boxwright_finetuning"].tobytes().replace(b'"key": "', b'"key": "x')
        write_npz(kept, {**arrays, "boxwright_finetuning": np.frombuffer(header, np.uint8)})
    again = tuner.tune(quantized)
    assert again.model.proto.SerializeToString() == whole.model.proto.SerializeToString()


def test_a_checkpoint_may_not_be_larger_than_the_training(tmp_path: Path) -> None:
    """Zeros are small in a file: what it would take in memory is known before."""
    kept, few = tmp_path / "kept.npz", np.zeros(4, np.float32)
    made = Checkpoint("key", 1, ((0, 1.0),), few, few, few, few)
    made.save(kept)
    assert load_checkpoint(kept, "key", 4, 1) is not None
    dataclasses.replace(made, best=np.zeros(32 << 20, np.float32)).save(kept)
    tracemalloc.start()
    assert load_checkpoint(kept, "key", 4, 1) is None
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 << 20


def test_of_the_same_image_again_and_again_something_is_learnt(
    model: Model, images: list[Path]
) -> None:
    assert Lessons(model.card, images[:1] * 5, batch=2, seed=0).batch(0).shape[0] == 2


def test_where_there_is_nothing_to_train_it_says_so(model: Model, images: list[Path]) -> None:
    """Weights that are computed from others are no constants."""
    lessons = Lessons(model.card, images, batch=2, seed=0)
    network = Network(prepare(model).proto, head_tensors(model))
    with pytest.raises(InputError, match="nothing that could be fine-tuned"):
        Trainer(network, network, [], lessons, SHORT, "cpu")


def test_a_file_of_something_else_is_not_replaced(
    model: Model, images: list[Path], quantized: Quantized, tmp_path: Path
) -> None:
    tuner = Tuner(model, images, dataclasses.replace(SHORT, steps=1), tmp_path)
    tuner.tune(quantized)
    (kept,) = tmp_path.iterdir()
    kept.write_text("mine")
    with pytest.raises(InputError, match="something else"):
        tuner.tune(quantized)
    assert kept.read_text() == "mine"


def test_where_it_does_not_help_the_model_is_as_it_was(
    model: Model, images: list[Path], quantized: Quantized
) -> None:
    from boxwright.quantize.finetune.notes import untouched_note

    wild = dataclasses.replace(SHORT, steps=3, rates=Rates(3.0, 30.0, 5.0))
    found = Tuner(model, images, wild).tune(quantized)
    assert list(found.model.proto.graph.initializer) == list(
        quantized.model.proto.graph.initializer
    )
    assert told(found)["best_step"] == 0
    assert "brought the heads no nearer" in untouched_note(found)[0]
    assert not untouched_note(quantized)


class TestLessons:
    def test_they_are_the_same_whichever_is_asked_for_first(
        self, model: Model, images: list[Path]
    ) -> None:
        first, second = (Lessons(model.card, images, batch=3, seed=0) for _ in range(2))
        later = first.batch(5)
        assert np.array_equal([second.batch(n) for n in range(6)][5], later)
        assert not np.array_equal(later, first.batch(4))
        other = Lessons(model.card, images, batch=3, seed=1)
        assert not np.array_equal(other.batch(5), later)

    def test_every_image_comes_once_a_turn(
        self, model: Model, images: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lessons = Lessons(model.card, images, batch=1, seed=0)
        seen: list[Path] = []

        def load(path: Path) -> Any:
            seen.append(path)
            return load_image(path)

        monkeypatch.setattr("boxwright.quantize.finetune.images.load_image", load)
        for number in range(len(lessons.learnt)):
            lessons.batch(number)
        assert sorted(seen) == sorted(lessons.learnt)

    def test_what_is_held_back_is_not_learnt(self, model: Model, images: list[Path]) -> None:
        lessons = Lessons(model.card, images, batch=3, seed=0)
        assert lessons.held_back == [images[4], images[9]]
        assert set(lessons.learnt).isdisjoint(lessons.held_back)
        assert len(lessons.learnt) == 8
        few = Lessons(model.card, images[:3], batch=3, seed=0)
        assert few.held_back == few.learnt == images[:3]

    def test_a_part_is_a_part(self) -> None:
        image = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3)
        mirrored = 0
        for seed in range(40):
            part = varied(image, np.random.default_rng(seed))  # type: ignore[arg-type]
            h, w = part.shape[:2]
            assert 24 <= h <= 40
            assert 36 <= w <= 60
            right = int(part[0, 1, 0]) - int(part[0, 0, 0])
            assert right in (3, -3)
            mirrored += right < 0
            assert int(part[1, 0, 0]) - int(part[0, 0, 0]) == 180
        assert 10 < mirrored < 30


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [rate_at(step, 200) for step in range(200)]
    assert max(rates) == 1.0 == rates[10]
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rate_at(0, 1) == 1.0


def test_what_is_missing_is_told_first(
    model: Model, images: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before anything is calibrated."""
    request = Request(calibration=images, tune=True, work=tmp_path / "work")
    with pytest.raises(InputError, match="give --calibration"):
        quantize_model(model, Request(from_cache=tmp_path / "x", tune=True))
    strange = Model(type(model.proto)(), model.card)
    strange.proto.CopyFrom(model.proto)
    next(n for n in strange.proto.graph.node if n.op_type == "Softplus").op_type = "Erf"
    with pytest.raises(InputError, match="the operator Erf is not known"):
        quantize_model(strange, request)
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailableError, match="sees no GPU"):
            quantize_model(model, dataclasses.replace(request, device="cuda"))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"boxwright\[train\]"):
        quantize_model(model, request)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_are_counted_from_one(steps: int) -> None:
    with pytest.raises(InputError, match="1 step"):
        Settings(steps=steps)


def test_a_graph_of_a_fixed_number_of_images(model: Model, images: list[Path]) -> None:
    fixed = Model(type(model.proto)(), model.card)
    fixed.proto.CopyFrom(model.proto)
    extent = fixed.proto.graph.input[0].type.tensor_type.shape.dim[0]
    extent.dim_value = 3
    with pytest.raises(InputError, match="3 images at a time"):
        Tuner(fixed, images, SHORT)


def test_a_graph_of_one_image_learns_from_one_at_a_time(model: Model, images: list[Path]) -> None:
    one = Model(type(model.proto)(), model.card)
    one.proto.CopyFrom(model.proto)
    one.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    float_model = calibrate(one, images)
    quantized = quantize(one, float_model, method="percentile", percentile=60, rules=RULES)
    found = Tuner(one, images, dataclasses.replace(SHORT, steps=2)).tune(quantized)
    assert told(found)["batch"] == 1


class TestInASearch:
    def test_it_is_tried_measured_and_kept_where_it_helps(
        self, model: Model, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def quick(steps: int, **others: Any) -> Settings:
            return Settings(steps, rates=SHORT.rates, **others)

        monkeypatch.setattr("boxwright.quantize.job.Settings", quick)
        request = Request(
            calibration=images,
            method="percentile",
            percentile=50,
            rules=RULES,
            max_drop=100,
            tune=True,
            tune_steps=80,
            bias=False,
            work=tmp_path,
        )
        found = quantize_model(model, request)
        assert found.budget is not None
        ranges, tuning = found.budget.candidates
        assert tuning.step == "fine-tuning"
        assert tuning.variant == dataclasses.replace(ranges.variant, tuned=True)
        assert tuning.drop < ranges.drop
        assert found.budget.chosen == tuning
        assert found.quantized is not None
        assert told(found.quantized)["best_step"]
        # The same command again does nothing of it anew.
        again = quantize_model(model, request)
        assert again.budget is not None
        assert [item.seconds for item in again.budget.candidates] == [0.0, 0.0]
        assert again.model.proto.SerializeToString() == found.model.proto.SerializeToString()

    def test_what_it_says_of_layers_in_float_is_the_same_in_the_table_and_on_the_card(
        self, model: Model, images: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Copying:
            key: ClassVar[dict[str, Any]] = {}

            def tune(self, quantized: Quantized, progress: object) -> Quantized:
                return quantized

        calibration = calibrate(model, images)
        workshop = Workshop(
            *(model, calibration),
            rules=RULES,
            tuner=Copying(),  # type: ignore[arg-type]
        )
        name = workshop.layers[-1]
        variant = Variant(keep=frozenset({name}), tuned=True)
        workshop.make(variant)
        found = workshop.make(variant, why={name: "a reason"})
        assert [layer.reason for layer in found.placement.layers if layer.reason] == ["a reason"]
        assert found.model.card.transforms[-1].effect["kept_in_float"] == {"a reason": 1}

    def test_where_it_does_not_help_the_reason_is_told(
        self, model: Model, images: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Tuner, "tune", lambda self, quantized, progress: quantized)
        found = quantize_model(
            model,
            Request(calibration=images, method="minmax", rules=RULES, images=images, tune=True),
        )
        assert found.budget is not None
        assert not found.budget.chosen.variant.tuned  # type: ignore[union-attr]
        assert any("fine-tuned model was not taken" in note for note in found.notes)
