"""A small model, and images to calibrate it on and others."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwright.model import Model
from tests.models import make_model
from tests.quantize.test_calibration import write_images


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("calibration") / "images", 6)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("others") / "images", 4, seed=9)
