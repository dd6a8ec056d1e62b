"""Darknet itself is the judge: the same pixels, the same heads, the same boxes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.evaluate.parity import compare
from boxwright.evaluate.tensors import nrmse
from boxwright.model import BOXES, SCORES
from tests.oracle.conftest import SEEDED, SEEDED_SLOW, TRAINED, Case
from tests.oracle.numpy_darknet import parse_cfg
from tests.oracle.numpy_heads import DECODERS
from tests.oracle.numpy_layers import sigmoid


def test_every_recorded_network_is_tested(oracle_dir: Path) -> None:
    recorded = {path.stem for path in oracle_dir.glob("*.npz")}
    assert recorded == {f"real_{name}" for name in TRAINED} | {*SEEDED, *SEEDED_SLOW}


def test_raw_heads(case: Case) -> None:
    tolerance = 1e-4 if case.trained else 1e-3
    assert len(case.model.card.heads) == len(case.reference.heads)
    for head, name in zip(case.model.card.heads, case.reference.heads, strict=True):
        recorded = case.reference.tensors[name]
        raw = case.outputs[head.tensor]
        assert raw.shape == recorded.shape
        assert nrmse(raw.reshape(-1)[recorded.at], recorded.values) < tolerance


def test_candidates_and_detections(case: Case) -> None:
    # Over 0.005 hundreds of boxes overlap; with random weights thousands of scores tie there.
    thresholds = (0.25, 0.005) if case.trained else (0.25,)
    tolerances = dataclasses.replace(case.tolerances, detection_thresholds=thresholds)
    report = compare(case.model, case.reference, case.images, tolerances)
    assert report.ok, report.summary()
    candidates, detections, *low = report.boxes
    assert (candidates.stage, candidates.threshold) == ("candidates", 0.005)
    assert (detections.stage, detections.threshold) == ("detections", 0.25)
    # What Darknet lists is a finding of its own: an empty comparison would pass, too.
    assert candidates.matched == candidates.reference_count > 0
    if case.trained:
        assert candidates.count == candidates.reference_count
        assert detections.matched == detections.count == detections.reference_count > 0
        assert low[0].matched == low[0].count == low[0].reference_count > detections.count
        assert candidates.box_error < 1e-3
        assert candidates.score_error < 1e-4


def test_head_outputs(case: Case) -> None:
    """What Darknet's head layer itself gives, from our raw head by the documented formulas."""
    sections = parse_cfg(case.cfg.read_text())[1:]
    for head, name in zip(case.model.card.heads, case.reference.heads, strict=True):
        index = int(name.removeprefix("head").removesuffix("_in"))
        recorded = case.reference.tensors[f"head{index}_out"]
        computed = head_output(sections[index], case.outputs[head.tensor][0])
        assert nrmse(computed.reshape(-1)[recorded.at], recorded.values) < (
            1e-4 if case.trained else 1e-3
        )


def test_decoding_of_every_row(case: Case) -> None:
    """All rows in Darknet's order of candidates, against numpy on the same raw heads."""
    sections = [s for s in parse_cfg(case.cfg.read_text()) if s[""] in DECODERS]
    height, width = case.model.card.input_size
    start = 0
    for section, head in zip(sections, case.model.card.heads, strict=True):
        raw = case.outputs[head.tensor][0].astype(np.float64)
        boxes, scores = DECODERS[section[""]](section, raw, (height, width))
        rows = slice(start, start + head.rows)
        start += head.rows
        side = np.maximum(1, boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)
        error = np.abs(case.outputs[BOXES][0, rows] - boxes) / np.maximum(side, height)
        assert error.max() < 1e-5
        np.testing.assert_allclose(case.outputs[SCORES][0, rows], scores, rtol=0, atol=1e-5)
    assert start == case.outputs[BOXES].shape[1]


def head_output(section: dict[str, str], raw: NDArray[Any]) -> NDArray[Any]:
    """A head layer's output: yolo and Gaussian as ``(n * k, H, W)``, region cell by cell."""
    if section[""] == "region":
        count = int(section["num"])
        cells = raw.reshape(count, -1, *raw.shape[1:]).transpose(2, 3, 0, 1).copy()
        cells[..., 4] = sigmoid(cells[..., 4])
        powers = np.exp(cells[..., 5:] - cells[..., 5:].max(axis=-1, keepdims=True))
        cells[..., 5:] = powers / powers.sum(axis=-1, keepdims=True)
        return cells
    count = len(section["mask"].split(","))
    scale = float(section.get("scale_x_y", "1"))
    anchors = raw.reshape(count, -1, *raw.shape[1:])
    gaussian = section[""] == "gaussian_yolo"
    result: NDArray[Any] = anchors.copy()
    if section.get("new_coords", "0") != "1":
        # Width and height keep their raw form; a Gaussian head has an uncertainty after each.
        raw_entries = (4, 6) if gaussian else (2, 3)
        result = sigmoid(anchors)
        result[:, raw_entries] = anchors[:, raw_entries]
    places = (0, 2) if gaussian else (0, 1)
    result[:, places] = result[:, places] * scale - (scale - 1) / 2
    return result


def test_the_meta_of_a_reference_is_what_the_cfg_says(oracle_dir: Path) -> None:
    """Guards the tests above against reading another cfg than Darknet read."""
    for path in sorted(oracle_dir.glob("cfg/*.cfg")):
        sections = parse_cfg(path.read_text())[1:]
        with np.load(oracle_dir / f"{path.stem}.npz") as arrays:
            for index in arrays["head_index"]:
                meta = json.loads(str(arrays[f"head{index}_meta"]))
                assert sections[index][""] == meta["type"].lower()
                assert int(sections[index]["classes"]) == meta["classes"]
