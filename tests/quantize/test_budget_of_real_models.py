"""A trained network within its budget, on labelled photos it was not calibrated on."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwright import datasets
from boxwright.images import find_images
from boxwright.importers import import_model
from boxwright.quantize.job import Request, quantize_model

pytest.importorskip("faster_coco_eval")

pytestmark = pytest.mark.slow


def test_yolo_fastest_keeps_to_its_budget(fixtures_dir: Path, tmp_path: Path) -> None:
    folder = fixtures_dir / "darknet" / "yolo-fastest"
    model = import_model(folder / "yolo-fastest-1.1-xl.weights", names=folder / "coco.names")
    labels = next((fixtures_dir / "coco-tiny" / "annotations").glob("*.json"))
    dataset = datasets.open(labels, images=fixtures_dir / "coco-tiny" / "val2017")
    calibration = find_images([str(fixtures_dir / name) for name in ("photos", "coco8/images")])
    request = Request(calibration=calibration, dataset=dataset, max_drop=0.2, work=tmp_path)
    found = quantize_model(model, request)
    assert found.budget is not None
    assert found.budget.float_value == pytest.approx(21.17, abs=0.05)
    by_method = {item.variant.method: item.drop for item in found.budget.candidates[:4]}
    # Depthwise layers with long tails: the largest value is no range for them.
    assert by_method["minmax"] > 3.0
    assert by_method["entropy"] < 1.0
    assert found.met
    assert found.quantized is not None
    assert found.budget.chosen is not None
    assert found.budget.chosen.drop <= 0.2
    # A few layers in float are enough.
    assert len(found.quantized.placement.quantized) > 0.75 * len(found.quantized.placement.layers)
