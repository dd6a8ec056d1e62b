"""Reference dumps: ours, and those made from Darknet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from boxwright.errors import InputError
from boxwright.evaluate.dump import DUMP_KEY, read_dump, write_dump
from boxwright.evaluate.npz import read_npz, write_npz
from boxwright.evaluate.parity import compare
from boxwright.evaluate.reference import SampledTensor
from boxwright.model import BOXES, SCORES
from tests.evaluate.fakes import FakeRunner, make_card, make_images, make_outputs


def test_a_dump_brings_its_pixels_and_agrees_with_its_maker(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    images = make_images(3)
    written = write_dump(FakeRunner(make_outputs()), images, path)
    read = read_dump(path)
    assert read.heads == written.heads == ("raw",)
    assert read.count == 3
    assert read.images is not None
    np.testing.assert_array_equal(read.images, images)
    report = compare(FakeRunner(make_outputs()), path, card=make_card())
    assert report.ok
    assert report.images == 3
    assert {tensor.name for tensor in report.tensors} == {"raw", BOXES, SCORES}
    assert not compare(FakeRunner(make_outputs(seed=1)), path, card=make_card()).ok


def test_other_pixels_than_the_dumps_are_refused(tmp_path: Path) -> None:
    write_dump(FakeRunner(make_outputs()), make_images(), tmp_path / "a.npz")
    other = make_images()
    other[0, 0, 0, 0] ^= 1
    with pytest.raises(InputError, match="other pixels"):
        compare(FakeRunner(make_outputs()), tmp_path / "a.npz", other, card=make_card())


def darknet_arrays() -> dict[str, NDArray[Any]]:
    boxes = np.array([[2, 0.9, 0.5, 0.25, 0.2, 0.1, 0.95, 0]], np.float32)
    return {
        "net_whc": np.array([60, 40, 3]),
        "head_index": np.array([7]),
        "head_type": np.array(["YOLO"]),
        "head7_in": np.array([1, 2], np.float32),
        "head7_in_at": np.array([5, 0], np.int32),
        "head7_in_shape": np.array([4, 5, 5]),
        "head7_out": np.array([3], np.float32),
        "head7_out_at": np.array([99], np.int32),
        "head7_out_shape": np.array([4, 5, 5]),
        "boxes_raw_005": np.repeat(boxes, 3, axis=0),
        "boxes_005": boxes,
        "boxes_025": boxes[:0],
    }


def test_a_darknet_dump_in_our_terms(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", darknet_arrays())
    reference = read_dump(tmp_path / "a.npz")
    assert reference.input_size == (40, 60)
    assert reference.heads == ("head7_in",)
    assert reference.tensors["head7_in"].shape == (1, 4, 5, 5)
    (candidates,) = reference.candidates[0.005]
    assert (len(candidates), candidates.truncated) == (3, False)
    np.testing.assert_allclose(candidates.xyxy[0], [24, 8, 36, 12], rtol=1e-6)
    assert candidates.class_id.tolist() == [2, 2, 2]
    np.testing.assert_allclose(candidates.score, 0.9, rtol=1e-6)
    assert set(reference.detections) == {0.005, 0.25}
    assert len(reference.detections[0.25][0]) == 0


def test_a_list_of_exactly_the_limit_may_be_cut(tmp_path: Path) -> None:
    arrays = darknet_arrays()
    arrays["boxes_raw_005"] = np.repeat(arrays["boxes_005"], 20_000, axis=0)
    write_npz(tmp_path / "a.npz", arrays)
    assert read_dump(tmp_path / "a.npz").candidates[0.005][0].truncated


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head7_in_at": None}, "head7_in_at"),
        ({"head7_in_at": np.array([5, 100])}, "places"),
        ({"head7_in_at": np.array([5, -1])}, "places"),
        ({"head7_in_at": np.array([5])}, "one place per value"),
        ({"net_whc": np.array([0, 40, 3])}, "input"),
        ({"net_whc": np.array([60])}, "malformed"),
        ({"head_index": np.arange(1000)}, "1000 heads"),
        ({"boxes_005": np.zeros((2, 3), np.float32)}, "rows of 8"),
        ({"boxes_005": np.full((1, 8), np.nan, np.float32)}, "class"),
        ({"boxes_005": np.full((1, 8), -1, np.float32)}, "class"),
        ({"head7_in": np.array(["a", "b"])}, "malformed"),
    ],
)
def test_a_malformed_darknet_dump(
    tmp_path: Path, changes: dict[str, NDArray[Any] | None], reason: str
) -> None:
    arrays = {k: v for k, v in (darknet_arrays() | changes).items() if v is not None}
    write_npz(tmp_path / "a.npz", arrays)
    with pytest.raises(InputError, match=reason):
        read_dump(tmp_path / "a.npz")


def note(**changes: object) -> NDArray[np.uint8]:
    content = {"schema": 1, "name": "x", "heads": ["raw"]} | changes
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({DUMP_KEY: np.frombuffer(b"{", np.uint8)}, "malformed"),
        ({DUMP_KEY: note(schema=2)}, "schema"),
        ({DUMP_KEY: note(heads=["other"])}, "other"),
        ({DUMP_KEY: note(heads=3)}, "malformed"),
        ({"images": make_images().astype(np.float32)}, "uint8"),
        ({"images": make_images()[0]}, "uint8"),
        ({"raw": np.zeros((2, 4), np.float32)}, "1 images"),
        ({"raw": np.array(["text"])}, "numbers"),
        ({"raw": np.array(1.0)}, "1 images"),
    ],
)
def test_a_malformed_native_dump(
    tmp_path: Path, changes: dict[str, NDArray[Any]], reason: str
) -> None:
    write_dump(FakeRunner(make_outputs()), make_images(), tmp_path / "a.npz")
    write_npz(tmp_path / "b.npz", read_npz(tmp_path / "a.npz") | changes)
    with pytest.raises(InputError, match=reason):
        read_dump(tmp_path / "b.npz")


def test_an_npz_that_is_no_dump(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {"x": np.ones(3)})
    with pytest.raises(InputError, match="not a reference dump"):
        read_dump(tmp_path / "a.npz")


def test_a_sample_of_a_batch_by_image() -> None:
    tensor = SampledTensor((3, 2, 2), np.array([1.0, 2, 3]), np.array([11, 4, 7]))
    first, second, third = (tensor.of_image(index) for index in range(3))
    assert (first.values.tolist(), second.values.tolist()) == ([], [2, 3])
    assert second.at is not None
    assert second.at.tolist() == [0, 3]
    assert third.at is not None
    assert third.at.tolist() == [3]
