"""The public names are exactly these; adding or losing one is a decision, not an accident."""

from __future__ import annotations

import subprocess
import sys

import pytest

import boxwright

PUBLIC = [
    "Backend",
    "BoxwrightError",
    "Detections",
    "Detector",
    "Engine",
    "Model",
    "ModelCard",
    "Runner",
    "__version__",
    "build",
    "errors",
    "import_model",
    "import_torch",
    "load",
]


def test_the_public_names_are_exactly_these() -> None:
    assert boxwright.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(boxwright))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(boxwright, name) is not None


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'detect_all'"):
        boxwright.detect_all  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import boxwright, sys; print(*sorted(m.split('.')[0] for m in sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "onnx", "onnxruntime", "cv2", "PIL", "click", "rich"} & set(loaded)
