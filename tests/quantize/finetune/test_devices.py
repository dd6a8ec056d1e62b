"""Where PyTorch computes, and how exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from boxwright.errors import BackendUnavailableError, InputError
from boxwright.model import Model
from boxwright.quantize.finetune.training import exact
from boxwright.quantize.finetune.tune import Tuner
from boxwright.quantize.quantizer import Quantized
from tests.quantize.finetune.short import SHORT

pytest.importorskip("torch", reason="PyTorch is not installed")


def error_told(found: Quantized) -> Any:
    return found.model.card.transforms[-1].parameters["fine_tuning"]["error"]


def test_a_gpu_learns_what_a_cpu_learns(
    model: Model, images: list[Path], quantized: Quantized
) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU here")
    errors = [
        error_told(Tuner(model, images, dataclasses.replace(SHORT, device=device)).tune(quantized))
        for device in ("cpu", "cuda")
    ]
    # Both float32, summed in another order; a value at the border of a step may fall to either
    # side of it, and training goes on from there.
    assert errors[1]["before"] == pytest.approx(errors[0]["before"], rel=1e-2)
    assert errors[1]["after"] == pytest.approx(errors[0]["after"], rel=5e-2)


def test_a_gpu_would_compute_in_float32() -> None:
    """TF32, as convolutions are in by default, is coarser than what is learnt."""
    import torch

    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("PyTorch before 2.9 has other switches")

    def allowed() -> tuple[str, str]:
        return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision

    before = allowed()
    assert before[0] == "tf32"
    with exact(torch):
        assert allowed() == ("ieee", "ieee")
        assert torch.are_deterministic_algorithms_enabled()
    assert allowed() == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_teacher_and_student_are_computed_so(
    model: Model, images: list[Path], quantized: Quantized
) -> None:
    import torch

    seen: dict[str, set[bool]] = {}

    def note(stage: str, done: int, total: int | None) -> None:
        seen.setdefault(stage, set()).add(torch.are_deterministic_algorithms_enabled())

    Tuner(model, images, dataclasses.replace(SHORT, steps=2)).tune(quantized, note)
    assert seen["look at the float model"] == seen["fine-tuning"] == {True}


def test_an_older_pytorch_is_told_by_its_own_switches() -> None:
    convolutions, products = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=True)
    older = SimpleNamespace(
        backends=SimpleNamespace(cudnn=convolutions, cuda=SimpleNamespace(matmul=products)),
        are_deterministic_algorithms_enabled=lambda: False,
        is_deterministic_algorithms_warn_only_enabled=lambda: False,
        use_deterministic_algorithms=lambda on, warn_only: None,
    )
    with exact(older):
        assert (convolutions.allow_tf32, products.allow_tf32) == (False, False)
    assert (convolutions.allow_tf32, products.allow_tf32) == (True, True)


@pytest.mark.parametrize(
    ("device", "error", "reason"),
    [
        ("cuda:2", BackendUnavailableError, "sees 2 GPUs here, counted from 0; got cuda:2"),
        ("cuda:abc", InputError, "must be 'auto', 'cpu', 'cuda' or 'cuda:N', got 'cuda:abc'"),
        ("cudax", InputError, "must be 'auto', 'cpu', 'cuda' or 'cuda:N', got 'cudax'"),
    ],
)
def test_a_gpu_that_is_not_there_is_told_first(
    device: str,
    error: type[Exception],
    reason: str,
    model: Model,
    images: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(error, match=reason):
        Tuner(model, images, dataclasses.replace(SHORT, device=device))
