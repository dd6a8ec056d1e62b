"""What needs TensorFlow: Keras files, and comparing with the source.

Runs where ``$BOXWRIGHT_TENSORFLOW_PYTHON`` names a python that has it, or this one has.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from boxwright.errors import ImportFailedError
from boxwright.importers.registry import choose, make_request
from boxwright.importers.tensorflow import IMPORTER

HERE = Path(__file__).parent
PYTHON = os.environ.get("BOXWRIGHT_TENSORFLOW_PYTHON") or (
    sys.executable if importlib.util.find_spec("tensorflow") else None
)
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="no TensorFlow; set BOXWRIGHT_TENSORFLOW_PYTHON to a python with it"
)
OPTIONS: dict[str, Any] = {
    "scale": 1,
    "box": "yxyx",
    "normalised": True,
    "activation": "none",
    "background": "none",
}

_MAKE = """
import sys
sys.path.insert(0, sys.argv[1])
import make_golden, tensorflow as tf
model = make_golden.network()
make_golden.randomise(model)
for name in ("model.keras", "model.h5"):
    model.save(f"{sys.argv[2]}/{name}")
image = tf.keras.Input((8, 8, 3))
lambda_ = tf.keras.layers.Lambda(lambda x: x * 2)(image)
model = tf.keras.Model(image, tf.keras.layers.Conv2D(4, 1)(lambda_))
for name in ("lambda.keras", "lambda.h5"):
    model.save(f"{sys.argv[2]}/{name}")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    assert PYTHON is not None
    subprocess.run([PYTHON, "-c", _MAKE, str(HERE), str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_keras_files_are_what_tensorflow_computes(name: str, made: Path) -> None:
    request = make_request(made / name, head="ssd", names=["a", "b", "c"], options=OPTIONS)
    assert choose(request).name == "tensorflow"
    model = IMPORTER.load(request)
    verification = IMPORTER.verify(request, model)
    assert verification.passed, verification
    assert len(verification.checks) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lambda.keras", "lambda.h5"])
def test_keras_files_with_code_are_refused(name: str, made: Path) -> None:
    with pytest.raises(ImportFailedError, match="it holds a Lambda layer"):
        IMPORTER.load(make_request(made / name, options=OPTIONS))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saved_model", "frozen.pb", "float.tflite", "int8.tflite"])
def test_golden_files_are_what_tensorflow_computes(name: str) -> None:
    options = {k: v for k, v in OPTIONS.items() if k != "scale" or name != "int8.tflite"}
    request = make_request(
        HERE / "golden" / name, head="ssd", names=["a", "b", "c"], options=options
    )
    verification = IMPORTER.verify(request, IMPORTER.load(request))
    assert verification.passed, verification


@pytest.mark.slow
def test_a_wrong_model_does_not_pass() -> None:
    golden = HERE / "golden"
    request = make_request(golden / "frozen.pb", head="ssd", options=OPTIONS)
    model = IMPORTER.load(request)
    for tensor in model.proto.graph.initializer:
        if "weights" in tensor.name and len(tensor.raw_data) > 100:
            tensor.raw_data = bytes(len(tensor.raw_data))
            break
    assert not IMPORTER.verify(request, model).passed
