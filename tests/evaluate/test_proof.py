"""What an engine is said to compute in, and held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boxwright import backends
from boxwright.backends import selection
from boxwright.backends.base import BuildSpec
from boxwright.engine import Engine
from boxwright.errors import InputError
from boxwright.evaluate import contenders, parity, proof
from boxwright.evaluate.proof import precision_of, prove
from boxwright.evaluate.tolerances import Tolerances
from tests.models import make_images, make_model


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return backends.build(make_model(), output=tmp_path / "engine.bw")


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> list[Tolerances]:
    """The tolerances that comparisons were made with."""
    seen: list[Tolerances] = []

    def compare(subject: Any, reference: Any, pixels: Any, tolerances: Any, **rest: Any) -> Any:
        seen.append(tolerances)
        return parity.compare(subject, reference, pixels, tolerances, **rest)

    monkeypatch.setattr(proof, "compare", compare)
    return seen


def plan(precision: str) -> str:
    return f"onnxruntime_1+2_cpu_{precision}_b1-1-16"


@pytest.mark.parametrize(
    ("asked", "built", "computes"),
    [
        ("fp32", plan("fp32"), "fp32"),
        ("fp16", plan("fp16"), "fp16"),
        # The runtime was told to compute a float32 graph in less.
        ("fp32", plan("fp32+tf32"), "tf32"),
        ("fp32", plan("fp32+bf16"), "bf16"),
        ("fp32", "of another form", "fp32"),
    ],
)
def test_what_a_plan_computes_in_is_in_its_fingerprint(
    engine: Engine,
    accepted: list[Tolerances],
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    built: str,
    computes: str,
) -> None:
    spec = BuildSpec(precision=asked)  # type: ignore[arg-type]  # one of the table's
    choice = selection.Choice("onnxruntime", spec, built)
    # What runs stays the engine as it is: only what is said of it changes.
    model = engine.model()
    monkeypatch.setattr(proof, "consistency_of", lambda *_, **__: [])
    with monkeypatch.context() as patch:
        patch.setattr(selection, "choose", lambda *_, **__: choice)
        assert precision_of(engine) == computes
    monkeypatch.setattr(proof, "precision_of", lambda *_: computes)
    prove(engine, model, make_images(model, 2))
    assert accepted == [Tolerances.of_precision(computes)]


def test_a_model_is_float32_and_tolerances_given_are_kept(accepted: list[Tolerances]) -> None:
    assert precision_of(make_model()) == "fp32"
    loose = Tolerances.random_weights()
    model = make_model()
    prove(model, model, make_images(model, 2), tolerances=loose)
    prove(model, model, make_images(model, 2))
    assert accepted == [loose, Tolerances()]


def test_bare_tensorrt_runs_a_plan_and_no_model() -> None:
    with pytest.raises(InputError, match="boxwright build --backend tensorrt, then bench"):
        contenders._bare(make_model(), "tensorrt", "auto", 1)
