"""A small model, images to learn from, and what there is to learn."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxwright.model import Model
from boxwright.quantize.calibration import calibrate
from boxwright.quantize.quantizer import Quantized, quantize
from tests.models import make_model
from tests.quantize.finetune.short import RULES
from tests.quantize.test_calibration import write_images


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine, threads that wait for each other take ten times as long."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Model:
    made = make_model()
    return made.with_card(dataclasses.replace(made.card, score_threshold=0.05))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images") / "images", 10)


@pytest.fixture(scope="module")
def quantized(model: Model, images: list[Path]) -> Quantized:
    """Over ranges that are much too narrow, so that there is something to learn."""
    found = calibrate(model, images)
    return quantize(model, found, method="percentile", percentile=60, rules=RULES)
