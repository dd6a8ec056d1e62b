"""Whole detectors beside MXNet, suppression included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import boxwright
from boxwright.importers import choose, make_request
from boxwright.importers.mxnet.oracle import TOLERANCE
from boxwright.postprocess import Postprocessor
from boxwright.preprocess import Geometry
from tests.importers.mxnet.detectors import CLASSES, DETECTORS, SIZE

NAMES = tuple("abc")


def rows_of_mxnet(outputs: list[NDArray[Any]], image: int) -> NDArray[np.float32]:
    """``[class, score, x1, y1, x2, y2]`` of what MXNet kept, best first."""
    if len(outputs) == 1:  # MultiBoxDetection, in fractions of the image
        rows = outputs[0][image].copy()
        rows[:, 2:] *= SIZE
    else:
        rows = np.concatenate([output[image] for output in outputs], axis=1)
    # MXNet clips before it suppresses, and keeps what nothing is left of.
    solid = (rows[:, 0] >= 0) & (rows[:, 4] > rows[:, 2]) & (rows[:, 5] > rows[:, 3])
    kept: NDArray[np.float32] = rows[solid]
    return kept


@pytest.mark.parametrize("name", DETECTORS)
def test_what_is_detected(name: str, detectors: Path) -> None:
    model = boxwright.import_model(
        detectors / f"{name}-0000.params", names=NAMES, size=SIZE if "cv" in name else None
    )
    assert model.card.input_size == (SIZE, SIZE)
    assert model.card.family == name.replace("_", "-")
    with np.load(detectors / f"{name}.npz") as arrays:
        pixels, *outputs = (arrays[f"arr_{i}"] for i in range(len(arrays.files)))
    with boxwright.load(model) as runner:
        ours = runner.infer({"images": pixels})
    assert ours["scores"].shape[2] == CLASSES
    geometry = Geometry((SIZE, SIZE), (SIZE, SIZE), (SIZE, SIZE))
    finish = Postprocessor(model.card, score_threshold=0.01, clip=False)
    for image in range(len(pixels)):
        expected = rows_of_mxnet(outputs, image)
        found = finish(ours["boxes"][image], ours["scores"][image], geometry)
        assert len(found) == len(expected) > 20
        assert len(set(expected[:, 0])) > 1
        got = np.concatenate([found.class_id[:, None], found.score[:, None], found.xyxy], axis=1)
        # Of equal scores the order is nobody's promise.
        got, expected = (rows[np.lexsort(rows[:, [2, 0]].T.round(2))] for rows in (got, expected))
        assert np.abs(got[:, :2] - expected[:, :2]).max() < 1e-5
        assert np.abs(got[:, 2:] - expected[:, 2:]).max() < SIZE * 1e-5


@pytest.mark.parametrize("name", DETECTORS)
def test_verify(name: str, detectors: Path) -> None:
    request = make_request(
        detectors / f"{name}-symbol.json", names=NAMES, size=SIZE if "cv" in name else None
    )
    importer: Any = choose(request)
    model = importer.load(request)
    verification = importer.verify(request, model)
    assert verification.passed
    assert verification.against == "MXNet 1.9.1"
    broken = boxwright.Model(
        type(model.proto).FromString(model.proto.SerializeToString()), model.card
    )
    for tensor in broken.proto.graph.initializer:
        if tensor.name.endswith("/weights"):
            values = np.frombuffer(tensor.raw_data, np.float32) * np.float32(1.01)
            tensor.raw_data = values.tobytes()
    verification = importer.verify(request, broken)
    assert not verification.passed
    assert max(check.difference for check in verification.checks) > TOLERANCE


@pytest.mark.parametrize("folder", ["retinaface-mnet25", "insightface-genderage"])
def test_trained_networks(folder: str, fixtures_dir: Path, mxnet_python: str) -> None:
    (params,) = (fixtures_dir / "mxnet" / folder).glob("*.params")
    request = make_request(params, size=320 if "retina" in folder else None)
    importer: Any = choose(request)
    verification = importer.verify(request, importer.load(request))
    assert verification.passed, verification.checks
    assert max(check.difference for check in verification.checks) < 1e-5
